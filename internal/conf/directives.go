// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/version"
)

// rows returns the directives that are read each by itself, from index 0.
func (c *Conf) rows() []row {
	return []row{
		packageName("PACKAGE_NAME", &c.Name),
		packageName("PACKAGE_VERSION", &c.Version),
		yesNo("AUTOINSTALL", &c.Autoinstall),
		yesNo("NO_WEAK_MODULES", &c.NoWeakModules),
		yesNo("BUILD_DEPENDS_REBUILD", &c.BuildDependsRebuild),
		text("PRE_BUILD", &c.PreBuild),
		text("POST_BUILD", &c.PostBuild),
		text("PRE_INSTALL", &c.PreInstall),
		text("POST_INSTALL", &c.PostInstall),
		text("POST_ADD", &c.PostAdd),
		text("POST_REMOVE", &c.PostRemove),
	}
}

// confNames are all directives: those of rows, and those that [evaluation] reads.
var confNames = slices.Concat(rowNames(new(Conf).rows()), strings.Fields(`
	BUILT_MODULE_NAME BUILT_MODULE_LOCATION DEST_MODULE_NAME DEST_MODULE_LOCATION STRIP
	MAKE MAKE_MATCH PATCH PATCH_MATCH BUILD_DEPENDS
	BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX
	BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG`), retired)

// retired are the directives that only cause a warning. OBSOLETE_BY still has
// its meaning besides.
var retired = strings.Fields(`CLEAN REMAKE_INITRD
	MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_OBSOLETE_ONLY MODULES_CONF_ALIAS_TYPE
	OBSOLETE_BY`)

// packageName is a row for the name or the version of a package.
func packageName(name string, to *string) row {
	return row{name, func(v map[int]string) error {
		*to = v[0]
		if v[0] == "" {
			return fmt.Errorf("%s is missing", name)
		}
		if err := CheckName(v[0]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	}}
}

// yesNo is a row for a variable that is yes or no, in any case. Empty is no.
func yesNo(name string, to *bool) row {
	return row{name, func(v map[int]string) error {
		switch strings.ToLower(v[0]) {
		case "yes":
			*to = true
		case "", "no":
		default:
			return fmt.Errorf("%s must be yes or no, not %q", name, v[0])
		}
		return nil
	}}
}

// fromValues applies the rules for directives to what a conf set.
func fromValues(v values, src Source, set Settings) (Conf, error) {
	e := &evaluation{values: v, src: src}
	var c Conf
	for _, r := range c.rows() {
		if err := r.read(v[r.name]); err != nil {
			e.problem("%v", err)
		}
	}
	if err := CheckReserved(cmp.Or(src.Module, c.Name), cmp.Or(src.Version, c.Version)); err != nil {
		e.problem("%v: rename the package", err)
	}
	c.BuildDepends = e.depends()
	c.Make = e.make()
	c.Patches = e.patches()
	c.Excluded = e.exclusive(0)
	modules, excluded := e.modules(c.Name, set.AddonModulesDir)
	c.Modules = modules
	c.Excluded = cmp.Or(c.Excluded, excluded, e.obsolete())
	e.warnRetired()
	c.Warnings = e.warnings
	if e.problems != nil {
		if said := v.get(printed); said != "" {
			e.problem("%s: %s", printed, said)
		}
		return c, &Error{File: src.File, Problems: e.problems}
	}
	return c, nil
}

// An evaluation reads those directives of one conf that belong together, and
// collects the problems of all, and what is to be warned of.
type evaluation struct {
	values
	src      Source
	problems []string
	warnings []string
}

func (e *evaluation) problem(format string, args ...any) {
	e.problems = append(e.problems, fmt.Sprintf(format, args...))
}

func (e *evaluation) warn(format string, args ...any) {
	e.warnings = append(e.warnings, fmt.Sprintf(format, args...))
}

// matches reports whether the pattern at index i of a directive matches the
// kernel. bash has compared them: see driver.bash. A pattern that bash cannot read
// matches nothing.
func (e *evaluation) matches(name string, i int) bool {
	if e.unreadable(name, i) {
		e.warn("%s[%d]: %q %s", name, i, e.values[name][i], noRegexp)
	}
	return e.values["matches "+name][i] == "0"
}

// unreadable reports whether the pattern at index i of a directive is none.
func (e *evaluation) unreadable(name string, i int) bool {
	return e.values["matches "+name][i] == "2"
}

const noRegexp = "is no extended regular expression, and so matches nothing"

// consecutive returns the indices of an array that the classic dkms looks at: as many
// as it has elements, from 0. With a gap, elements behind them are passed over, and
// packages are tested with that.
func (e *evaluation) consecutive(name string) (looked []int) {
	list := e.values[name]
	gap := 0
	for _, ok := list[gap]; ok; _, ok = list[gap] {
		gap++
	}
	for _, i := range indices(list) {
		if i < len(list) {
			looked = append(looked, i)
		} else if list[i] != "" {
			e.warn("%s[%d], %q, is passed over, since there is no %[1]s[%[4]d]: number them from 0 without gaps",
				name, i, list[i], gap)
		}
	}
	return looked
}

// depends returns the packages that BUILD_DEPENDS names, each once.
func (e *evaluation) depends() (names []string) {
	list := e.values["BUILD_DEPENDS"]
	for _, i := range indices(list) {
		if name := list[i]; name == "" {
			continue
		} else if err := CheckName(name); err != nil {
			e.problem("BUILD_DEPENDS[%d]: %v", i, err)
		} else if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// make returns the last MAKE whose MAKE_MATCH matches. MAKE[0] needs none. It is one
// command: line breaks in it are there for the reader of the conf.
func (e *evaluation) make() (command string) {
	list := e.values["MAKE"]
	for _, i := range e.consecutive("MAKE") {
		given := e.values["MAKE_MATCH"][i] != ""
		if list[i] == "" || i > 0 && !given || given && !e.matches("MAKE_MATCH", i) {
			continue
		}
		command = list[i]
	}
	return strings.ReplaceAll(command, "\n", " ")
}

// patches returns each PATCH whose PATCH_MATCH matches, or that has none. An
// unsafe name is for the build to refuse: that has its own exit status there.
func (e *evaluation) patches() (names []string) {
	list := e.values["PATCH"]
	for _, i := range e.consecutive("PATCH") {
		if list[i] == "" || e.values["PATCH_MATCH"][i] != "" && !e.matches("PATCH_MATCH", i) {
			continue
		}
		names = append(names, list[i])
	}
	return names
}

// modules returns the modules of the package called name that BUILD_EXCLUSIVE
// does not rule out. If it rules out every one, excluded says why. addonDir is
// [Settings.AddonModulesDir].
func (e *evaluation) modules(name, addonDir string) (modules []Module, excluded string) {
	all := map[int]string{}
	for _, directive := range []string{"BUILT_MODULE_NAME", "DEST_MODULE_LOCATION"} {
		for i, value := range e.values[directive] {
			all[i] += value
		}
	}
	if len(all) > 1 {
		name = "" // each of several modules needs a name of its own
	}
	found := false
	var ruledOut []string
	// The kernel does not tell dashes from underscores: see [kmod.Normal].
	built, dest := map[string]string{}, map[string]string{}
	for _, i := range indices(all) {
		if all[i] == "" {
			continue
		}
		found = true
		m, ok := e.module(i, name, addonDir)
		if !ok {
			continue
		}
		e.once("build", built, m.BuiltLocation, m.BuiltName)
		e.once("install", dest, "", m.DestName)
		// Index 0 rules the whole package in or out.
		if i > 0 {
			if why := e.exclusive(i); why != "" {
				ruledOut = append(ruledOut, m.BuiltName+".ko: "+why)
				continue
			}
		}
		modules = append(modules, m)
	}
	switch {
	case found:
	case e.get("BUILT_MODULE_LOCATION") != "" || e.get("DEST_MODULE_NAME") != "":
		e.problem("DEST_MODULE_LOCATION[0] is missing")
	default:
		e.warn("it names no module: MAKE runs, and nothing is placed")
	}
	if modules == nil {
		excluded = strings.Join(ruledOut, ", ")
	}
	return modules, excluded
}

// once notes in seen the module called name in a directory. It is a problem if seen has
// it, or one that is the same for the kernel.
func (e *evaluation) once(verb string, seen map[string]string, dir, name string) {
	key, path := filepath.Join(dir, kmod.Normal(name)), filepath.Join(dir, name)
	switch other, ok := seen[key]; {
	case !ok:
		seen[key] = path
	case other == path:
		e.problem("two records %s %s.ko", verb, path)
	default:
		e.problem("two records %s %s.ko and %s.ko, which are the same module for the kernel", verb, other, path)
	}
}

// module returns the module with index i, called name if it is the first and has
// no name of its own. It reports false if the conf is wrong about it.
func (e *evaluation) module(i int, name, addonDir string) (m Module, ok bool) {
	get := func(directive string) string { return e.values[directive][i] }
	m.BuiltName = get("BUILT_MODULE_NAME")
	if m.BuiltName == "" && i == 0 {
		m.BuiltName = name
	}
	if m.BuiltName == "" {
		e.problem("BUILT_MODULE_NAME[%d] is missing", i)
		return m, false
	}
	dir, base := filepath.Split(m.BuiltName)
	m.BuiltName = base
	m.DestName = cmp.Or(get("DEST_MODULE_NAME"), m.BuiltName)
	m.Strip = e.strip(i)

	ok = true
	check := func(directive string, err error) {
		if err != nil {
			e.problem("%s[%d]: %v", directive, i, err)
			ok = false
		}
	}
	check("BUILT_MODULE_NAME", checkModuleName(m.BuiltName))
	check("DEST_MODULE_NAME", checkModuleName(m.DestName))
	var err error
	m.BuiltLocation, err = inside(get("BUILT_MODULE_LOCATION"))
	check("BUILT_MODULE_LOCATION", err)
	if ok {
		m.BuiltLocation, err = inside(filepath.Join(m.BuiltLocation, dir))
		check("BUILT_MODULE_NAME", err)
	}
	m.DestLocation, err = destination(get("DEST_MODULE_LOCATION"), addonDir)
	check("DEST_MODULE_LOCATION", err)
	return m, ok
}

// strip reports whether to strip the module with index i. Only the first letter of
// STRIP counts. Without a valid one, that of index 0 holds.
func (e *evaluation) strip(i int) bool {
	value := e.values["STRIP"][i]
	if value == "" || !strings.Contains("yYnN", value[:1]) {
		value = e.get("STRIP")
	}
	return !strings.HasPrefix(strings.ToLower(value), "n")
}

// exclusive returns why BUILD_EXCLUSIVE_* with index i exclude the kernel, or "".
func (e *evaluation) exclusive(i int) string {
	get := func(name string) string { return e.values["BUILD_EXCLUSIVE_"+name][i] }
	release := e.src.Release
	if why := e.only("kernels", "BUILD_EXCLUSIVE_KERNEL", i); why != "" {
		return why
	}
	if low := get("KERNEL_MIN"); low != "" && version.Compare(release, low) < 0 {
		return fmt.Sprintf("it is only for kernels from %s on", low)
	}
	if high := get("KERNEL_MAX"); high != "" && version.Compare(release, high) > 0 {
		return fmt.Sprintf("it is only for kernels up to %s", high)
	}
	if why := e.only("architectures", "BUILD_EXCLUSIVE_ARCH", i); why != "" {
		return why
	}
	for option := range strings.FieldsSeq(get("CONFIG")) {
		name, absent := strings.CutPrefix(option, "!")
		enabled, err := e.src.Config(name)
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

// only returns why the pattern at index i of a directive about what, a word for many,
// excludes the kernel, or "".
func (e *evaluation) only(what, name string, i int) string {
	pattern := e.values[name][i]
	switch {
	case pattern == "" || e.matches(name, i):
		return ""
	case e.unreadable(name, i):
		return fmt.Sprintf("it is only for %s that match %s, which %s", what, pattern, noRegexp)
	}
	return fmt.Sprintf("it is only for %s that match %s", what, pattern)
}

// obsolete returns why OBSOLETE_BY excludes the kernel, or "".
// BUILD_EXCLUSIVE_KERNEL_MAX replaces it.
func (e *evaluation) obsolete() string {
	by := e.get("OBSOLETE_BY")
	if by == "" || e.get("BUILD_EXCLUSIVE_KERNEL_MAX") != "" || version.Compare(e.src.Release, by) <= 0 {
		return ""
	}
	return fmt.Sprintf("OBSOLETE_BY is %s", by)
}

// warnRetired warns of each retired directive.
func (e *evaluation) warnRetired() {
	for _, name := range retired {
		// Packages set CLEAN=true to silence the warning of the classic dkms.
		if value := e.get(name); value != "" && !(name == "CLEAN" && value == "true") {
			e.warn("%s is a retired directive", name)
		}
	}
}

// CheckName returns an error unless s can be the name or the version of a package:
// one path element of at most 255 bytes that no tool takes for anything else.
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

// CheckReserved returns an error if the tree uses the name or the version of a package
// for something else: a directory of that name would be in its place.
func CheckReserved(name, version string) error {
	if slices.Contains(reserved, name) {
		return fmt.Errorf("%q is not a package: the tree uses that name", name)
	}
	// Links to what is installed are kernel-K-A.
	if version == Originals || strings.HasPrefix(version, "kernel-") {
		return fmt.Errorf("%q is not a version: the tree uses that name", version)
	}
	return nil
}

// reserved are the names of files in the tree's directory, ours and those of the classic
// dkms.
var reserved = []string{"mok.key", "mok.key.old", "mok.pub", "mok.pub.old", "post_transaction.log", "dkms_dbversion"}

// Originals is the directory of displaced modules, beside a package's versions.
const Originals = "original_module"

// checkModuleName returns an error unless s can be the name of a module, without
// a suffix.
func checkModuleName(s string) error {
	for _, suffix := range []string{".o", ".ko"} {
		if strings.HasSuffix(s, suffix) {
			return fmt.Errorf("%q ends in %s: the name goes without its suffix", s, suffix)
		}
	}
	// Of the 255 bytes of a file name some are for suffixes and temporary names.
	if len(s) > 200 {
		return fmt.Errorf("it is longer than 200 bytes: %.20q…", s)
	}
	return CheckName(s)
}

// inside cleans a path that must not lead out of the directory it is relative to.
func inside(p string) (string, error) {
	// Confs in the wild write "/src" for "src". It means the same here.
	rel := strings.TrimLeft(p, "/")
	if rel == "" {
		return ".", nil
	}
	if !filepath.IsLocal(rel) || strings.ContainsRune(rel, 0) {
		return "", fmt.Errorf("%q leads out of the build directory, in which the modules must be built", p)
	}
	return filepath.Clean(rel), nil
}

// destination cleans a directory below /lib/modules/K for a module. It returns
// addonDir instead, unless that is empty.
func destination(p, addonDir string) (string, error) {
	if p == "" {
		return "", errors.New("it is missing")
	}
	if p == addonDir {
		return p, nil // a conf may ask where its modules go: see driver.bash
	}
	if !slices.ContainsFunc([]string{"/kernel", "/updates", "/extra"}, func(top string) bool { return strings.HasPrefix(p, top) }) {
		return "", fmt.Errorf("%q does not begin with /kernel, /updates or /extra", p)
	}
	if addonDir != "" {
		return addonDir, nil // whatever else p says
	}
	clean := filepath.Clean(p)
	if clean == "/" || !filepath.IsLocal(p[1:]) {
		return "", fmt.Errorf("%q is no directory below /lib/modules/KERNEL", p)
	}
	// Links, which lead to the kernel's headers.
	if top, _, _ := strings.Cut(clean[1:], "/"); top == "build" || top == "source" {
		return "", fmt.Errorf("%q leads to the kernel's headers, where no modules go", p)
	}
	return clean, nil
}

func indices(m map[int]string) []int {
	return slices.Sorted(maps.Keys(m))
}
