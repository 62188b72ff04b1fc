// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"slices"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
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
	// Originals reports whether displaced modules are archived; Differs, whether the
	// kernel's directory does not hold what was built.
	Originals, Differs bool
	// KernelGone reports whether the kernel's directory is missing.
	KernelGone bool
	// WeakFrom is the release of the kernel whose modules are shared, if State is
	// [StateWeak].
	WeakFrom string
}

// StatusOf returns the state of every package and build that the functions accept.
// A package of which no build matches is added, or broken.
func StatusOf(m *machine.Machine, matchPackage func(tree.ID) bool, matchKernel func(tree.Target) bool) ([]Status, error) {
	packages, err := m.Tree.Read()
	if err != nil {
		return nil, failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	gone := map[tree.Target]bool{}
	for _, p := range packages {
		for _, b := range p.Builds {
			if _, known := gone[b.Target]; !known {
				gone[b.Target] = !m.Kernel(b.Target).Exists()
			}
		}
	}
	found := make([][]Status, len(packages))
	files.Each(len(packages), func(i int) {
		if p := packages[i]; matchPackage(p.ID) {
			found[i] = packageStatus(m, p, packages, matchKernel, gone)
		}
	})
	return append(slices.Concat(found...), weakStatus(m, packages, matchPackage, matchKernel)...), nil
}

// packageStatus returns the state of p, one of packages, and of its builds for the
// kernels that match accepts, of which some are gone.
func packageStatus(m *machine.Machine, p tree.Package, packages []tree.Package, match func(tree.Target) bool, gone map[tree.Target]bool) (list []Status) {
	if p.Broken() {
		return []Status{{ID: p.ID, State: StateBroken}}
	}
	for _, b := range p.Builds {
		if !match(b.Target) {
			continue
		}
		s := Status{ID: p.ID, Kernel: b.Target, State: StateBuilt, Originals: b.Originals, KernelGone: gone[b.Target]}
		if b.Installed {
			s.State = StateInstalled
			s.Differs = !s.KernelGone && !current(m, p, b, packages)
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		list = append(list, Status{ID: p.ID, State: StateAdded})
	}
	return list
}

// current reports whether the kernel's directory holds what was built. The conf is
// read only if it decides on the modules' directory.
func current(m *machine.Machine, p tree.Package, b tree.Build, packages []tree.Package) bool {
	seen := Seen{ID: p.ID, Source: p.Source, Modules: b.Modules, Installed: true}
	if m.Settings.AddonModulesDir == "" {
		seen.Conf, seen.ConfErr = Conf(m, p.ID, b.Target)
	}
	return m.Modules(b.Target).Current(Placement(m, packages, b.Target, seen, false))
}
