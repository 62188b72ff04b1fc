// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bufio"
	"fmt"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

// status prints the state of packages.
func (c *classicRun) status() error {
	id, err := c.name()
	if err != nil {
		return err
	}
	var ks []tree.Target
	if len(c.Kernelver) > 0 {
		if ks, err = c.kernels(); err != nil {
			return err
		}
	}
	packages := func(p tree.ID) bool {
		return (id.Name == "" || p.Name == id.Name) && (id.Version == "" || p.Version == id.Version)
	}
	var list []observe.Status
	if ks == nil {
		list, err = c.e.Status(packages, func(k tree.Target) bool { return len(c.Arch) == 0 || slices.Contains(c.Arch, k.Arch) })
	}
	for _, k := range ks { // each says of which packages it has no build
		var more []observe.Status
		if more, err = c.e.Status(packages, func(other tree.Target) bool { return other == k }); err != nil {
			break
		}
		list = append(list, slices.DeleteFunc(more, func(s observe.Status) bool { return slices.Contains(list, s) })...)
	}
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.p.stdout)
	for _, s := range list {
		fmt.Fprintln(out, report.StatusLine(s))
		if s.State == observe.StateBroken {
			out.Flush()
			fmt.Fprintf(c.p.stderr, "%s: its source is gone; reinstall the package that brings it, or put the source back in %s\n",
				s.ID, filepath.Join(c.m.Settings.SourceTree, s.Name+"-"+s.ID.Version))
		}
	}
	return out.Flush()
}
