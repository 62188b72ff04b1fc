// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"context"
	"fmt"
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/reload"
	"dkms-kernel-install/internal/tree"
)

// Reload exchanges the modules of a package that are loaded, and are not those that are
// placed, and returns their names. If the status of the error is 1, nothing has changed.
func (e *Engine) Reload(ctx context.Context, id tree.ID) ([]string, error) {
	k := e.m.Target(e.m.Running)
	seen, err := observe.Look(e.m, []tree.Target{k})
	if err != nil {
		return nil, err
	}
	packages := seen.Fresh(ctx, k, observe.Scope{Only: []tree.ID{id}}).Packages
	i := slices.IndexFunc(packages, func(s observe.Seen) bool { return s.ID == id })
	if i < 0 || !packages[i].Installed {
		return nil, &failure.Failure{What: id.String() + " is not installed for the kernel that runs", Status: 1,
			Hint: fmt.Sprintf("run: dkms install %s -k %s", id, k.Release)}
	}
	x, err := reload.Plan(e.m, packages[i])
	if err != nil {
		return nil, failure.From(err, "cannot exchange modules of "+id.String(), 1)
	}
	return x.Modules(), x.Run(ctx)
}
