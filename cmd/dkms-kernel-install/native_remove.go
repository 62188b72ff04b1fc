// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

type nativeRemove struct {
	Kernel string `arg:"" help:"Kernel release. The kernel may be gone already."`
}

// Run removes what was built for a kernel.
func (c *nativeRemove) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		if err := tree.CheckTarget(e.Machine().Target(c.Kernel)); err != nil {
			return &failure.Failure{What: "this is not a kernel release", Why: err.Error(), Status: 1}
		}
		return r.report(e.RemoveKernel(r.ctx, c.Kernel, follow.Policy{}))
	})
}
