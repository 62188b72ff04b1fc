// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/fsck"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
)

type nativeFsck struct {
	Repair bool `help:"Repair what can be repaired, and say what is lost. What cannot be made again is left as it is."`
}

// Run looks for damage, and repairs it.
func (c *nativeFsck) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		if c.Repair {
			return r.repair(e)
		}
		found, err := e.Fsck(r.ctx)
		if err != nil {
			return err
		}
		report.Damage(r.p.stdout, found)
		switch {
		case !damaged(found):
			r.text.Note("nothing is damaged")
			return nil
		case slices.ContainsFunc(found, func(f fsck.Finding) bool { return f.Do != "" }):
			r.text.Note("to have it repaired, run as root: dkms-kernel-install fsck --repair")
		}
		return errNotWell
	})
}

// repair repairs what can be repaired.
func (r *nativeRun) repair(e *engine.Engine) error {
	found, left, results, err := e.Repair(r.ctx)
	r.text.Failures(results)
	if err != nil {
		return err
	}
	report.Repaired(r.p.stdout, found, left)
	if damaged(left) {
		return errNotWell
	}
	r.text.Note("nothing is damaged now")
	return nil
}

// damaged reports whether something in list is wrong.
func damaged(list []fsck.Finding) bool {
	return slices.ContainsFunc(list, func(f fsck.Finding) bool { return !f.Alien })
}
