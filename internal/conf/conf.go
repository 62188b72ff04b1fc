// SPDX-License-Identifier: GPL-2.0-or-later

// Package conf reads the configuration of DKMS: the dkms.conf of a package with
// its overrides, framework.conf, and a few other shell files. All are bash scripts.
// A [Shell] has bash evaluate them, and callers get typed values.
package conf

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Conf is what a package's dkms.conf and its overrides say for one kernel.
// dkms.conf(5) describes the directives.
type Conf struct {
	Name    string // PACKAGE_NAME
	Version string // PACKAGE_VERSION
	// Modules are in the order of their array index, without those that
	// BUILD_EXCLUSIVE rules out for the kernel. A conf need not have any.
	Modules []Module
	// Make is the command that applies to the kernel. If it is empty, the
	// generic one does.
	Make    string
	Patches []string // names of those that apply to the kernel

	// Each is a script of the package, relative to its source, and its arguments.
	// Empty means none.
	PreBuild, PostBuild, PreInstall, PostInstall, PostAdd, PostRemove string

	BuildDepends        []string // package names
	BuildDependsRebuild bool     // BUILD_DEPENDS_REBUILD
	Autoinstall         bool     // AUTOINSTALL
	NoWeakModules       bool     // NO_WEAK_MODULES

	// Excluded is the reason why BUILD_EXCLUSIVE or OBSOLETE_BY rules the whole
	// package out for the kernel. It is empty if they do not.
	Excluded string
	// Warnings are about what is odd in the conf, and no error.
	Warnings []string
}

// Module is one .ko of a package.
type Module struct {
	BuiltName     string // without suffix
	BuiltLocation string // cleaned directory below the build directory; "." is the build directory itself
	DestName      string // without suffix
	DestLocation  string // cleaned directory below /lib/modules/K, with a leading slash
	Strip         bool   // Strip reports whether to remove debug symbols.
}

// A KernelConfig reports whether a kernel has option, spelled with CONFIG_, as y or
// m. It returns an error if it cannot read the kernel's configuration.
// BUILD_EXCLUSIVE_CONFIG excludes nothing then.
type KernelConfig func(option string) (bool, error)

// Source names a package and a kernel whose conf is wanted.
type Source struct {
	// File is the package's dkms.conf.
	File string
	// Module and Version are the name and the version of the package in the
	// tree.
	Module, Version string
	Release, Arch   string // of the kernel
	// KernelSourceDir is the directory of the kernel's headers.
	// KernelConfigFile is the file with its configuration.
	KernelSourceDir, KernelConfigFile string
	// Config looks into the kernel's configuration.
	Config KernelConfig
	// Directives are NAME=VALUE from the command line. They override files.
	Directives []string
}

// Vars returns the shell variables that a conf and its commands may read.
func (s Source) Vars(set Settings) []string {
	jobs := ""
	if set.ParallelJobs != NoLimit {
		jobs = strconv.Itoa(set.ParallelJobs)
	}
	return []string{
		"kernelver=" + s.Release,
		"arch=" + s.Arch,
		"kernel_source_dir=" + s.KernelSourceDir,
		"kernel_config=" + s.KernelConfigFile,
		"dkms_tree=" + set.DkmsTree,
		"source_tree=" + set.SourceTree,
		"install_tree=" + set.InstallTree,
		"module=" + s.Module,
		"module_version=" + s.Version,
		"parallel_jobs=" + jobs,
	}
}

// Files returns the conf and those of its overrides that exist, in the order in
// which they are evaluated.
func (s Source) Files(set Settings) []string {
	mv := s.Module + "-" + s.Version
	files := []string{s.File}
	for _, name := range []string{
		s.Module,
		mv,
		mv + "-" + s.Release,
		mv + "-" + s.Release + "-" + s.Arch,
		s.Module + "--" + s.Release,
		s.Module + "--" + s.Release + "-" + s.Arch,
	} {
		name += ".conf"
		if set.Overrides != nil && !set.Overrides[name] {
			continue
		}
		file := filepath.Join(set.EtcDir, name)
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	return files
}

// Error is everything that is wrong with one conf.
type Error struct {
	File     string
	Problems []string // one sentence each
	Err      error    // Err is the cause, or nil if the directives themselves are wrong.
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	return e.File + ": " + strings.Join(e.Problems, "; ")
}

// Read evaluates the conf of src. If something is wrong with the conf, the error is
// an [*Error]. Read returns a Conf even then, as far as it could be read: a package
// with a broken conf can still be uninstalled.
func (s *Shell) Read(src Source, set Settings) (Conf, error) {
	v, err := s.eval(request{
		before: append(src.Vars(set), "__addon_modules_dir="+set.AddonModulesDir),
		files:  src.Files(set),
		after:  src.Directives,
		names:  confNames,
	})
	if err != nil {
		return Conf{Name: src.Module, Version: src.Version}, &Error{src.File, []string{err.Error()}, err}
	}
	return fromValues(v, src, set)
}
