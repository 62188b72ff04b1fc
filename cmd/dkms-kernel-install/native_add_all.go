// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/machine"
)

type nativeAddAll struct {
	Force bool `help:"Install modules even if the kernel's own are as new or newer."`
}

// Run installs packages for all kernels that have headers.
func (c *nativeAddAll) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		ks, err := r.withHeaders(e.Machine())
		if err != nil {
			return err
		}
		return r.install(e, ks, c.Force)
	})
}
