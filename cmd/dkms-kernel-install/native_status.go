// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
	versions "dkms-kernel-install/internal/version"
)

type nativeStatus struct {
	Kernel string `arg:"" optional:"" help:"Only this kernel."`
	JSON   bool   `name:"json" help:"Write JSON, for programs."`
	Check  bool   `help:"End with 1 if anything is not as it should be: why says what."`
}

// Run prints the state of packages and builds, and which builds failed.
func (c *nativeStatus) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		matchKernel := func(k tree.Target) bool { return c.Kernel == "" || k.Release == c.Kernel }
		list, err := e.Status(func(tree.ID) bool { return true }, matchKernel)
		if err != nil {
			return err
		}
		failed := e.FailedBuilds(matchKernel)
		switch {
		case c.JSON:
			err = report.StatusJSON(r.p.stdout, list, failed)
		case len(list) == 0:
			r.text.Note("no packages are registered; to register one: dkms add NAME/VERSION")
		case terminal(r.p.raw):
			err = c.table(r, e, list, failed)
		default:
			for _, s := range list {
				fmt.Fprintln(r.p.stdout, report.StatusLine(s))
			}
			for _, f := range failed {
				r.text.Note(fmt.Sprintf("%s for %s: %s: %s (to try again: %s)", f.ID, f.Kernel.Release, f.What, f.Why, f.TryAgain))
			}
		}
		return cmp.Or(err, c.check(r, e))
	})
}

// table prints what people look at: a table for a terminal.
func (c *nativeStatus) table(r *nativeRun, e *engine.Engine, list []observe.Status, failed []observe.FailedBuild) error {
	m := e.Machine()
	kernels, err := c.kernels(m, list)
	if err != nil {
		return err
	}
	chains, err := e.Explain(r.ctx, kernels, "", "")
	if err != nil {
		return err
	}
	width, color := screen(r.p.raw)
	text := report.Overview(kernels, m.Target(m.Running), list, failed, chains).Text(width, color)
	_, err = io.WriteString(r.p.raw, text) // which is clean but for its colors
	return err
}

// kernels returns the kernels that status is about, the oldest first: those that are
// installed, and those that list has builds for.
func (c *nativeStatus) kernels(m *machine.Machine, list []observe.Status) (ks []tree.Target, err error) {
	releases, err := installedKernels(m)
	if err != nil {
		return nil, err
	}
	if c.Kernel != "" {
		releases = []string{c.Kernel}
	}
	for _, release := range releases {
		if k := m.Target(release); tree.CheckTarget(k) == nil {
			ks = append(ks, k)
		}
	}
	for _, s := range list {
		if s.Kernel.Release != "" && !slices.Contains(ks, s.Kernel) {
			ks = append(ks, s.Kernel)
		}
	}
	slices.SortFunc(ks, func(a, b tree.Target) int {
		return cmp.Or(versions.Compare(a.Release, b.Release), strings.Compare(a.Arch, b.Arch))
	})
	return ks, nil
}

// check returns an error if it is wanted and something is not as it should be.
func (c *nativeStatus) check(r *nativeRun, e *engine.Engine) error {
	if !c.Check {
		return nil
	}
	why := nativeWhy{}
	if c.Kernel != "" {
		why.Kernels = []string{c.Kernel}
	}
	kernels, err := why.kernels(e.Machine())
	if err != nil {
		return err
	}
	chains, err := e.Explain(r.ctx, kernels, "", "")
	if err == nil && slices.ContainsFunc(chains, explain.Chain.Wrong) {
		err = errNotWell
	}
	return err
}
