// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"io"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
)

type nativeHeld struct {
	HoldRestart bool `help:"Also put /run/reboot-required aside as long as the newest kernel is one of them, and back then."`
}

// Run prints the kernels for which the plugin would now fail, or build what is required.
func (c *nativeHeld) Run(r *nativeRun) error {
	silent := report.NewText(io.Discard, "", false, false)
	quiet := nativeRun{r.p, r.ctx, silent, silent}
	return quiet.with(machine.Options{}, func(e *engine.Engine) error {
		held, newest, err := e.Held(r.ctx)
		for _, release := range held {
			fmt.Fprintln(r.p.stdout, release)
		}
		if err == nil && c.HoldRestart {
			err = e.HoldRestart(held, newest)
		}
		return err
	})
}
