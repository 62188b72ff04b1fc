// SPDX-License-Identifier: GPL-2.0-or-later

// Package tree reads and changes the DKMS tree, /var/lib/dkms: which packages
// are registered, and which of their builds exist and are installed.
//
// The layout is the classic one:
//
//	M/V/source            -> the source; M/V is registered while it resolves
//	M/V/build/               scratch
//	M/V/K/A/module/          a build: the finished modules
//	M/V/K/A/log/make.log     its log
//	M/kernel-K-A          -> V/K/A: installed
//	M/V/tarball/             archives that were made of the package
//	M/.kept-V/K/A/           a build of a version that is not registered any more,
//	                         installed until another version is: not classic
//	M/original_module/K/A/   what an installed module displaced
//
// M and V are the package's name and version, K and A a kernel's release and
// architecture. Every change takes effect by one rename, symlink or removal, which
// is complete or has not happened.
//
// No package, version, kernel or architecture has a name that begins with a dot.
// The names that [files.TempName] makes are temporaries, which [Tree.Heal] removes.
// Other names with a dot are records of this program, such as .lock, or of the
// classic one, such as .dep_M: the file in K/A with the version of M that the build
// was made against.
package tree

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/files"
)

// Tree is the DKMS tree in one directory.
type Tree struct {
	Dir string
	// Sources is the directory that sources are kept in, usually /usr/src. A
	// directory M/V without a source link and without builds is a broken package
	// if Sources has an M-V, and else not a package. Empty means that it has none.
	Sources string
	// Image reports whether the tree is part of an image that is being made, in which no
	// lock is to stay.
	Image bool
}

// ID names a package.
type ID struct{ Name, Version string }

func (id ID) String() string { return id.Name + "/" + id.Version }

const keptPrefix = ".kept-"

// KeptID returns the ID under which builds of id are kept. No version begins with a dot.
func KeptID(id ID) ID { return ID{id.Name, keptPrefix + id.Version} }

// Unkept returns the ID of a package of which builds are kept under id; any other is
// returned as it is.
func (id ID) Unkept() ID { return ID{id.Name, strings.TrimPrefix(id.Version, keptPrefix)} }

// Target names a kernel by its release and architecture.
type Target struct{ Release, Arch string }

func (t Target) String() string { return t.Release + "/" + t.Arch }

// ParseTarget returns the kernel that K-A names, the end of the name of a link or a record.
// It reports false if that can name none.
func ParseTarget(name string) (Target, bool) {
	i := strings.LastIndexByte(name, '-')
	k := Target{name[:max(i, 0)], name[i+1:]}
	return k, CheckTarget(k) == nil
}

// Package is a snapshot of one M/V.
type Package struct {
	ID
	// Source is the directory that the source link leads to. It is empty if the
	// link leads to no directory: then the package is broken.
	Source string
	// Kept reports whether the package is not registered any more, and only has the
	// builds that are installed until another version is. Its Version then is that of
	// [KeptID].
	Kept bool
	// Builds are sorted by kernel release, then architecture.
	Builds []Build
	// Originals reports whether some version of the package displaced modules of
	// some kernel, which are archived.
	Originals bool
}

// Broken reports whether the package's source is gone.
func (p Package) Broken() bool { return p.Source == "" }

// Build returns the package's build for k.
func (p Package) Build(k Target) (Build, bool) {
	for _, b := range p.Builds {
		if b.Target == k {
			return b, true
		}
	}
	return Build{}, false
}

// Build is one K/A directory of a package.
type Build struct {
	Target
	// Installed reports whether the kernel's link leads here.
	Installed bool
	// Originals reports whether some version of the package displaced modules of
	// this kernel, which are archived.
	Originals bool
	// Modules are the file names of the modules, such as foo.ko.xz, sorted.
	Modules []string
}

// PackageDir returns the directory of a package.
func (t Tree) PackageDir(id ID) string { return filepath.Join(t.Dir, id.Name, id.Version) }

// SourceDir returns the path of the link to the package's source.
func (t Tree) SourceDir(id ID) string { return filepath.Join(t.PackageDir(id), "source") }

// BuildDir returns the directory in which a package is built.
func (t Tree) BuildDir(id ID) string { return filepath.Join(t.PackageDir(id), "build") }

// StagingDir returns the temporary directory in which a build of id for k is put
// together. A rename makes it the build.
func (t Tree) StagingDir(id ID, k Target) string {
	return filepath.Join(t.PackageDir(id), files.TempName("build-"+k.Release+"-"+k.Arch))
}

// TargetDir returns the directory of a package's build for k.
func (t Tree) TargetDir(id ID, k Target) string {
	return filepath.Join(t.PackageDir(id), k.Release, k.Arch)
}

// TarballDir returns the directory of archives that were made of a package.
func (t Tree) TarballDir(id ID) string { return filepath.Join(t.PackageDir(id), tarballs) }

// ModuleDir returns the directory of the finished modules of a build.
func (t Tree) ModuleDir(id ID, k Target) string {
	return filepath.Join(t.TargetDir(id, k), "module")
}

// OriginalDir returns the directory that archives the modules of k which modules
// of the package called name displaced.
func (t Tree) OriginalDir(name string, k Target) string {
	return filepath.Join(t.Dir, name, originals, k.Release, k.Arch)
}

// PlacedFile returns the path of the record of how the modules of the package called name
// look that were placed for k.
func (t Tree) PlacedFile(name string, k Target) string {
	return filepath.Join(t.Dir, name, ".placed-"+k.Release+"-"+k.Arch)
}

// InstalledLink returns the path of the link that says which version of the package called
// name is installed for k: it leads to V/K/A.
func (t Tree) InstalledLink(name string, k Target) string {
	return filepath.Join(t.Dir, name, "kernel-"+k.Release+"-"+k.Arch)
}

// CheckID returns an error unless id can name a package in the tree.
func CheckID(id ID) error {
	for _, s := range []string{id.Name, id.Version} {
		if err := conf.CheckName(s); err != nil {
			return err
		}
	}
	return conf.CheckReserved(id.Name, id.Version)
}

// CheckTarget returns an error unless k can name a kernel in the tree.
func CheckTarget(k Target) error {
	for _, s := range []string{k.Release, k.Arch} {
		if err := conf.CheckName(s); err != nil {
			return err
		}
	}
	if slices.Contains(reserved, k.Release) {
		return fmt.Errorf("%q is not a kernel release: the tree uses that name", k.Release)
	}
	return nil
}

// tarballs is the directory of a package's archives, beside its builds.
const tarballs = "tarball"

// reserved are the names in a package's directory that are not kernels.
var reserved = []string{"source", "build", tarballs}

const originals = conf.Originals
