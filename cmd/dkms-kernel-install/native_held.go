// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"io"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

type nativeHeld struct{}

// Run prints the kernels for which the plugin would now fail, or build what is required.
func (c *nativeHeld) Run(r *nativeRun) error {
	silent := report.NewText(io.Discard, "", false, false)
	quiet := nativeRun{r.p, r.ctx, silent, silent}
	return quiet.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		if len(m.Settings.RequiredPackages) == 0 || m.Disabled() != "" {
			return nil
		}
		all, err := m.Kernels.List()
		if err != nil {
			return failure.From(err, "cannot list the kernels", 1)
		}
		request := engine.Request{
			Request: plan.Request{Goal: plan.Installed, Match: m.Settings.Required},
			Kernels: []tree.Target{}, Execute: execute.Options{Follow: follow.Policy{DryRun: true}},
		}
		for _, release := range all {
			if k := m.Target(release); !m.HeadersAlone(k) {
				request.Kernels = append(request.Kernels, k)
			}
		}
		results, err := e.Sync(r.ctx, request)
		if err != nil {
			return err
		}
		for i := range results {
			if results[i].Outcome == execute.Planned {
				results[i].Outcome = execute.Failed // it is not there yet
			}
		}
		var last tree.Target
		for _, result := range e.Lacking(results) { // in the order of the kernels
			if result.Kernel != last {
				last = result.Kernel
				fmt.Fprintln(r.p.stdout, last.Release)
			}
		}
		return nil
	})
}
