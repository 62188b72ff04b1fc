// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// weakModules returns those of packages whose modules, all of them, the kernel
// called release shares, with the kernel that each is installed for. As in the
// classic command, the links decide, whoever made them.
func weakModules(m *machine.Machine, release string, packages []tree.Package) map[tree.ID]tree.Target {
	if m.WeakScript(machine.WeakAdd, release) == nil {
		return nil
	}
	links := map[string][]string{} // where they lead, by the name of the file
	// What cannot be read is no link; there may be no such directory at all.
	_ = filepath.WalkDir(m.WeakDir(release), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() != fs.ModeSymlink {
			return nil
		}
		if to, err := filepath.EvalSymlinks(path); err == nil && filepath.Base(to) == d.Name() {
			links[d.Name()] = append(links[d.Name()], to)
		}
		return nil
	})
	if len(links) == 0 {
		return nil
	}
	found := map[tree.ID]tree.Target{}
	for _, p := range packages {
		for _, b := range p.Builds {
			if b.Installed && b.Release != release && len(b.Modules) > 0 && shared(m, links, p.ID, b) {
				found[p.ID] = b.Target
			}
		}
	}
	return found
}

// shared reports whether links lead to all modules of b, a build of id: to where
// they are installed, or, if those are links themselves, into the tree.
func shared(m *machine.Machine, links map[string][]string, id tree.ID, b tree.Build) bool {
	var in []string
	for _, dir := range []string{m.Kernel(b.Target).Dir, m.Tree.ModuleDir(id, b.Target)} {
		if dir, err := filepath.EvalSymlinks(dir); err == nil {
			in = append(in, dir+"/")
		}
	}
	for _, file := range b.Modules {
		if !slices.ContainsFunc(links[file], func(to string) bool {
			return slices.ContainsFunc(in, func(dir string) bool { return strings.HasPrefix(to, dir) }) &&
				m.Modules(b.Target).Holds(id, to)
		}) {
			return false
		}
	}
	return true
}

// Shares returns what kernels share of the modules that are installed for the one
// called release, and do not have otherwise.
func Shares(m *machine.Machine, packages []tree.Package, release string) []Status {
	allPackages, allKernels := func(tree.ID) bool { return true }, func(tree.Target) bool { return true }
	return slices.DeleteFunc(weakStatus(m, packages, allPackages, allKernels), func(s Status) bool {
		return s.WeakFrom != release || HasInstalled(packages, s.Name, s.Kernel)
	})
}

// weakStatus returns the status of the packages that kernels share.
func weakStatus(m *machine.Machine, packages []tree.Package, matchPackage func(tree.ID) bool, matchKernel func(tree.Target) bool) []Status {
	if m.WeakScript(machine.WeakAdd, "") == nil {
		return nil
	}
	var list []Status
	kernels, _ := os.ReadDir(m.Kernels.Modules) // without it, there are no links
	for _, kernel := range kernels {
		weak := weakModules(m, kernel.Name(), packages)
		for _, p := range packages {
			from, ok := weak[p.ID]
			k := tree.Target{Release: kernel.Name(), Arch: from.Arch}
			if ok && matchPackage(p.ID) && matchKernel(k) {
				list = append(list, Status{ID: p.ID, Kernel: k, State: StateWeak, WeakFrom: from.Release})
			}
		}
	}
	return list
}
