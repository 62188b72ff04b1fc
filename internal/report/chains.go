// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"encoding/json"
	"fmt"
	"io"

	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/failure"
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

// chainJSON is the JSON form of a chain.
type chainJSON struct {
	Package string         `json:"package"`
	Version string         `json:"version"`
	Kernel  string         `json:"kernel"`
	Arch    string         `json:"arch"`
	OK      bool           `json:"ok"`
	Links   []explain.Link `json:"links"`
}

// ChainsJSON writes chains as one JSON object, whose schema is 1.
func ChainsJSON(w io.Writer, chains []explain.Chain) error {
	list := []chainJSON{}
	for _, c := range chains {
		list = append(list, chainJSON{c.Name, c.Version, c.Kernel.Release, c.Kernel.Arch, c.Cause() == nil, c.Links})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(struct {
		Schema int         `json:"schema"`
		Chains []chainJSON `json:"chains"`
	}{1, list})
}
