// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"slices"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// match installs for one kernel what is installed for another.
func (c *classicRun) match() error {
	if c.Templatekernel == "" {
		return usage(failure.StatusUsage, "match needs --templatekernel")
	}
	k, err := c.kernel()
	if err != nil {
		return err
	}
	release, arch, given := strings.Cut(c.Templatekernel, "/")
	if !given {
		arch = k.Arch
	}
	template := tree.Target{Release: release, Arch: arch}
	if template == k {
		return usage(failure.StatusNotFound, "--templatekernel and -k are the same kernel")
	}
	only, err := c.name()
	if err != nil {
		return err
	}
	packages, err := c.m.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+c.m.Tree.Dir, failure.StatusNoPerm)
	}
	packages = slices.DeleteFunc(packages, func(p tree.Package) bool { return p.Kept })
	if only.Name != "" && !slices.ContainsFunc(packages, func(p tree.Package) bool { return p.Name == only.Name }) {
		return &failure.Failure{What: only.Name + " is not in the DKMS tree", Status: failure.StatusAlready, Hint: "dkms status shows what is there"}
	}
	ids := []tree.ID{}
	for _, p := range packages {
		b, _ := p.Build(template)
		if b.Installed && (only.Name == "" || p.Name == only.Name) && (only.Version == "" || p.ID.Version == only.Version) {
			ids = append(ids, p.ID)
		}
	}
	if len(ids) == 0 {
		c.text.Note("nothing is installed for " + template.String())
		return nil
	}
	results, err := c.e.Sync(c.ctx, engine.Request{
		Request: plan.Request{Only: ids, Goal: plan.Installed, Retry: true},
		Kernels: []tree.Target{k}, Execute: c.options(),
	})
	if err != nil {
		return err
	}
	return c.worst(results)
}
