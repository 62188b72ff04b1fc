// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"cmp"
	"fmt"
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
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
		if c.JSON {
			err = report.StatusJSON(r.p.stdout, list, e.FailedBuilds(matchKernel))
			return cmp.Or(err, c.check(r, e))
		}
		if len(list) == 0 {
			r.text.Note("no packages are registered; to register one: dkms add NAME/VERSION")
		}
		for _, s := range list {
			fmt.Fprintln(r.p.stdout, report.StatusLine(s))
		}
		for _, f := range e.FailedBuilds(matchKernel) {
			r.text.Note(fmt.Sprintf("%s for %s: %s: %s (to try again: %s)", f.ID, f.Kernel.Release, f.What, f.Why, f.TryAgain))
		}
		return c.check(r, e)
	})
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
