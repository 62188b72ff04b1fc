// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

// Held returns the releases of the kernels, of those that are installed, for which the plugin
// would now fail, or build what is required. Newest reports whether the newest is one.
func (e *Engine) Held(ctx context.Context) (held []string, newest bool, err error) {
	if len(e.m.Settings.RequiredPackages) == 0 || e.m.Disabled() != "" {
		return nil, false, nil
	}
	all, err := e.m.Kernels.List()
	if err != nil {
		return nil, false, failure.From(err, "cannot list the kernels", 1)
	}
	request := Request{
		Request: plan.Request{Goal: plan.Installed, Match: e.m.Settings.Required},
		Kernels: []tree.Target{}, Execute: execute.Options{Follow: follow.Policy{DryRun: true}},
	}
	for _, release := range all {
		if k := e.m.Target(release); !e.m.HeadersAlone(k) {
			request.Kernels = append(request.Kernels, k)
		}
	}
	results, err := (&Engine{e.m, report.NewText(io.Discard, "", false, false)}).Sync(ctx, request)
	if err != nil {
		return nil, false, err
	}
	for i := range results {
		if results[i].Outcome == execute.Planned {
			results[i].Outcome = execute.Failed // it is not there yet
		}
	}
	for _, r := range e.Lacking(results) {
		held = append(held, r.Kernel.Release)
	}
	held = slices.Compact(held) // they are in the order of the kernels
	n := len(request.Kernels)
	return held, n > 0 && slices.Contains(held, request.Kernels[n-1].Release), nil
}

// HoldRestart puts the flag aside that has Debian's unattended-upgrades restart the machine, if
// the newest kernel is held, and puts it back if it is not. Held are those that are.
func (e *Engine) HoldRestart(held []string, newest bool) error {
	flag, aside := e.restartFlags()
	from, to := aside, flag
	if newest {
		from, to = flag, aside
	}
	if err := os.Rename(from, to); errors.Is(err, fs.ErrNotExist) {
		return nil // it is where it should be
	} else if err != nil {
		return failure.From(err, "cannot move "+from, failure.StatusNoPerm)
	}
	if newest {
		e.m.Note(fmt.Sprintf("warning: %s lacks a required package: %s is put aside until it has it, so that the machine is not restarted into it", held[len(held)-1], flag))
	}
	return nil
}

// restartFlags returns the path of the flag, and the one that it has while it is aside.
func (e *Engine) restartFlags() (flag, aside string) {
	flag = e.m.Path("/run/reboot-required")
	return flag, flag + ".dkms"
}

// holdRestart does what [Engine.HoldRestart] does, if there is such a flag.
func (e *Engine) holdRestart(ctx context.Context) error {
	flag, aside := e.restartFlags()
	if !files.Exists(flag) && !files.Exists(aside) {
		return nil
	}
	held, newest, err := e.Held(ctx)
	if err != nil {
		return err
	}
	return e.HoldRestart(held, newest)
}
