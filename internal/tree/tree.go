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
//	M/original_module/K/A/   what an installed module displaced
//
// Every change is one rename, symlink or removal that is complete or has not
// happened; names that begin with a dot are temporaries of this program.
package tree

import (
	"fmt"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/files"
)

// Tree is the DKMS tree in one directory.
type Tree struct {
	Dir string
	// Sources is where sources are kept, usually /usr/src: a directory M/V is one of
	// a broken package, and not of somebody else, where M-V is there.
	Sources string
}

// ID names a package.
type ID struct{ Name, Version string }

func (id ID) String() string { return id.Name + "/" + id.Version }

// Target names a kernel by its release and architecture.
type Target struct{ Release, Arch string }

func (t Target) String() string { return t.Release + "/" + t.Arch }

// Package is a snapshot of one M/V.
type Package struct {
	ID
	// Source is the directory that the source link leads to; empty where it
	// leads to no directory, and the package is broken.
	Source string
	// Builds are sorted by kernel release, then architecture.
	Builds []Build
	// Originals says that modules which stood in the way of some version's are
	// archived, for some kernel.
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
	// Installed says that the kernel's link points here.
	Installed bool
	// Originals says that modules which stood in the way are archived.
	Originals bool
	// Modules are the file names of the modules, such as foo.ko.xz, sorted.
	Modules []string
}

// PackageDir returns the directory of a package.
func (t Tree) PackageDir(id ID) string { return filepath.Join(t.Dir, id.Name, id.Version) }

// SourceDir returns the link to the package's source.
func (t Tree) SourceDir(id ID) string { return filepath.Join(t.PackageDir(id), "source") }

// BuildDir returns the directory in which a package is built.
func (t Tree) BuildDir(id ID) string { return filepath.Join(t.PackageDir(id), "build") }

// StagingDir returns the directory that holds what a build for k is made of until it
// is one. It is a temporary.
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

// OriginalDir returns the directory that keeps the modules which a module of the
// package called name displaced.
func (t Tree) OriginalDir(name string, k Target) string {
	return filepath.Join(t.Dir, name, originals, k.Release, k.Arch)
}

func (t Tree) installedLink(name string, k Target) string {
	return filepath.Join(t.Dir, name, "kernel-"+k.Release+"-"+k.Arch)
}

// CheckID reports whether id can be the name of a package in the tree.
func CheckID(id ID) error {
	for _, s := range []string{id.Name, id.Version} {
		if err := conf.CheckName(s); err != nil {
			return err
		}
	}
	if id.Version == originals {
		return fmt.Errorf("%q is the name of the archive in the tree", id.Version)
	}
	return nil
}

// CheckTarget reports whether k can be the name of a kernel in the tree.
func CheckTarget(k Target) error {
	for _, s := range []string{k.Release, k.Arch} {
		if err := conf.CheckName(s); err != nil {
			return err
		}
	}
	if slices.Contains(reserved, k.Release) {
		return fmt.Errorf("%q is no kernel release, but the name of a directory in the tree", k.Release)
	}
	return nil
}

// tarballs is the directory, beside the builds of a package, of archives of it.
const tarballs = "tarball"

// reserved are names in the directory of a package that are no kernel's.
var reserved = []string{"source", "build", tarballs}

// originals is the directory, beside the versions of a package, that keeps modules
// which the package's displaced.
const originals = "original_module"
