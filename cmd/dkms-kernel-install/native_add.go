// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/machine"
)

type nativeAdd struct {
	Kernel []string `arg:"" help:"Kernel releases, as uname -r prints them."`
	Force  bool     `help:"Install modules even if the kernel's own are as new or newer."`
}

// Run installs packages for the kernels named on the command line.
func (c *nativeAdd) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		ks, err := knownKernels(e.Machine(), c.Kernel)
		if err != nil {
			return err
		}
		return r.install(e, ks, c.Force)
	})
}
