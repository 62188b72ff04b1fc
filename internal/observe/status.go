// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
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
	StateKept      State = "kept"           // installed from before an upgrade, and not registered
	StateWeak      State = "installed-weak" // shares the modules of another kernel by links
)

// Status is one line of status: a package without a build has no kernel.
type Status struct {
	tree.ID
	Kernel tree.Target
	State  State
	// Originals reports whether displaced modules are archived; Missing, whether the
	// build lacks a module that the conf names; Differs, whether the package is
	// installed, and the kernel's directory does not hold what was built.
	Originals, Missing, Differs bool
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
	kernels := map[tree.Target]statusKernel{}
	for _, p := range packages {
		for _, b := range p.Builds {
			if _, known := kernels[b.Target]; !known && matchKernel(b.Target) {
				kernels[b.Target] = statusKernel{!m.Kernel(b.Target).Exists(), Installed(packages, b.Target), changed(m.Kernel(b.Target).ConfigFile()), m.ConfCache(b.Target)}
			}
		}
	}
	found := make([][]Status, len(packages))
	files.Each(len(packages), func(i int) {
		if p := packages[i]; matchPackage(p.ID.Unkept()) {
			found[i] = packageStatus(m, p, packages, kernels)
		}
	})
	return append(slices.Concat(found...), weakStatus(m, packages, matchPackage, matchKernel)...), nil
}

// statusKernel is what is known of a kernel that status is asked for.
type statusKernel struct {
	gone      bool // its directory
	installed []tree.ID
	config    int64 // when its configuration has changed, as by changed
	confs     *conf.Cache
}

// packageStatus returns the state of p, one of packages, and of its builds for
// kernels.
func packageStatus(m *machine.Machine, p tree.Package, packages []tree.Package, kernels map[tree.Target]statusKernel) (list []Status) {
	if p.Kept {
		for _, b := range p.Builds {
			if kernel, ok := kernels[b.Target]; ok && b.Installed {
				list = append(list, Status{ID: p.ID.Unkept(), Kernel: b.Target, State: StateKept, Originals: b.Originals, KernelGone: kernel.gone})
			}
		}
		return list
	}
	if p.Broken() {
		return []Status{{ID: p.ID, State: StateBroken}}
	}
	changed := confChanged(m, p.ID)
	for _, b := range p.Builds {
		if kernel, ok := kernels[b.Target]; ok {
			list = append(list, buildStatus(m, p, b, max(changed, kernel.config), packages, kernel))
		}
	}
	if len(list) == 0 {
		list = append(list, Status{ID: p.ID, State: StateAdded})
	}
	return list
}

// buildStatus returns the state of b, a build of p for kernel, whose conf has last changed
// at the time confChanged.
func buildStatus(m *machine.Machine, p tree.Package, b tree.Build, confChanged int64, packages []tree.Package, kernel statusKernel) Status {
	s := Status{ID: p.ID, Kernel: b.Target, State: StateBuilt, Originals: b.Originals, KernelGone: kernel.gone}
	seen := Seen{ID: p.ID, Source: p.Source, Built: true, Modules: b.Modules, Installed: b.Installed}
	// A build that was recorded had every module that its conf names. If neither
	// has changed since, there is no need to read the conf, which may take a shell.
	recorded := changed(fingerprint.File(m.Tree.TargetDir(p.ID, b.Target)))
	needed := b.Installed && m.Settings.AddonModulesDir == "" || recorded < max(confChanged, modified(m.Tree.ModuleDir(p.ID, b.Target)))
	judge := func() {
		s.Missing = needed && seen.ConfErr == nil && seen.Conf.Excluded == "" && !seen.Complete()
		if b.Installed {
			s.State = StateInstalled
			place := Placement(m, packages, kernel.installed, b.Target, seen)
			place.Force, place.Exact = true, true // also a module that makes way for a newer one is not there
			s.Differs = kernel.gone || !m.Modules(b.Target).Current(place)
		}
	}
	known := !needed
	if needed {
		seen.Conf, known = kernel.confs.Get(confSource(m, p.ID, b.Target), m.Settings)
	}
	if known {
		judge()
	}
	if needed && (!known || s.Missing || s.Differs) { // the cache is believed if all is well by it
		seen.Conf, seen.ConfErr = Conf(m, p.ID, b.Target)
		judge()
	}
	return s
}

// confChanged returns when what the conf of a package is read from has changed last, the
// kernel's configuration aside, as by [changed].
func confChanged(m *machine.Machine, id tree.ID) int64 {
	at := max(changed(filepath.Join(m.Tree.SourceDir(id), "dkms.conf")), changed(m.EtcDir()))
	for name := range m.Settings.Overrides {
		if strings.HasPrefix(name, id.Name) {
			at = max(at, changed(filepath.Join(m.Settings.EtcDir, name)))
		}
	}
	return at
}

// modified returns when a file in the directory dir has come or gone last, in nanoseconds; 0
// if there is no such directory. It counts for nothing when dir got its name.
func modified(dir string) int64 {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return 0
	}
	return st.Mtim.Nano()
}

// changed returns when the file at path was changed last, in nanoseconds; 0 if there is
// none.
func changed(path string) int64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ctim.Nano()
}
