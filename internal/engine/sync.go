// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/packages"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// Request says what a run is to do.
type Request struct {
	plan.Request
	// Kernels are those to work on; nil means every kernel that is installed with its headers.
	Kernels []tree.Target
	// Damaged are packages whose builds for them are not what was built.
	Damaged []tree.ID
	Execute execute.Options // the DryRun in it is that of the whole run
}

// Sync brings packages and kernels together: what is missing is built, older
// versions are replaced, and what the changes entail is done. The results are in the
// order of the kernels, then of the plan; a package that failed is a result like any
// other, and an error means that nothing was done, or, if it is a [*DoneError], all of it.
func (e *Engine) Sync(ctx context.Context, r Request) ([]execute.Result, error) {
	if r.Kernels == nil {
		var err error
		if r.Kernels, _, err = e.m.WithHeaders(); err != nil {
			return nil, err
		}
	}
	if err := e.borrow(ctx, r); err != nil {
		return nil, err
	}
	var lock *tree.Lock
	if !r.Execute.Follow.DryRun {
		var err error
		if lock, err = e.lock(ctx); err != nil {
			return nil, err
		}
		defer lock.Release()
	}
	results, rest, err := e.work(ctx, lock, r, tree.ID{})
	if err != nil {
		return nil, err
	}
	if lock != nil {
		lock.Release()
	}
	if ctx.Err() == nil {
		results = append(results, e.renew(ctx, rest, r.Execute.Follow)...)
	}
	if lock != nil {
		e.conclude(ctx, results, rest)
	}
	return results, nil
}

// work takes packages as far as the request says. Lock is nil in a dry run. Replaced
// is a package whose source may have been replaced in its place.
func (e *Engine) work(ctx context.Context, lock *tree.Lock, r Request, replaced tree.ID) ([]execute.Result, []follow.Rest, error) {
	seen, err := observe.Look(e.m, r.Kernels)
	if err != nil {
		return nil, nil, err
	}
	if lock != nil {
		e.heal(lock, seen.Packages, r.Kernels)
	}
	var plans []plan.Plan
	owed := map[tree.Target]follow.Due{}
	for _, k := range r.Kernels {
		p := e.plan(ctx, seen, k, r, replaced)
		if lock != nil && slices.ContainsFunc(p.Items, func(i plan.Item) bool { return i.Verdict == plan.Do }) {
			lock.Clean = false
		}
		plans = append(plans, p)
		due := follow.Owed(e.m, k)
		due.Depmod = due.Depmod || p.View.Unindexed
		owed[k] = due
	}
	results, err := execute.Run(ctx, e.m, seen.Packages, plans, r.Execute, e.events)
	if err != nil {
		return nil, nil, err
	}
	rest := e.foreseen(results, r)
	if lock != nil {
		results = append(results, e.dropExcluded(ctx, seen.Packages, plans, r)...)
		policy := r.Execute.Follow
		if ctx.Err() != nil || len(e.Lacking(results)) > 0 {
			policy.DepmodIsNext = false // kernel-install ends when its plugin fails
		}
		var failed []follow.Failed
		rest, failed = follow.Index(ctx, e.m, policy, owed, execute.Changes(results))
		results = append(results, e.failed(failed)...)
		e.m.Store.Tidy()
	}
	if err := e.m.Hashes.Save(); err != nil && !errors.Is(err, fs.ErrPermission) {
		e.m.Note("cannot keep the cache of hashes: " + err.Error())
	}
	return results, rest, nil
}

// Stale says why the build of a package for one of the kernels is not what would be built
// now; empty if all are.
func (e *Engine) Stale(ctx context.Context, id tree.ID, kernels []tree.Target) string {
	seen, err := observe.Look(e.m, kernels)
	if err != nil {
		return "" // it is only told
	}
	for _, k := range kernels {
		for _, p := range seen.Fresh(ctx, k, observe.Scope{Only: []tree.ID{id}, Renew: true}).Packages {
			if p.ID == id && p.Stale != "" {
				return p.Stale
			}
		}
	}
	return ""
}

// dropExcluded removes what earlier upgrades kept of packages whose new version is not
// meant for the kernel.
func (e *Engine) dropExcluded(ctx context.Context, all []tree.Package, plans []plan.Plan, r Request) (results []execute.Result) {
	for _, p := range plans {
		for _, item := range p.Items {
			if item.Verdict != plan.Skip || item.Conf.Excluded == "" {
				continue
			}
			removed, _ := packages.Remove(ctx, e.m, all, packages.Removal{
				Take:  func(p tree.Package) bool { return p.Kept && p.Name == item.Name },
				Match: func(k tree.Target) bool { return k == p.View.Target },
				Depth: packages.Unbuild, Follow: r.Execute.Follow,
			}, e.events)
			if len(removed) > 0 {
				e.m.Note(fmt.Sprintf("what was kept of %s for %s goes: %s is not meant for this kernel", item.Name, p.View.Release, item.ID))
			}
			results = append(results, removed...)
		}
	}
	return results
}

// Lacking returns the results for required packages whose modules the kernel lacks.
func (e *Engine) Lacking(results []execute.Result) []execute.Result {
	return slices.DeleteFunc(execute.Lacking(results), func(r execute.Result) bool { return !e.m.Settings.Required(r.Name) })
}

// plan plans the work for a kernel. For automatic work it first goes by what the
// cache remembers of confs, and believes that when it says that nothing is to do.
func (e *Engine) plan(ctx context.Context, seen *observe.Snapshot, k tree.Target, r Request, replaced tree.ID) plan.Plan {
	scope := observe.Scope{Only: r.Only, Renew: r.Renew, Replaced: replaced, Damaged: r.Damaged, Force: r.Execute.Force || r.Execute.ForceVersion}
	if r.Execute.KeepNewer {
		scope.Named = r.Only // if a newer module keeps one out, that is a failure
	}
	if r.Waiting = r.Dependents && e.m.Disabled() == ""; r.Waiting {
		scope.Only = nil // anything may wait
	}
	if r.Only != nil || r.Force {
		return plan.Make(seen.Fresh(ctx, k, scope), r.Request)
	}
	if p := plan.Make(seen.Remembered(ctx, k, scope), r.Request); p.Settled() {
		return p
	}
	fresh := seen.Fresh(ctx, k, scope)
	if !r.Execute.Follow.DryRun {
		if err := seen.Remember(fresh); err != nil && !errors.Is(err, fs.ErrPermission) {
			e.m.Note("cannot keep the cache of configurations: " + err.Error())
		}
	}
	return plan.Make(fresh, r.Request)
}

// foreseen returns what the results of a dry run would leave to do for each kernel.
func (e *Engine) foreseen(results []execute.Result, r Request) (rest []follow.Rest) {
	if !r.Execute.Follow.DryRun {
		return nil
	}
	for _, k := range r.Kernels {
		var due follow.Due
		for _, result := range results {
			if result.Kernel != k || result.Outcome != execute.Planned {
				continue
			}
			more := follow.Due{Depmod: len(result.Modules) > 0, Modules: result.Modules}
			if result.New {
				more.Fresh = result.ID.String()
			}
			due = due.And(more)
		}
		rest = append(rest, follow.Plan(e.m, r.Execute.Follow, k, due))
	}
	return rest
}

// renew makes a new initramfs for each kernel that needs one. It returns what failed.
func (e *Engine) renew(ctx context.Context, rest []follow.Rest, p follow.Policy) (failed []execute.Result) {
	for _, r := range rest {
		failed = append(failed, e.failed(r.Renew(ctx, e.m, p, func() (func(), error) { return e.relock(ctx) }))...)
	}
	return failed
}

// relock takes the lock of the tree once more, and returns its release.
func (e *Engine) relock(ctx context.Context) (release func(), err error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return nil, err
	}
	return lock.Release, nil
}
