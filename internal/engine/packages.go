// SPDX-License-Identifier: GPL-2.0-or-later

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/packages"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// Source says where a package comes from: it has its source in the source tree, in a
// directory, or in an archive.
type Source struct {
	ID      tree.ID // of an archive, the package that it must be of, as far as given
	Dir     string  // is copied into the source tree
	Archive string  // is loaded
	Force   bool    // an archive replaces what is there
	Conf    string  // replaces the package's dkms.conf, if not empty
	// RPMUpgrade notes that an RPM package which replaces itself adds it.
	RPMUpgrade bool
}

// Add registers a package, checked as its conf reads for kernel k. It is an error
// that all of it is there.
func (e *Engine) Add(ctx context.Context, s Source, k tree.Target) error {
	lock, err := e.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	lock.Clean = false
	id, loaded, err := e.fetch(ctx, s, k)
	if err != nil {
		return err
	}
	if s.Archive != "" && !loaded {
		return &failure.Failure{What: id.String() + " is already added, with all that is in " + s.Archive, Status: failure.StatusAlready,
			Hint: "use --force to replace what is there"}
	}
	if loaded {
		return nil
	}
	// Also if it is added already: that is the case that a removal must know of.
	note := packages.NoteRelease
	if s.RPMUpgrade {
		note = packages.NoteUpgrade
	}
	if err := note(e.m, id); err != nil {
		return err
	}
	return e.register(ctx, id, k, s.Conf)
}

// Installed is what became of a package that was to be built or installed.
type Installed struct {
	tree.ID
	Loaded  bool // something came from its archive
	Results []execute.Result
}

// Install takes one package as far as the request says, for one kernel or several.
// What is not registered yet is registered first. The error is as that of [Engine.Sync].
func (e *Engine) Install(ctx context.Context, s Source, r Request) (in Installed, err error) {
	r.Only = []tree.ID{s.ID}
	if err := e.borrow(ctx, r); err != nil {
		return in, err
	}
	lock, err := e.lock(ctx)
	if err != nil {
		return in, err
	}
	defer lock.Release()
	if in.ID, in.Loaded, err = e.fetch(ctx, s, r.Kernels[0]); err != nil {
		lock.Clean = false
		return in, err
	}
	if !packages.Registered(e.m, in.ID) {
		lock.Clean = false
		if err := e.register(ctx, in.ID, r.Kernels[0], s.Conf); err != nil {
			return in, err
		}
	}
	var replaced tree.ID
	if err := packages.NoteRelease(e.m, in.ID); err != nil {
		return in, err
	}
	if packages.Upgrading(e.m, in.ID) {
		// What the command line of build said, and that of install does not, must
		// make no second build: only the source counts.
		r.Renew, replaced = true, in.ID
		r.Execute.KeepNewer = false
	}
	r.Only = []tree.ID{in.ID}
	var rest []follow.Rest
	if in.Results, rest, err = e.work(ctx, lock, r, replaced); err != nil {
		return in, err
	}
	lock.Release()
	e.conclude(ctx, in.Results, rest)
	return in, nil
}

// Provide registers a package unless it is registered, from an archive if there is
// one. It is what a script of the package calls once its source is in place.
func (e *Engine) Provide(ctx context.Context, s Source, k tree.Target) error {
	lock, err := e.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Release()
	lock.Clean = false
	if err := packages.NoteRelease(e.m, s.ID); err != nil {
		return err
	}
	if s.Archive != "" {
		_, err := packages.LoadArchive(ctx, e.m, s.Archive, k, packages.LoadOptions{Force: s.Force, Want: s.ID})
		return err
	}
	err = packages.Register(ctx, e.m, s.ID, k, "")
	if f := (*failure.Failure)(nil); errors.As(err, &f) && f.Status == failure.StatusAlready {
		return nil // what is new in its source is found by what its builds were made from
	}
	return err
}

// fetch brings a package into the source tree, and reports whether something of an
// archive was loaded, or the source of what is registered replaced.
func (e *Engine) fetch(ctx context.Context, s Source, k tree.Target) (id tree.ID, loaded bool, err error) {
	switch {
	case s.Dir != "":
		id, replaced, err := packages.Import(ctx, e.m, s.Dir, k, s.Conf, s.Force)
		if !replaced || !packages.Registered(e.m, id) {
			return id, false, err
		}
		e.m.Note(id.String() + ": its source was replaced")
		return id, true, err
	case s.Archive == "":
		return s.ID, false, nil
	}
	l, err := packages.LoadArchive(ctx, e.m, s.Archive, k, packages.LoadOptions{Force: s.Force, Want: s.ID, Conf: s.Conf})
	if err != nil {
		return l.ID, false, err
	}
	if l.Added {
		e.m.Note("added " + l.String())
	}
	if l.Source {
		e.m.Note(fmt.Sprintf("%s: loaded its source", l.ID))
	}
	for _, k := range l.Builds {
		e.m.Note(fmt.Sprintf("%s: loaded its build for %s (%s)", l.ID, k.Release, k.Arch))
	}
	return l.ID, !l.Nothing(), nil
}

func (e *Engine) register(ctx context.Context, id tree.ID, k tree.Target, conf string) error {
	if err := packages.Register(ctx, e.m, id, k, conf); err != nil {
		return err
	}
	e.m.Note("added " + id.String())
	return nil
}

// MakeArchive makes an archive of a package with its builds for kernels, with all
// that it has if kernels is nil, and returns its path. The conf is checked as it
// reads for kernel k.
func (e *Engine) MakeArchive(ctx context.Context, id tree.ID, kernels []tree.Target, k tree.Target, o packages.ArchiveOptions) (string, error) {
	lock, err := e.lock(ctx)
	switch {
	case err == nil:
		defer lock.Release()
	case o.InTree() || !errors.Is(err, fs.ErrPermission):
		return "", err
	} // whoever may read the tree may take a copy of what is in it
	return packages.MakeArchive(ctx, e.m, id, kernels, k, o)
}

// RemovePackage takes a package out of the kernels that match accepts. If an RPM
// package that replaces itself removes what it has just added, which rpmUpgrade or RPM
// says, the package stays. In an upgrade, what is installed stays until the new version
// is, and else what earlier upgrades kept goes, too, if no version of the package is
// left.
func (e *Engine) RemovePackage(ctx context.Context, id tree.ID, match func(tree.Target) bool, d packages.Depth, rpmUpgrade bool, p follow.Policy) ([]execute.Result, error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	upgrade := d == packages.Unregister && e.m.Settings.Keeps(id.Name) && packages.BeingUpgraded(e.m, id)
	take, err := packages.Taken(e.m, id, d == packages.Unregister && !upgrade)
	if err != nil {
		if d == packages.Unregister {
			// A removal that was cut short may have left an empty directory.
			_ = e.m.Tree.HealGone(id)
			// It may have been killed before depmod, too.
			_, failed := follow.Index(ctx, e.m, p, e.owed(follow.Owing(e.m, match)), nil)
			e.failed(failed)
		}
		return nil, err
	}
	if d == packages.Unregister && (rpmUpgrade || packages.BeingReleased(e.m, id)) && packages.EndUpgrade(e.m, id) {
		e.m.Note(id.String() + " stays: the RPM package that replaces this one has just added it")
		return nil, nil
	}
	results, rest, err := e.remove(ctx, lock, packages.Removal{Take: take, Match: match, Depth: d, Keep: upgrade, Follow: p})
	lock.Release()
	e.conclude(ctx, results, rest)
	return results, err
}

// RemoveBuilds takes the builds for kernel k of the packages that take accepts out of
// it and out of the tree.
func (e *Engine) RemoveBuilds(ctx context.Context, take func(tree.Package) bool, k tree.Target, p follow.Policy) ([]execute.Result, error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	match := func(t tree.Target) bool { return t == k }
	results, rest, err := e.remove(ctx, lock, packages.Removal{Take: take, Match: match, Depth: packages.Unbuild, Follow: p})
	lock.Release()
	e.conclude(ctx, results, rest)
	return results, err
}

// RemoveKernel takes everything that packages have for a kernel out of its directory
// and out of the tree. Packages stay registered. The kernel's directory need not
// exist any more. What other kernels have only by links to its modules is installed
// for them before.
func (e *Engine) RemoveKernel(ctx context.Context, release string, p follow.Policy) ([]execute.Result, error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	results, rest, err := e.installShared(ctx, lock, release, p)
	if err != nil || ctx.Err() != nil {
		return results, err
	}
	all := func(tree.Package) bool { return true }
	match := func(k tree.Target) bool { return k.Release == release }
	removed, more, err := e.remove(ctx, lock, packages.Removal{Take: all, Match: match, Depth: packages.Unbuild, Follow: p})
	results, rest = append(results, removed...), append(rest, more...)
	if err == nil {
		follow.RemoveIndex(e.m.Kernel(e.m.Target(release)).Dir) // it counts as a kernel's to some
		err = packages.ForgetKernel(e.m, e.m.Target(release))
	}
	lock.Release()
	e.conclude(ctx, results, rest)
	return results, err
}

// installShared installs packages for the kernels that have them only by links to the
// modules of the one called release, which are about to go. It warns of the kernels
// that lose them all the same: those must not keep a kernel from being removed.
func (e *Engine) installShared(ctx context.Context, lock *tree.Lock, release string, p follow.Policy) ([]execute.Result, []follow.Rest, error) {
	kernels, _, err := e.sharers(release)
	if err != nil || len(kernels) == 0 {
		return nil, nil, err
	}
	var results []execute.Result
	var rest []follow.Rest
	why := ""
	if file := e.m.Disabled(); file != "" {
		why = file + " exists: "
	} else {
		p.DepmodIsNext = false // for the kernel that goes
		r := Request{Request: plan.Request{Goal: plan.Installed, Leaving: release}, Kernels: kernels, Execute: execute.Options{Follow: p}}
		if results, rest, err = e.work(ctx, lock, r, tree.ID{}); err != nil {
			why = err.Error() + ": "
		}
		if ctx.Err() != nil {
			return results, rest, nil // nothing goes
		}
	}
	kernels, shared, err := e.sharers(release) // some may share the new ones by now
	for _, k := range kernels {
		var names, commands []string
		for _, id := range shared[k] {
			names, commands = append(names, id.String()), append(commands, fmt.Sprintf("dkms install %s -k %s", id, k.Release))
		}
		e.m.Note(fmt.Sprintf("warning: kernel %s loses %s, which it shares with %s: %srun: %s",
			k.Release, strings.Join(names, ", "), release, why, strings.Join(commands, " && ")))
	}
	return results, rest, err
}

// sharers returns the kernels that have packages only by links to the modules of the
// one called release, and which.
func (e *Engine) sharers(release string) (kernels []tree.Target, shared map[tree.Target][]tree.ID, err error) {
	all, err := e.m.Tree.Read()
	if err != nil {
		return nil, nil, failure.From(err, "cannot read "+e.m.Tree.Dir, failure.StatusNoPerm)
	}
	shared = map[tree.Target][]tree.ID{}
	for _, s := range observe.Shares(e.m, all, release) {
		if shared[s.Kernel] == nil {
			kernels = append(kernels, s.Kernel)
		}
		shared[s.Kernel] = append(shared[s.Kernel], s.ID)
	}
	return kernels, shared, nil
}

func (e *Engine) remove(ctx context.Context, lock *tree.Lock, r packages.Removal) ([]execute.Result, []follow.Rest, error) {
	all, err := e.m.Tree.Read()
	if err != nil {
		return nil, nil, failure.From(err, "cannot read "+e.m.Tree.Dir, failure.StatusNoPerm)
	}
	var kernels []tree.Target
	for _, p := range all {
		for _, b := range p.Builds {
			if r.Match(b.Target) && !slices.Contains(kernels, b.Target) {
				kernels = append(kernels, b.Target)
			}
		}
	}
	e.heal(lock, all, kernels)
	lock.Clean = false
	owed := e.owed(append(kernels, follow.Owing(e.m, r.Match)...))
	results, empty := packages.Remove(ctx, e.m, all, r, e.events)
	if ctx.Err() != nil {
		return results, nil, nil
	}
	// As long as a package is there, the next run of the same command comes here
	// and does what this one, killed, did not.
	rest, failed := follow.Index(ctx, e.m, r.Follow, owed, execute.Changes(results))
	results = append(results, e.failed(failed)...)
	if r.Depth < packages.Unregister {
		return results, rest, nil
	}
	return results, rest, packages.Forget(e.m, empty)
}

// owed returns what earlier runs owe kernels.
func (e *Engine) owed(kernels []tree.Target) map[tree.Target]follow.Due {
	owed := map[tree.Target]follow.Due{}
	for _, k := range kernels {
		owed[k] = follow.Owed(e.m, k)
	}
	return owed
}
