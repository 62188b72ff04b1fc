// SPDX-License-Identifier: GPL-2.0-or-later

// Package conf reads the configuration of DKMS: the dkms.conf of a package with
// its overrides, and framework.conf. Both are bash scripts; bash itself
// evaluates them, and this package turns what they set into typed values.
// Nothing above it knows that a shell exists.
package conf

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"dkms-kernel-install/internal/version"
)

// Conf is what a package's dkms.conf and its overrides say for one kernel. The
// directives are described in dkms(8).
type Conf struct {
	Name    string // PACKAGE_NAME
	Version string // PACKAGE_VERSION
	// Modules are in the order of their array index; none is excluded.
	Modules []Module
	// Make is the command that applies to the kernel; empty means the
	// generic one.
	Make    string
	Patches []string // those that apply to the kernel

	PreBuild, PostBuild, PreInstall, PostInstall, PostAdd, PostRemove string

	BuildDepends        []string // package names
	BuildDependsRebuild bool
	Autoinstall         bool
	NoWeakModules       bool

	// Excluded says why BUILD_EXCLUSIVE rules the whole package out for the
	// kernel; empty when it does not.
	Excluded string
	// Warnings are about directives that no longer have a meaning.
	Warnings []string
}

// Module is one .ko of a package.
type Module struct {
	BuiltName     string // without suffix
	BuiltLocation string // directory inside the build directory, cleaned; "." is its top
	DestName      string // without suffix
	DestLocation  string // directory below /lib/modules/K, cleaned, begins with "/"
	Strip         bool   // remove debug symbols
}

// A KernelConfig answers for a kernel's configuration: whether option, spelled
// with CONFIG_, is y or m. It fails where there is no configuration to look at;
// BUILD_EXCLUSIVE_CONFIG then excludes nothing.
type KernelConfig func(option string) (bool, error)

// Source names a package and a kernel whose conf is wanted.
type Source struct {
	// File is the package's dkms.conf.
	File string
	// Module and Version are what the package is called in the tree.
	Module, Version string
	Release, Arch   string // of the kernel
	// KernelSourceDir is the kernel's headers, KernelConfigFile their
	// configuration.
	KernelSourceDir, KernelConfigFile string
	Config                            KernelConfig
	// Directives are NAME=VALUE from the command line; they win over files.
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
// which they are sourced.
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

var confNames = strings.Fields(`PACKAGE_NAME PACKAGE_VERSION
	BUILT_MODULE_NAME BUILT_MODULE_LOCATION DEST_MODULE_NAME DEST_MODULE_LOCATION STRIP
	MAKE MAKE_MATCH PATCH PATCH_MATCH
	PRE_BUILD POST_BUILD PRE_INSTALL POST_INSTALL POST_ADD POST_REMOVE
	BUILD_DEPENDS BUILD_DEPENDS_REBUILD
	BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX
	BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG
	AUTOINSTALL NO_WEAK_MODULES
	` + retired)

// retired are directives that have no meaning any more, but for OBSOLETE_BY's.
const retired = `CLEAN REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_OBSOLETE_ONLY MODULES_CONF_ALIAS_TYPE OBSOLETE_BY`

// Error is everything that is wrong with one conf, a line for each.
type Error struct {
	File     string
	Problems []string
	Err      error // the cause, where it is one error
}

func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	return e.File + ": " + strings.Join(e.Problems, "; ")
}

// Read evaluates the conf of src. What is wrong with it comes as an *Error; the
// Conf is returned all the same, as far as it could be read, so that a package
// with a broken conf can still be uninstalled.
func (s *Shell) Read(src Source, set Settings) (Conf, error) {
	v, err := s.eval(request{
		before: src.Vars(set),
		files:  src.Files(set),
		after:  src.Directives,
		names:  confNames,
	})
	if err != nil {
		return Conf{Name: src.Module, Version: src.Version}, &Error{src.File, []string{err.Error()}, err}
	}
	return fromValues(v, src, set)
}

// fromValues applies the rules for directives to what a conf set.
func fromValues(v values, src Source, set Settings) (Conf, error) {
	c := Conf{
		Name:        v.get("PACKAGE_NAME"),
		Version:     v.get("PACKAGE_VERSION"),
		PreBuild:    v.get("PRE_BUILD"),
		PostBuild:   v.get("POST_BUILD"),
		PreInstall:  v.get("PRE_INSTALL"),
		PostInstall: v.get("POST_INSTALL"),
		PostAdd:     v.get("POST_ADD"),
		PostRemove:  v.get("POST_REMOVE"),
	}
	var problems []string
	problem := func(format string, args ...any) {
		problems = append(problems, fmt.Sprintf(format, args...))
	}
	yes := func(name string) bool {
		b, ok := parseBool(v.get(name))
		if !ok {
			problem("%s must be yes or no, not %q", name, v.get(name))
		}
		return b
	}

	for _, name := range []string{"PACKAGE_NAME", "PACKAGE_VERSION"} {
		if v.get(name) == "" {
			problem("%s is missing", name)
		} else if err := CheckName(v.get(name)); err != nil {
			problem("%s: %v", name, err)
		}
	}
	c.Autoinstall = yes("AUTOINSTALL")
	c.NoWeakModules = yes("NO_WEAK_MODULES")
	c.BuildDependsRebuild = yes("BUILD_DEPENDS_REBUILD")
	for _, i := range indices(v["BUILD_DEPENDS"]) {
		if dep := v["BUILD_DEPENDS"][i]; dep == "" {
			continue
		} else if err := CheckName(dep); err != nil {
			problem("BUILD_DEPENDS[%d]: %v", i, err)
		} else if !slices.Contains(c.BuildDepends, dep) {
			c.BuildDepends = append(c.BuildDepends, dep)
		}
	}

	matched := func(name string, i int) bool {
		switch v["matches "+name][i] {
		case "0":
			return true
		case "1":
			return false
		}
		problem("%s[%d]: %q is no extended regular expression", name, i, v[name][i])
		return false
	}

	for _, i := range indices(v["MAKE"]) {
		match, given := v["MAKE_MATCH"][i]
		given = given && match != ""
		if v["MAKE"][i] == "" || i > 0 && !given || given && !matched("MAKE_MATCH", i) {
			continue
		}
		c.Make = v["MAKE"][i]
	}
	for _, i := range indices(v["PATCH"]) {
		patch := v["PATCH"][i]
		if patch == "" || v["PATCH_MATCH"][i] != "" && !matched("PATCH_MATCH", i) {
			continue
		}
		// An unsafe one is for the build to refuse: it has an exit status
		// of its own there.
		c.Patches = append(c.Patches, patch)
	}

	x := exclusive{v: v, src: src, matched: matched}
	c.Excluded = x.rule(0)
	c.modules(v, set, problem, x.rule)
	if obsolete := v.get("OBSOLETE_BY"); obsolete != "" && v.get("BUILD_EXCLUSIVE_KERNEL_MAX") == "" && c.Excluded == "" &&
		version.Compare(src.Release, obsolete) > 0 {
		c.Excluded = fmt.Sprintf("OBSOLETE_BY is %s", obsolete)
	}

	for _, name := range strings.Fields(retired) {
		// CLEAN="true" is how packages silence the warning for it.
		if value := v.get(name); value != "" && !(name == "CLEAN" && value == "true") {
			c.Warnings = append(c.Warnings, name+" is a retired directive")
		}
	}
	if problems != nil {
		return c, &Error{File: src.File, Problems: problems}
	}
	return c, nil
}

// modules fills in the modules that exclude does not rule out.
func (c *Conf) modules(v values, set Settings, problem func(string, ...any), exclude func(int) string) {
	all := map[int]string{}
	for _, name := range []string{"BUILT_MODULE_NAME", "DEST_MODULE_LOCATION"} {
		maps.Copy(all, v[name])
	}
	built, dest := map[string]bool{}, map[string]bool{}
	found := 0
	var skipped []string // the modules that exclude rules out, and why
	for _, i := range indices(all) {
		m := Module{
			BuiltName: v["BUILT_MODULE_NAME"][i],
			DestName:  v["DEST_MODULE_NAME"][i],
		}
		location := v["DEST_MODULE_LOCATION"][i]
		if m.BuiltName == "" && location == "" {
			continue
		}
		found++
		if m.BuiltName == "" {
			if len(all) > 1 || i > 0 {
				problem("BUILT_MODULE_NAME[%d] is missing", i)
				continue
			}
			m.BuiltName = c.Name
		}
		if m.DestName == "" {
			m.DestName = m.BuiltName
		}
		ok := true
		for _, n := range []struct{ directive, value string }{
			{"BUILT_MODULE_NAME", m.BuiltName}, {"DEST_MODULE_NAME", m.DestName},
		} {
			if err := checkModuleName(n.value); err != nil {
				problem("%s[%d]: %v", n.directive, i, err)
				ok = false
			}
		}
		var err error
		if m.BuiltLocation, err = inside(v["BUILT_MODULE_LOCATION"][i]); err != nil {
			problem("BUILT_MODULE_LOCATION[%d]: %v", i, err)
			ok = false
		}
		if m.DestLocation, err = destination(location, set.AddonModulesDir); err != nil {
			problem("DEST_MODULE_LOCATION[%d]: %v", i, err)
			ok = false
		}
		if !ok {
			continue
		}
		if key := filepath.Join(m.BuiltLocation, m.BuiltName); built[key] {
			problem("two records build %s.ko", key)
		} else {
			built[key] = true
		}
		if dest[m.DestName] {
			problem("two records install %s.ko", m.DestName)
		}
		dest[m.DestName] = true

		// Its first letter counts, here and nowhere else.
		strip := v["STRIP"][i]
		if strip == "" || !strings.Contains("yYnN", strip[:1]) {
			strip = v["STRIP"][0]
		}
		m.Strip = !strings.HasPrefix(strings.ToLower(strip), "n")
		// Index 0 rules the whole package in or out.
		if i > 0 {
			if why := exclude(i); why != "" {
				skipped = append(skipped, m.BuiltName+".ko: "+why)
				continue
			}
		}
		c.Modules = append(c.Modules, m)
	}
	switch {
	case found == 0:
		problem("DEST_MODULE_LOCATION[0] is missing")
	case len(c.Modules) == 0 && c.Excluded == "" && skipped != nil:
		c.Excluded = strings.Join(skipped, ", ")
	}
}

// exclusive evaluates BUILD_EXCLUSIVE_*.
type exclusive struct {
	v       values
	src     Source
	matched func(name string, i int) bool
}

// rule says why the directives with index i exclude the kernel, or "".
func (x exclusive) rule(i int) string {
	get := func(name string) string { return x.v["BUILD_EXCLUSIVE_"+name][i] }
	k := x.src.Release
	if re := get("KERNEL"); re != "" && !x.matched("BUILD_EXCLUSIVE_KERNEL", i) {
		return fmt.Sprintf("it is only for kernels that match %s", re)
	}
	if low := get("KERNEL_MIN"); low != "" && version.Compare(k, low) < 0 {
		return fmt.Sprintf("it is only for kernels from %s on", low)
	}
	if high := get("KERNEL_MAX"); high != "" && version.Compare(k, high) > 0 {
		return fmt.Sprintf("it is only for kernels up to %s", high)
	}
	if re := get("ARCH"); re != "" && !x.matched("BUILD_EXCLUSIVE_ARCH", i) {
		return fmt.Sprintf("it is only for architectures that match %s", re)
	}
	for option := range strings.FieldsSeq(get("CONFIG")) {
		name, absent := strings.CutPrefix(option, "!")
		enabled, err := x.src.Config(name)
		switch {
		case err != nil:
			return ""
		case enabled && absent:
			return fmt.Sprintf("it is only for kernels without %s", name)
		case !enabled && !absent:
			return fmt.Sprintf("it is only for kernels with %s", name)
		}
	}
	return ""
}

// CheckName reports whether s can be the name or the version of a package: one
// path element that no tool takes for something else.
func CheckName(s string) error {
	switch {
	case s == "":
		return errors.New("it is empty")
	case s == "." || s == "..":
		return fmt.Errorf("%q is not a name", s)
	case strings.ContainsAny(s, "/\x00\n"):
		return fmt.Errorf("%q contains a slash, a line break or a NUL", s)
	case strings.HasPrefix(s, "-"), strings.HasPrefix(s, "."):
		return fmt.Errorf("%q begins with a dash or a dot", s)
	case len(s) > 255:
		return fmt.Errorf("it is longer than 255 bytes: %.20q…", s)
	}
	return nil
}

func checkModuleName(s string) error {
	for _, suffix := range []string{".o", ".ko"} {
		if strings.HasSuffix(s, suffix) {
			return fmt.Errorf("%q ends in %s: the name goes without its suffix", s, suffix)
		}
	}
	if len(s) > 200 {
		return fmt.Errorf("it is longer than 200 bytes: %.20q…", s)
	}
	return CheckName(s)
}

// inside cleans a path that must stay below the directory it is relative to.
func inside(p string) (string, error) {
	if p == "" {
		return ".", nil
	}
	// "/src" is written for "src" in the wild; it means the same there.
	rel := strings.TrimLeft(p, "/")
	if rel == "" {
		return ".", nil
	}
	if !filepath.IsLocal(rel) || strings.ContainsRune(rel, 0) {
		return "", fmt.Errorf("%q leads out of the build directory", p)
	}
	return filepath.Clean(rel), nil
}

// destination cleans a module's directory below /lib/modules/K; override replaces
// it where the distribution has one place for all.
func destination(p, override string) (string, error) {
	if p == "" {
		return "", errors.New("it is missing")
	}
	if !slices.ContainsFunc([]string{"/kernel", "/updates", "/extra"}, func(top string) bool { return strings.HasPrefix(p, top) }) {
		return "", fmt.Errorf("%q does not begin with /kernel, /updates or /extra", p)
	}
	if override != "" {
		return override, nil // whatever else p says
	}
	if slices.Contains(strings.Split(p, "/"), "..") {
		return "", fmt.Errorf("%q leads upwards", p)
	}
	return filepath.Clean(p), nil
}

// parseBool reads yes and no in any case; empty is no.
func parseBool(s string) (value, ok bool) {
	switch strings.ToLower(s) {
	case "yes":
		return true, true
	case "", "no":
		return false, true
	}
	return false, false
}

func indices(m map[int]string) []int {
	return slices.Sorted(maps.Keys(m))
}
