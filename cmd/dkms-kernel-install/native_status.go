// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

type nativeStatus struct {
	Kernel string `arg:"" optional:"" help:"Only this kernel."`
	JSON   bool   `name:"json" help:"Write a JSON array, for programs."`
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
			return report.StatusJSON(r.p.stdout, list)
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
		return nil
	})
}
