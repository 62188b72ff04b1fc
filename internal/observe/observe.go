// Package observe says what is there: which packages are registered, what is built
// from what, what is placed, and what would be built now. It changes nothing but
// caches.
package observe

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/tree"
)

// Kernel is a kernel, and every registered package as seen from it.
type Kernel struct {
	tree.Target
	Headers     bool // they are installed
	SourceDir   string
	HeadersHint string // how to get the headers
	Packages    []Package
	// Remembered reports whether what the confs say may be from the cache. What
	// such an observation shows to be due is to be looked at again with [Fresh].
	Remembered bool
}

// Package is what is known of one registered package, seen from one kernel.
type Package struct {
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
	// BuiltAgainst holds the versions of the dependencies at build time, by
	// package name, if the build recorded them.
	BuiltAgainst map[string]string
	// Stale says why the build is not what would be built now; empty if it is, or
	// if nobody knows.
	Stale string
	// Unrecorded is what would be built now, if nobody recorded what the build that
	// is there was made from; else nil. Somebody else made it.
	Unrecorded *fingerprint.Fingerprint
	// Failed is why the last build of the same failed, and would again; nil if it
	// did not.
	Failed *failure.Failure
	// WeakFrom is the release of the kernel whose modules of this version the
	// kernel shares by links (weak modules); empty if it does not.
	WeakFrom string
}

// Scope says what is to be found out.
type Scope struct {
	// Only names the packages that it is about; nil means all. The confs of
	// installed ones are read all the same.
	Only []tree.ID
	// Renew finds out which builds are stale.
	Renew bool
	// Replaced is a package whose source may have been replaced in its place; see
	// [Package.Stale].
	Replaced tree.ID
	// Force takes a module that is not the package's own for none.
	Force bool
}

// Machine is everything that is registered on a machine.
type Machine struct {
	*machine.Machine
	Packages []tree.Package
	failures *failures
}

// Look reads the tree of m, for the given kernels alone.
func Look(m *machine.Machine, kernels []tree.Target) (*Machine, error) {
	if m.WeakScript(machine.WeakAdd, "") != nil {
		kernels = nil // builds for other kernels may serve these
	}
	packages, err := m.Tree.Read(kernels...)
	if err != nil {
		return nil, failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	return &Machine{m, packages, openFailures(m)}, nil
}

// Remembered looks at all packages from kernel k, with what the cache remembers of
// their confs. A package that it does not know has an error for its conf.
func (m *Machine) Remembered(ctx context.Context, k tree.Target, s Scope) Kernel {
	cache := m.ConfCache(k)
	seen := m.look(ctx, k, s, func(id tree.ID) (conf.Conf, error) {
		found, ok := cache.Get(confSource(m.Machine, id, k), m.Settings)
		if !ok {
			return found, errUnknown
		}
		return found, nil
	})
	seen.Remembered = true
	return seen
}

// errUnknown is why what the cache alone says cannot be relied on.
var errUnknown = errors.New("not in the cache")

// Fresh looks at all packages from kernel k.
func (m *Machine) Fresh(ctx context.Context, k tree.Target, s Scope) Kernel {
	return m.look(ctx, k, s, func(id tree.ID) (conf.Conf, error) { return Conf(m.Machine, id, k) })
}

// Remember keeps what the confs said that seen, from [Machine.Fresh], is made of.
func (m *Machine) Remember(seen Kernel) error {
	confs := map[*conf.Source]conf.Conf{}
	for _, p := range seen.Packages {
		if p.Source != "" && p.ConfErr == nil {
			src := confSource(m.Machine, p.ID, seen.Target)
			confs[&src] = p.Conf
		}
	}
	return m.ConfCache(seen.Target).Replace(confs, m.Settings)
}

func (m *Machine) look(ctx context.Context, k tree.Target, s Scope, read func(tree.ID) (conf.Conf, error)) Kernel {
	kern := m.Kernel(k)
	seen := Kernel{Target: k, Headers: kern.HasHeaders(), SourceDir: kern.SourceDir, Packages: make([]Package, len(m.Packages))}
	if !seen.Headers {
		seen.HeadersHint = m.HeadersHint(k.Release)
	}
	weak := weakModules(m.Machine, k.Release, m.Packages)
	files.Each(len(m.Packages), func(i int) {
		p := m.Packages[i]
		o := Package{ID: p.ID, Source: p.Source, WeakFrom: weak[p.ID].Release}
		if b, ok := p.Build(k); ok {
			o.Built, o.Modules, o.Installed = true, b.Modules, b.Installed
		}
		if p.Source != "" && (o.Installed || s.Only == nil || slices.Contains(s.Only, p.ID)) {
			o.Conf, o.ConfErr = read(p.ID)
		}
		if o.Installed {
			o.Current = m.Modules(k).Current(Placement(m.Machine, m.Packages, k, o, s.Force))
		}
		if o.Built && o.Conf.BuildDependsRebuild {
			o.BuiltAgainst = m.Tree.BuiltAgainst(p.ID, k)
		}
		if p.Source != "" && o.ConfErr == nil {
			m.compare(ctx, &o, k, s)
		}
		seen.Packages[i] = o
	})
	return seen
}

// compare compares the build of o, and the last that failed, with what would be
// built now.
func (m *Machine) compare(ctx context.Context, o *Package, k tree.Target, s Scope) {
	if s.Renew && o.Built {
		o.Stale, o.Unrecorded = stale(ctx, m.Machine, *o, k, o.ID == s.Replaced)
	}
	o.Failed = m.failures.of(ctx, m.Machine, *o, k)
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
	return m.Shell.Read(src, m.Settings)
}

// ConfFile reads file as the conf of a package that is not registered yet, for a
// kernel. An empty id takes the names that the conf gives.
func ConfFile(m *machine.Machine, file string, id tree.ID, k tree.Target) (conf.Conf, error) {
	src := confSource(m, id, k)
	src.File = file
	return m.Shell.Read(src, m.Settings)
}

// Environment is what commands of a package find when they work for a kernel.
func Environment(m *machine.Machine, id tree.ID, k tree.Target) build.Environment {
	return build.Environment{
		ID: id, Kernel: m.Kernel(k), Settings: m.Settings,
		Vars: append(confSource(m, id, k).Vars(m.Settings), "PACKAGE_NAME="+id.Name, "PACKAGE_VERSION="+id.Version),
	}
}

// Description says how a package is built for a kernel, as far as what comes out
// of it depends on it.
func Description(m *machine.Machine, p Package, k tree.Target) build.Description {
	return build.Description{Environment: Environment(m, p.ID, k), Source: p.Source, Conf: p.Conf, Tree: m.Tree}
}

// Placement returns the modules of a package, one of packages, and where its conf
// sends them. Packages are those of the tree, sorted by name.
func Placement(m *machine.Machine, packages []tree.Package, k tree.Target, o Package, force bool) place.Placement {
	p := place.Placement{ID: o.ID, Installed: o.Installed, Force: force}
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

// HasInstalled reports whether a version of the package called name is installed for
// k.
func HasInstalled(packages []tree.Package, name string, k tree.Target) bool {
	return slices.ContainsFunc(packages, func(p tree.Package) bool {
		b, _ := p.Build(k)
		return p.Name == name && b.Installed
	})
}
