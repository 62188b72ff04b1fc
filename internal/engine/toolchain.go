// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"context"
	"fmt"
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/toolchain"
	"dkms-kernel-install/internal/tree"
)

// DoneError is the error of a run that another process has done, with what this one lacked. It
// has told what there is to tell.
type DoneError struct{ Status int }

func (e *DoneError) Error() string {
	return fmt.Sprintf("another process has done it: exit status %d", e.Status)
}

// borrow has the run of r done with a toolchain that is there for its time, if the settings say
// so and what is to be built lacks one; the error is then a [*DoneError]. The caller does not
// hold the lock of the tree.
func (e *Engine) borrow(ctx context.Context, r Request) error {
	if !e.m.Borrows() || r.Execute.Follow.DryRun {
		return nil
	}
	seen, err := observe.Look(e.m, r.Kernels)
	if err != nil {
		return err
	}
	r.Execute.Follow.DryRun = true
	kernels := slices.DeleteFunc(slices.Clone(r.Kernels), func(k tree.Target) bool { return !e.builds(ctx, seen, k, r) })
	missing := toolchain.Missing(e.m, kernels)
	if len(missing) == 0 {
		return nil
	}
	status, err := toolchain.Run(ctx, e.m, missing, e.m.Args)
	if err != nil {
		return err
	}
	return &DoneError{status}
}

// builds reports whether something would be built for k, if it had headers.
func (e *Engine) builds(ctx context.Context, seen *observe.Snapshot, k tree.Target, r Request) bool {
	known := func(id tree.ID) bool {
		return slices.ContainsFunc(seen.Packages, func(p tree.Package) bool { return p.ID == id })
	}
	if slices.ContainsFunc(r.Only, func(id tree.ID) bool { return !known(id) }) {
		return true // it is not registered yet
	}
	return slices.ContainsFunc(e.plan(ctx, seen, k, r, tree.ID{}).Items, func(i plan.Item) bool {
		return i.Verdict == plan.Do && i.Build || i.Failure != nil && i.Failure.Status == failure.StatusHeaders
	})
}
