package engine

import (
	"context"
	"fmt"
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// Depth is how far a removal goes; each includes those before it.
type Depth int

const (
	Uninstall  Depth = iota // out of the kernel's folder
	Unbuild                 // out of the tree
	Unregister              // and forget the package when no build is left
)

// Remove takes packages back, for the kernels for which match says so. A package
// that has nothing for them gives no result. Depmod is handled as in [Work]. The
// caller holds the lock.
func (e *Engine) Remove(ctx context.Context, ids []tree.ID, match func(tree.Target) bool, d Depth, depmodFollows func(tree.Target) bool) ([]Result, error) {
	packages, err := e.Tree.Read()
	if err != nil {
		return nil, failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	var kernels []tree.Target
	for _, p := range packages {
		for _, b := range p.Builds {
			if match(b.Target) && !slices.Contains(kernels, b.Target) {
				kernels = append(kernels, b.Target)
			}
		}
	}
	e.heal(packages, kernels)
	e.idle, e.healed = false, false
	var results []Result
	var forget []tree.ID
	for _, p := range packages {
		if !slices.Contains(ids, p.ID) {
			continue
		}
		left := 0
		for _, b := range p.Builds {
			if !match(b.Target) || d == Uninstall && !b.Installed {
				left++
				continue
			}
			r, err := e.removeBuild(ctx, p, b, packages, d)
			if err != nil {
				left++
				r.Outcome, r.Failure = Failed, failure.From(err, "removal failed", failure.StatusInstall)
			}
			e.done(r)
			results = append(results, r)
			if ctx.Err() != nil {
				return results, nil
			}
		}
		if d == Unregister && left == 0 {
			forget = append(forget, p.ID)
		}
	}
	// As long as a package is there, the next run of the same command comes here
	// and settles what this one, killed, did not.
	results = append(results, e.settle(ctx, e.unsettledKernels(match), results, depmodFollows)...)
	for _, id := range forget {
		if exists(e.Tree.TarballDir(id)) {
			e.Events.Note(fmt.Sprintf("%s: its archives go with it: %s", id, e.Tree.TarballDir(id)))
		}
		if err := e.Tree.Unregister(id); err != nil {
			return results, failure.From(err, "cannot forget "+id.String(), failure.StatusNoPerm)
		}
	}
	return results, nil
}

func (e *Engine) removeBuild(ctx context.Context, p tree.Package, b tree.Build, packages []tree.Package, d Depth) (Result, error) {
	k := b.Target
	r := Result{ID: p.ID, Kernel: k, Outcome: Removed}
	seen := plan.Package{ID: p.ID, Source: p.Source, Built: true, Modules: b.Modules, Installed: b.Installed}
	if b.Installed {
		if p.Source != "" {
			// A conf with errors says less, but does not stand in the way.
			seen.Conf, seen.ConfErr = e.Conf(p.ID, k)
		}
		placed := e.placed(p.ID, k, packages, seen)
		e.weakLeaving(ctx, seen.Conf, placed, &r)
		// A full disk does not keep anything from being removed.
		_ = e.foresee(k, unsettled{})
		removed, err := e.placer(k).Uninstall(placed)
		r.Removed = removed
		if err != nil {
			return r, err
		}
		if p.Source != "" && seen.ConfErr == nil {
			job := e.job(p.ID, k, p.Source, seen)
			if err := e.runScript(ctx, job, "POST_REMOVE", seen.Conf.PostRemove); err != nil {
				r.Warnings = append(r.Warnings, err.Error())
			}
		}
	}
	if d >= Unbuild {
		return r, e.Tree.RemoveBuild(p.ID, k)
	}
	return r, nil
}

// RemoveKernel takes everything that packages have for a kernel out of its
// folder and out of the tree. Packages stay registered. The kernel's folder need
// not exist any more.
func (e *Engine) RemoveKernel(ctx context.Context, release string, depmodFollows func(tree.Target) bool) ([]Result, error) {
	packages, err := e.Tree.Read()
	if err != nil {
		return nil, failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	ids := make([]tree.ID, len(packages))
	for i, p := range packages {
		ids[i] = p.ID
	}
	match := func(k tree.Target) bool { return k.Release == release }
	results, err := e.Remove(ctx, ids, match, Unbuild, depmodFollows)
	if err != nil {
		return results, err
	}
	e.cache(e.Target(release)).Remove()
	k := e.Target(release)
	owed := e.owed(k)
	owed.Modules, owed.Fresh = nil, "" // of an initramfs that goes too
	if err := e.owe(k, owed); err != nil {
		return results, failure.From(err, "cannot forget what was left to do for "+release, failure.StatusNoPerm)
	}
	// Links whose build is gone already, and archives.
	for _, id := range ids {
		for _, k := range e.Tree.Links(id.Name) {
			if built, _ := e.Tree.Modules(id, k); built != nil || !match(k) {
				continue
			}
			if _, err := e.placer(k).Uninstall(place.Package{ID: id}); err != nil {
				return results, failure.From(err, fmt.Sprintf("cannot forget %s for %s", id.Name, k), failure.StatusNoPerm)
			}
		}
	}
	return results, nil
}
