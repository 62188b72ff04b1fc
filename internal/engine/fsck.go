// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/fsck"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// Fsck says what is damaged, as [fsck.Check] does. It waits for a run that is at work, if it
// may: what that is about to change would look like damage.
func (e *Engine) Fsck(ctx context.Context) ([]fsck.Finding, error) {
	if files.Exists(e.m.Tree.Dir) {
		lock, err := e.m.Tree.Lock(ctx, func(holder string) { e.m.Note("waiting for " + holder) })
		switch {
		case err == nil:
			defer lock.Release()
		case !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS):
			return nil, err
		}
	}
	return fsck.Check(ctx, e.m)
}

// Repair does about what is damaged what can be done, and notes what it cannot do. It returns
// what was found, what is left, and the results of packages that were built or placed again.
func (e *Engine) Repair(ctx context.Context) (found, left []fsck.Finding, results []execute.Result, err error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	defer lock.Release()
	if found, err = fsck.Check(ctx, e.m); err != nil {
		return nil, nil, nil, err
	}
	lock.Clean = false
	for _, f := range found {
		if err := f.Mend(); err != nil {
			e.m.Note("warning: " + f.Path + ": cannot repair it: " + err.Error())
		}
	}
	var rest []follow.Rest
	for _, r := range repairs(found) {
		more, due, err := e.work(ctx, lock, r, tree.ID{})
		if err != nil {
			return found, nil, results, err
		}
		results, rest = append(results, more...), append(rest, due...)
	}
	lock.Release()
	results = append(results, e.renew(ctx, rest, follow.Policy{Initramfs: follow.Renew})...)
	e.conclude(ctx, results, rest)
	left, err = e.Fsck(ctx)
	return found, left, results, err
}

// repairs returns the requests that do again what list asks for: for each kernel first what is
// only built, then what is installed too.
func repairs(list []fsck.Finding) (requests []Request) {
	for _, f := range list {
		if f.Again == nil {
			continue
		}
		i := slices.IndexFunc(requests, func(r Request) bool { return r.Kernels[0] == f.Again.Kernel && r.Goal == f.Again.Goal })
		if i < 0 {
			i, requests = len(requests), append(requests, Request{
				Request: plan.Request{Goal: f.Again.Goal, Only: []tree.ID{}, Retry: true},
				Kernels: []tree.Target{f.Again.Kernel}, Execute: execute.Options{Follow: follow.Policy{Initramfs: follow.Renew}},
			})
		}
		r := &requests[i]
		if id := f.Again.ID; id != (tree.ID{}) && !slices.Contains(r.Only, id) {
			r.Only = append(r.Only, id)
		}
		if f.Again.Build {
			r.Damaged = append(r.Damaged, f.Again.ID)
		}
	}
	slices.SortStableFunc(requests, func(a, b Request) int {
		return cmp.Or(strings.Compare(a.Kernels[0].String(), b.Kernels[0].String()), cmp.Compare(a.Goal, b.Goal))
	})
	return requests
}
