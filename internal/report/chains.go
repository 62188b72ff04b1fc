// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"fmt"
	"io"

	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/secureboot"
)

// Chains writes for each chain a line with its verdict: the link that is bad and what to do
// about it, or that all is well. If whole is set, all links follow.
func Chains(w io.Writer, chains []explain.Chain, whole bool) {
	if len(chains) == 0 {
		fmt.Fprintln(w, "all packages are as they should be")
	}
	for _, c := range chains {
		if cause := c.Cause(); cause == nil {
			fmt.Fprintf(w, "%s for %s: all is well\n", c.ID, c.Kernel.Release)
		} else {
			fmt.Fprintf(w, "%s for %s: %s: %s\n", c.ID, c.Kernel.Release, cause.Step, failure.Line(cause.Is))
			if cause.Do != "" {
				fmt.Fprintf(w, "  do:  %s\n", failure.Line(cause.Do))
			}
		}
		if !whole {
			continue
		}
		for _, l := range c.Links {
			fmt.Fprintf(w, "  %-7s  %-12s  %s\n", l.State, l.Step, failure.Line(l.Is))
			if l.Do != "" && l.State != explain.Good && (c.Cause() == nil || l.Step != c.Cause().Step) {
				fmt.Fprintf(w, "  %23s do: %s\n", "", failure.Line(l.Do))
			}
			if l.Log != "" {
				fmt.Fprintf(w, "  %23s log: %s\n", "", l.Log)
			}
			for _, line := range l.Context {
				fmt.Fprintf(w, "  %23s | %s\n", "", failure.Line(line))
			}
		}
	}
}

// verdicts are the verdicts on kernels, for people.
var verdicts = map[secureboot.Answer]string{
	secureboot.Yes: "will load what we place", secureboot.No: "will not load what we place", secureboot.Unknown: "unknown whether it loads what we place",
}

// Examination writes a line for each finding and for each kernel, and what to do.
func Examination(w io.Writer, e explain.Examination) {
	Links(w, e.Findings)
	for _, k := range e.Kernels {
		Links(w, []explain.Link{{Step: "kernel", State: k.State(), Is: fmt.Sprintf("%s: %s: %s (rule %s)", k.Kernel.Release, verdicts[k.Loads], k.Is, k.Rule), Do: k.Do}})
	}
}

// Links writes a line for each of list, and what to do.
func Links(w io.Writer, list []explain.Link) {
	for _, l := range list {
		fmt.Fprintf(w, "%-7s  %-12s  %s\n", l.State, l.Step, failure.Line(l.Is))
		if l.Do != "" {
			fmt.Fprintf(w, "%23s do: %s\n", "", failure.Line(l.Do))
		}
	}
}
