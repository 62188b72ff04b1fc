// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

type nativeReload struct {
	Package string `arg:"" help:"NAME or NAME/VERSION."`
}

// Run exchanges modules that are loaded for those that are placed.
func (c *nativeReload) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		name, version, _ := strings.Cut(c.Package, "/")
		if m.Elsewhere {
			return notHere("modules are exchanged")
		}
		chains, err := e.Explain(r.ctx, []tree.Target{m.Target(m.Running)}, name, version)
		if err != nil {
			return err
		}
		if len(chains) == 0 {
			return notRegistered(m, tree.ID{Name: name, Version: version})
		}
		id := chains[0].ID
		if cause := chains[0].Cause(); cause != nil && cause.Step != explain.StepLoaded {
			return &failure.Failure{What: id.String() + " is not as it should be", Why: cause.Step + ": " + cause.Is, Hint: cause.Do, Status: 1}
		}
		done, err := e.Reload(r.ctx, id)
		var f *failure.Failure
		switch {
		case errors.As(err, &f) && f.Status == 2:
			r.text.Failure(f.What, f)
			return errSome
		case err != nil:
			return err
		case len(done) == 0:
			r.text.Note(id.String() + ": no module is loaded that is not the one that is placed")
		default:
			r.text.Note(id.String() + ": loaded as placed: " + strings.Join(done, ", "))
		}
		return nil
	})
}
