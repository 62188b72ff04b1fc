// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"context"
	"fmt"
	"slices"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/scripts"
	"dkms-kernel-install/internal/tree"
)

// Depth is how far a removal goes; each includes those before it.
type Depth int

// The depths of a removal.
const (
	Uninstall  Depth = iota // out of the kernel's directory
	Unbuild                 // out of the tree
	Unregister              // and forget the package when no build is left
)

// Removal says what is to be removed.
type Removal struct {
	Take  func(tree.Package) bool
	Match func(tree.Target) bool // the kernels
	Depth Depth
	// Keep leaves what is installed where it is until another version is installed, and
	// takes packages out of the tree all the same.
	Keep   bool
	Follow follow.Policy
}

// Taken returns a function that accepts the package id and, if kept is set, what earlier
// upgrades kept of it, or of any version if no other is registered. It is an error if
// there is nothing to accept.
func Taken(m *machine.Machine, id tree.ID, kept bool) (take func(tree.Package) bool, err error) {
	packages, err := m.Tree.Read()
	if err != nil {
		return nil, failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	others := hasOther(packages, id)
	take = func(p tree.Package) bool {
		return p.ID == id || kept && p.Kept && p.Name == id.Name && (!others || p.ID.Unkept() == id)
	}
	if !slices.ContainsFunc(packages, take) {
		_, err = find(packages, id)
	}
	return take, err
}

// hasOther reports whether another version of id is registered.
func hasOther(packages []tree.Package, id tree.ID) bool {
	return slices.ContainsFunc(packages, func(p tree.Package) bool { return p.Name == id.Name && !p.Kept && p.ID != id })
}

// Remove takes packages, of those in the tree, out of kernels and out of the tree. A
// package that has nothing for a kernel gives no result. It returns the packages of
// which no build is left, which [Forget] forgets. The caller holds the lock of the
// tree.
func Remove(ctx context.Context, m *machine.Machine, packages []tree.Package, r Removal, events execute.Events) (results []execute.Result, empty []tree.ID) {
	for _, p := range packages {
		if !r.Take(p) {
			continue
		}
		left, kept := 0, ""
		for _, b := range p.Builds {
			if !r.Match(b.Target) || r.Depth == Uninstall && !b.Installed {
				left++
				continue
			}
			if r.Keep && b.Installed {
				if by, excluded := excludes(m, packages, p.ID, b.Target); excluded {
					m.Note(fmt.Sprintf("%s for %s goes: %s is not meant for this kernel", p.ID, b.Release, by))
				} else if keep(m, p, b, packages) == nil {
					kept += ", " + b.Release
					continue
				}
			}
			result, err := removeBuild(ctx, m, p, b, packages, r)
			if err != nil {
				left++
				result.Outcome, result.Failure = execute.Failed, failure.From(err, "removal failed", failure.StatusInstall)
			}
			events.Done(result)
			results = append(results, result)
			if ctx.Err() != nil {
				return results, empty
			}
		}
		if kept != "" {
			m.Note(fmt.Sprintf("%s: its modules stay for %s until another version of %s is installed there", p.ID, kept[2:], p.Name))
		}
		if left == 0 && !p.Kept {
			empty = append(empty, p.ID)
		}
	}
	return results, empty
}

func removeBuild(ctx context.Context, m *machine.Machine, p tree.Package, b tree.Build, packages []tree.Package, r Removal) (execute.Result, error) {
	k := b.Target
	result := execute.Result{ID: p.ID.Unkept(), Kernel: k, Outcome: execute.Removed}
	if b.Installed {
		if err := uninstall(ctx, m, p, b, packages, r, &result); err != nil {
			return result, err
		}
	}
	if r.Depth >= Unbuild {
		return result, m.Tree.RemoveBuild(p.ID, k)
	}
	return result, nil
}

// excludes reports whether other versions of id are registered, none of which is meant for
// kernel k, and returns the last of them.
func excludes(m *machine.Machine, packages []tree.Package, id tree.ID, k tree.Target) (by tree.ID, excluded bool) {
	for _, p := range packages {
		if p.Name != id.Name || p.Kept || p.ID == id {
			continue
		}
		if c, err := observe.Conf(m, p.ID, k); err != nil || c.Excluded == "" {
			return tree.ID{}, false
		}
		by, excluded = p.ID, true
	}
	return by, excluded
}

// keep has b, an installed build of p, outlive its package.
func keep(m *machine.Machine, p tree.Package, b tree.Build, packages []tree.Package) error {
	seen := observe.Seen{ID: p.ID, Modules: b.Modules, Installed: true}
	if err := m.Modules(b.Target).Detach(observe.Placement(m, packages, observe.Installed(packages, b.Target), b.Target, seen)); err != nil {
		return err
	}
	return m.Tree.Keep(p.ID, b.Target)
}

// uninstall takes the modules of b, a build of p, out of the kernel's directory.
func uninstall(ctx context.Context, m *machine.Machine, p tree.Package, b tree.Build, packages []tree.Package, r Removal, result *execute.Result) error {
	k := b.Target
	seen := observe.Seen{ID: p.ID, Source: p.Source, Built: true, Modules: b.Modules, Installed: true}
	if p.Source != "" {
		// A conf with errors says less, but does not stand in the way.
		seen.Conf, seen.ConfErr = observe.Conf(m, p.ID, k)
	}
	result.NoWeakModules = seen.Conf.NoWeakModules
	placed := observe.Placement(m, packages, observe.Installed(packages, k), k, seen)
	script := scripts.Script{ID: p.ID, Kernel: k, Directive: "POST_REMOVE", Value: seen.Conf.PostRemove}
	// A full disk does not keep anything from being removed.
	_ = follow.Foresee(m, k, r.Follow, follow.Due{})
	_ = script.Owe(m)
	var err error
	if result.Restored, result.Removed, err = m.Modules(k).Uninstall(placed); err != nil {
		return err
	}
	if err := script.Run(ctx, m); err != nil {
		result.Warnings = append(result.Warnings, err.Error())
	}
	return nil
}

// Forget unregisters packages that have no builds left.
func Forget(m *machine.Machine, ids []tree.ID) error {
	for _, id := range ids {
		if files.Exists(m.Tree.TarballDir(id)) {
			m.Note(fmt.Sprintf("%s: its archives go with it: %s", id, m.Tree.TarballDir(id)))
		}
		if err := m.Tree.Unregister(id); err != nil {
			return failure.From(err, "cannot forget "+id.String(), failure.StatusNoPerm)
		}
	}
	return nil
}

// ForgetKernel forgets what is left of packages for kernel k, whose builds are gone:
// links to them, archives of modules, what is due for its initramfs, and what is
// remembered of confs.
func ForgetKernel(m *machine.Machine, k tree.Target) error {
	packages, err := m.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	m.ConfCache(k).Remove()
	due := follow.Owed(m, k)
	due.Modules, due.Fresh = nil, "" // of an initramfs that goes too
	if _, err := follow.Owe(m, k, due); err != nil {
		return failure.From(err, "cannot forget what was left to do for "+k.Release, failure.StatusNoPerm)
	}
	for _, p := range packages {
		for _, linked := range m.Tree.Links(p.Name) {
			if _, err := m.Tree.Modules(p.ID, linked); err == nil || linked.Release != k.Release {
				continue
			}
			if _, _, err := m.Modules(linked).Uninstall(place.Placement{ID: p.ID}); err != nil {
				return failure.From(err, fmt.Sprintf("cannot forget %s for %s", p.Name, linked), failure.StatusNoPerm)
			}
		}
	}
	return nil
}
