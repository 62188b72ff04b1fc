// SPDX-License-Identifier: GPL-2.0-or-later

// Package observe says what is there: which packages are registered, what is built
// from what, what is placed, and what would be built now. It changes nothing but
// caches.
package observe

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/tree"
)

// Snapshot is what is registered on a machine. Everything that is seen in a run is
// seen in one.
type Snapshot struct {
	*machine.Machine
	Packages   []tree.Package
	registered []tree.Package // those that are not kept
	failures   *failures
	signers    sync.Map // from kernels to functions that return their signers
}

// View is every registered package as seen from one kernel.
type View struct {
	tree.Target
	Headers      bool   // of the kernel are installed
	LacksHeaders string // a path that headers have and those of the kernel do not
	HeadersHint  string // how to get the headers
	Unindexed    bool   // a module that is installed is not in the kernel's modules.dep
	Packages     []Seen
}

// Seen is what is known of one registered package, seen from one kernel.
type Seen struct {
	tree.ID
	// Source is the directory of its source; empty if the package is broken.
	Source string
	// Conf is its configuration for the kernel, ConfErr what is wrong with it.
	Conf    conf.Conf
	ConfErr error
	// Built reports whether a build for the kernel exists, with Modules in it.
	Built   bool
	Modules []string // file names such as foo.ko.xz
	// Installed reports whether this version is the one installed for the kernel;
	// Current, whether the kernel's directory holds exactly what was built.
	Installed, Current bool
	// Damaged says which module of a build that is not Current cannot be one, and why;
	// empty if all can.
	Damaged string
	// TakenBy is the package that somebody had place a module in place of this one's,
	// which is why Current is false; else zero.
	TakenBy tree.ID
	// BuiltAgainst holds the versions of the dependencies at build time, by
	// package name, if the build recorded them.
	BuiltAgainst map[string]string
	// Stale says why the build is not what would be built now; empty if it is, or
	// if nobody knows.
	Stale string
	// OtherKey reports whether the modules would be signed with another key now, and are
	// else what would be built.
	OtherKey bool
	// SignedAsNow reports whether the record of the build says that the modules are signed
	// with the key that would sign them now.
	SignedAsNow bool
	// Unrecorded is what the build will be compared with from now on, if it has no
	// record of what it was made from, because somebody else made it; else nil.
	Unrecorded *fingerprint.Fingerprint
	// Failed is why the last build of the same failed, and would again; nil if it
	// did not.
	Failed *failure.Failure
	// WeakFrom is the release of the kernel whose modules of this version the
	// kernel shares by links (weak modules); empty if it does not.
	WeakFrom string
}

// Complete reports whether the build holds every module that the conf names.
func (s Seen) Complete() bool {
	return !slices.ContainsFunc(s.Conf.Modules, func(m conf.Module) bool {
		return !slices.ContainsFunc(s.Modules, func(file string) bool {
			name, _, ok := kmod.SplitName(file)
			return ok && name == m.DestName
		})
	})
}

// Scope says what is to be found out.
type Scope struct {
	// Only names the packages that it is about; nil means all. The confs of
	// installed ones are read all the same.
	Only []tree.ID
	// Renew finds out which builds are stale.
	Renew bool
	// Replaced is a package whose source may have been replaced in its place. Only
	// the source of its builds counts, and a build without a record is stale.
	Replaced tree.ID
	// Force ignores modules that are not the package's own; of the packages Named, too.
	Force bool
	Named []tree.ID
	// Damaged are packages whose builds are not what was built, though they may look so.
	Damaged []tree.ID
}

// Look reads the tree of m, for the given kernels alone. Errors are of type
// [*failure.Failure].
func Look(m *machine.Machine, kernels []tree.Target) (*Snapshot, error) {
	if m.WeakScript(machine.WeakAdd, "") != nil {
		kernels = nil // builds for other kernels may serve these
	}
	packages, err := m.Tree.Read(kernels...)
	if err != nil {
		return nil, failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	registered := slices.DeleteFunc(slices.Clone(packages), func(p tree.Package) bool { return p.Kept })
	return &Snapshot{Machine: m, Packages: packages, registered: registered, failures: openFailures(m)}, nil
}

// Remembered looks at all packages from kernel k, with what the cache remembers of
// their confs. A package that it does not know has an error for its conf. If there is
// something to do by what it says, look again with [Snapshot.Fresh]: the cache does
// not watch everything that a conf reads.
func (s *Snapshot) Remembered(ctx context.Context, k tree.Target, scope Scope) View {
	cache := s.ConfCache(k)
	return s.view(ctx, k, scope, func(id tree.ID) (conf.Conf, error) {
		found, ok := cache.Get(confSource(s.Machine, id, k), s.Settings)
		if !ok {
			return found, errUnknown
		}
		return found, nil
	})
}

// errUnknown is the error for a conf that the cache does not know.
var errUnknown = errors.New("not in the cache")

// Fresh looks at all packages from kernel k.
func (s *Snapshot) Fresh(ctx context.Context, k tree.Target, scope Scope) View {
	return s.view(ctx, k, scope, func(id tree.ID) (conf.Conf, error) { return Conf(s.Machine, id, k) })
}

// Remember keeps in the cache what the confs said that v, from [Snapshot.Fresh], is
// made of.
func (s *Snapshot) Remember(v View) error {
	confs := map[*conf.Source]conf.Conf{}
	for _, p := range v.Packages {
		if p.Source != "" && p.ConfErr == nil {
			src := confSource(s.Machine, p.ID, v.Target)
			confs[&src] = p.Conf
		}
	}
	return s.ConfCache(v.Target).Replace(confs, s.Settings)
}

func (s *Snapshot) view(ctx context.Context, k tree.Target, scope Scope, read func(tree.ID) (conf.Conf, error)) View {
	kern := s.Kernel(k)
	v := View{Target: k, Headers: kern.HasHeaders(), LacksHeaders: kern.LacksHeaders(), Packages: make([]Seen, len(s.registered))}
	if !v.Headers {
		v.HeadersHint = s.HeadersHint(k.Release)
	}
	placed := make([]place.Placement, len(s.registered))
	weak, installed := weakModules(s.Machine, k.Release, s.Packages), Installed(s.Packages, k)
	files.Each(len(s.registered), func(i int) {
		p := s.registered[i]
		seen := Seen{ID: p.ID, Source: p.Source, WeakFrom: weak[p.ID].Release}
		if b, ok := p.Build(k); ok {
			seen.Built, seen.Modules, seen.Installed = true, b.Modules, b.Installed
		}
		if p.Source != "" && (seen.Installed || scope.Only == nil || slices.Contains(scope.Only, p.ID)) {
			seen.Conf, seen.ConfErr = read(p.ID)
		}
		if seen.Installed {
			p := Placement(s.Machine, s.Packages, installed, k, seen)
			p.Force, p.Explicit = scope.Force || slices.Contains(scope.Named, seen.ID), true
			seen.Current = s.Modules(k).Current(p)
			if p.Explicit = false; !seen.Current && s.Modules(k).Current(p) {
				seen.TakenBy = s.Modules(k).TakenBy(p)
			}
			placed[i] = p
		}
		if seen.Built && !seen.Current {
			seen.Damaged = damaged(s.Tree.ModuleDir(p.ID, k), seen.Modules)
		}
		if seen.Built && slices.Contains(scope.Damaged, p.ID) {
			seen.Damaged = cmp.Or(seen.Damaged, "it is not what was built")
		}
		if seen.Built && seen.Conf.BuildDependsRebuild {
			seen.BuiltAgainst = s.Tree.BuiltAgainst(p.ID, k)
		}
		if p.Source != "" && seen.ConfErr == nil {
			if (scope.Renew || scope.Force) && seen.Built {
				stale(ctx, s, &seen, k, p.ID == scope.Replaced)
			}
			seen.Failed = s.failures.of(ctx, s.Machine, seen, k)
		}
		v.Packages[i] = seen
	})
	v.Unindexed = s.Modules(k).Unindexed(placed)
	return v
}

// damaged says which of the modules in dir a crash or a full disk left empty or cut off.
func damaged(dir string, modules []string) string {
	for _, name := range modules {
		if _, err := kmod.ReadInfo(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err.Error()
		}
	}
	return ""
}

// confSource says which conf of id for k is meant.
func confSource(m *machine.Machine, id tree.ID, k tree.Target) conf.Source {
	kern := m.Kernel(k)
	return conf.Source{
		File:             filepath.Join(m.Tree.SourceDir(id), "dkms.conf"),
		Module:           id.Name,
		Version:          id.Version,
		Release:          k.Release,
		Arch:             k.Arch,
		KernelSourceDir:  kern.SourceDir,
		KernelConfigFile: kern.ConfigFile(),
		Config:           kern.Enabled,
		Directives:       m.Directives,
	}
}

// Conf reads the conf of a registered package for a kernel.
func Conf(m *machine.Machine, id tree.ID, k tree.Target) (conf.Conf, error) {
	src := confSource(m, id, k)
	if fi, err := os.Stat(src.File); err != nil || !fi.Mode().IsRegular() {
		return conf.Conf{Name: id.Name, Version: id.Version}, &conf.Error{File: src.File, Problems: []string{"there is no such file"}, Err: fs.ErrNotExist}
	}
	// What it calls itself does not count: packages exist that leave a
	// placeholder there.
	return m.ReadConf(src)
}

// ConfFile reads file as the conf of a package that is not registered yet, for a
// kernel. An empty id takes the names that the conf gives.
func ConfFile(m *machine.Machine, file string, id tree.ID, k tree.Target) (conf.Conf, error) {
	src := confSource(m, id, k)
	src.File = file
	return m.ReadConf(src)
}

// Environment is what commands of a package find when they work for a kernel.
func Environment(m *machine.Machine, id tree.ID, k tree.Target) build.Environment {
	set, err := m.SettingsFor(k.Release)
	if err != nil {
		set = m.Settings // a build fails by it; a script need not
	}
	return build.Environment{
		ID: id, Kernel: m.Kernel(k), Settings: set, Passed: m.Passed,
		Vars: append(confSource(m, id, k).Vars(m.Settings), "PACKAGE_NAME="+id.Name, "PACKAGE_VERSION="+id.Version),
	}
}

// Description says how a package is built for a kernel, as far as what comes out
// of it depends on it.
func Description(m *machine.Machine, seen Seen, k tree.Target) build.Description {
	return build.Description{Environment: Environment(m, seen.ID, k), Source: seen.Source, Conf: seen.Conf, Tree: m.Tree}
}

// Placement returns the modules of a package, one of packages, and where its conf
// sends them. Packages are those of the tree, sorted by name, and installed those that
// [Installed] returns of them.
func Placement(m *machine.Machine, packages []tree.Package, installed []tree.ID, k tree.Target, o Seen) place.Placement {
	p := place.Placement{ID: o.ID, Installed: o.Installed, Others: installed, Override: m.Overrides(o.Name)}
	first, _ := slices.BinarySearchFunc(packages, o.Name, func(p tree.Package, name string) int { return strings.Compare(p.Name, name) })
	for _, other := range packages[first:] {
		if other.Name != o.Name {
			break
		}
		p.Versions = append(p.Versions, other.Version)
		b, _ := other.Build(k)
		p.Installed = p.Installed || b.Installed
	}
	for _, file := range o.Modules {
		mod := place.Module{File: file, Location: m.Settings.AddonModulesDir}
		for _, c := range o.Conf.Modules {
			if strings.HasPrefix(file, c.DestName+".ko") {
				mod.Location = c.DestLocation
			}
		}
		p.Modules = append(p.Modules, mod)
	}
	return p
}

// Installed returns those of packages that are installed for k.
func Installed(packages []tree.Package, k tree.Target) (list []tree.ID) {
	for _, p := range packages {
		if b, _ := p.Build(k); b.Installed {
			list = append(list, p.ID)
		}
	}
	return list
}

// HasInstalled reports whether a version of the package called name is installed for
// k.
func HasInstalled(packages []tree.Package, name string, k tree.Target) bool {
	return slices.ContainsFunc(packages, func(p tree.Package) bool {
		b, _ := p.Build(k)
		return p.Name == name && b.Installed
	})
}
