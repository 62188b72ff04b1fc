// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"fmt"
	"io"
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/fsck"
)

// Damage writes a line for each of list, and what a repair does about it.
func Damage(w io.Writer, list []fsck.Finding) {
	for _, f := range list {
		finding(w, f, "repair")
	}
}

// Repaired writes a line for each of found, which were repaired but for those that are left,
// and for what else is left.
func Repaired(w io.Writer, found, left []fsck.Finding) {
	is := func(f fsck.Finding) func(fsck.Finding) bool {
		return func(other fsck.Finding) bool { return f.Path == other.Path && f.Is == other.Is }
	}
	for _, f := range found {
		if !slices.ContainsFunc(left, is(f)) {
			finding(w, f, "repaired")
		}
	}
	for _, f := range left {
		finding(w, f, "NOT repaired")
	}
}

func finding(w io.Writer, f fsck.Finding, word string) {
	fmt.Fprintf(w, "%s: %s\n", f.Path, failure.Line(f.Is))
	if f.Do != "" {
		fmt.Fprintf(w, "  %s: %s\n", word, failure.Line(f.Do))
	}
	if f.Lost != "" {
		fmt.Fprintf(w, "  lost: %s\n", failure.Line(f.Lost))
	}
}
