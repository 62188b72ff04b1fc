package engine

import (
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/parallel"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// State is the state of a package, or of a build of it.
type State string

const (
	StateAdded     State = "added"
	StateBroken    State = "broken"
	StateBuilt     State = "built"
	StateInstalled State = "installed"
	StateWeak      State = "installed-weak" // shares the modules of another kernel by links
)

// Status is one line of status: a package without a build has no kernel.
type Status struct {
	tree.ID
	Kernel tree.Target
	State  State
	// Originals says that displaced modules are archived, Differs that the
	// kernel's folder does not hold what was built.
	Originals, Differs bool
	// KernelGone says that the kernel's folder does not exist.
	KernelGone bool
	// WeakFrom is, of [StateWeak], the release of the kernel whose modules
	// they are.
	WeakFrom string
}

// Status tells the state of every package and build for which match says so. A
// package of which no build matches is told as added, or broken.
func (e *Engine) Status(matchPackage func(tree.ID) bool, matchKernel func(tree.Target) bool) ([]Status, error) {
	packages, err := e.Tree.Read()
	if err != nil {
		return nil, failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	gone := map[tree.Target]bool{}
	for _, p := range packages {
		for _, b := range p.Builds {
			if _, known := gone[b.Target]; !known {
				gone[b.Target] = !e.Kernel(b.Target).Exists()
			}
		}
	}
	found := make([][]Status, len(packages))
	parallel.Each(len(packages), func(i int) {
		if p := packages[i]; matchPackage(p.ID) {
			found[i] = e.packageStatus(p, packages, matchKernel, gone)
		}
	})
	return append(slices.Concat(found...), e.weakStatus(packages, matchPackage, matchKernel)...), nil
}

// packageStatus tells the state of p, one of packages, and of its builds for the
// kernels for which match says so, of which some are gone.
func (e *Engine) packageStatus(p tree.Package, packages []tree.Package, match func(tree.Target) bool, gone map[tree.Target]bool) (list []Status) {
	s := Status{ID: p.ID, State: StateAdded}
	if p.Broken() {
		s.State = StateBroken
		return []Status{s}
	}
	for _, b := range p.Builds {
		if !match(b.Target) {
			continue
		}
		s := Status{ID: p.ID, Kernel: b.Target, State: StateBuilt}
		s.Originals = b.Originals
		s.KernelGone = gone[b.Target]
		if b.Installed {
			s.State = StateInstalled
			s.Differs = !s.KernelGone && !e.current(p, b, packages)
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		list = append(list, s)
	}
	return list
}

// current says whether the kernel's folder holds what was built. The conf is
// read only where it decides on the modules' folder.
func (e *Engine) current(p tree.Package, b tree.Build, packages []tree.Package) bool {
	seen := plan.Package{ID: p.ID, Source: p.Source, Modules: b.Modules, Installed: true}
	if e.Settings.AddonModulesDir == "" {
		seen.Conf, seen.ConfErr = e.Conf(p.ID, b.Target)
	}
	return e.placer(b.Target).Current(e.placed(p.ID, b.Target, packages, seen))
}
