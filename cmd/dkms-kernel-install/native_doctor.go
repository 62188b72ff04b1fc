// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
)

type nativeDoctor struct {
	JSON bool `name:"json" help:"Write JSON, for programs."`
}

// Run says what is true of the machine.
func (c *nativeDoctor) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		found, err := e.Examine()
		if err != nil {
			return err
		}
		if c.JSON {
			err = report.ExaminationJSON(r.p.stdout, found)
		} else {
			report.Examination(r.p.stdout, found)
		}
		if err == nil && !found.OK() {
			err = errNotWell
		}
		return err
	})
}
