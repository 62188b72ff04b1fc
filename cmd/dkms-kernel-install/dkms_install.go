// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
)

// install builds a package, and installs it if that is the goal.
func (c *classicRun) install(goal plan.Goal) error {
	if c.All {
		return usage(failure.StatusNoAll, "%s does not take --all", c.Action)
	}
	ks, err := c.kernels()
	if err != nil {
		return err
	}
	s, err := c.source()
	if err != nil {
		return err
	}
	in, err := c.e.Install(c.ctx, s, engine.Request{
		// Retry, as somebody asked for this package.
		Request: plan.Request{Goal: goal, Force: c.Force, Dependents: goal == plan.Installed, Retry: true},
		Kernels: ks, Execute: c.options(),
	})
	if err != nil {
		return err
	}
	switch {
	case slices.ContainsFunc(in.Results, func(r execute.Result) bool { return r.Outcome != execute.Current }):
		return c.worst(in.Results)
	case goal == plan.Built && in.Loaded:
		return nil // it came with the archive
	}
	state, again := "built", "to build it again, use --force"
	if goal == plan.Installed {
		state, again = "installed", "to install it again, use --force"
	}
	if why := c.e.Stale(c.ctx, in.ID, ks); why != "" {
		state, again = state+", but "+why, "to build it again: dkms build --force"
	}
	c.text.Note(fmt.Sprintf("%s is already %s; %s", in.ID, state, again))
	return nil
}
