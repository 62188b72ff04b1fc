// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"

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
		m := e.Machine()
		k := m.Target(c.Kernel)
		if err := tree.CheckTarget(k); err != nil {
			return &failure.Failure{What: "this is not a kernel release", Why: err.Error(), Status: 1}
		}
		there := m.Kernel(k).Exists()
		results, err := e.RemoveKernel(r.ctx, c.Kernel, follow.Policy{})
		if err == nil && len(results) == 0 && !there {
			r.text.Note(fmt.Sprintf("there is no kernel %q, and nothing was built for it; ls %s shows the kernels", c.Kernel, m.Kernels.Modules))
		}
		return r.report(results, err)
	})
}
