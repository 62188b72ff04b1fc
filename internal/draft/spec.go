// SPDX-License-Identifier: GPL-2.0-or-later

// Package draft turns a source tree of kernel modules into a dkms.conf: from module
// specs as Gentoo's linux-mod-r1.eclass and dkms.eclass know them, or from what the
// tree's own Kbuild files say, which make reads in a sandbox.
package draft

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/lazy"
)

// Module is one .ko of a tree.
type Module struct {
	Name    string   // without suffix
	Dir     string   // of the built .ko, relative to the tree; "." is its top
	Dest    string   // DEST_MODULE_LOCATION
	sources []string // the C files that it is made of, relative to the tree, as far as known
}

// Spec is a module as an entry of modlist describes it: what it is and how it is built.
type Spec struct {
	Module
	Source string // directory with the Makefile, relative to the tree
	Target string // of make, several with spaces between; may be empty
}

// ParseSpec reads NAME[=INSTALL-DIR[:SOURCE-DIR[:BUILD-DIR[:TARGET]]]], where every part
// but the name may be empty. Top is the absolute path of the tree, which the source and
// build directories are relative to; an absolute one must be inside.
//
// The defaults are those of the eclasses: the source directory is the tree's top, and
// the build directory is the source directory. An install directory that does not begin
// with /kernel, /updates or /extra, which is what dkms asks for, goes below /extra.
func ParseSpec(text, top string) (s Spec, err error) {
	name, rest, _ := strings.Cut(text, "=")
	if err := checkModule(name); err != nil {
		return s, err
	}
	parts := strings.Split(rest, ":")
	if n := len(parts); n > 5 || n == 5 && parts[4] != "" { // the shell's read drops an empty last one
		return s, fmt.Errorf("it has %d parts after the name, and there are four: install-dir:source-dir:build-dir:target", n)
	}
	parts = append(parts, "", "", "")
	s.Name = name
	if s.Dest, err = destination(parts[0]); err != nil {
		return s, fmt.Errorf("install-dir: %w", err)
	}
	if s.Source, err = inside(parts[1], top); err != nil {
		return s, fmt.Errorf("source-dir: %w", err)
	}
	if s.Dir, err = inside(cmp.Or(parts[2], s.Source), top); err != nil {
		return s, fmt.Errorf("build-dir: %w", err)
	}
	if s.Target = strings.Join(strings.Fields(parts[3]), " "); !targets().MatchString(s.Target) {
		return s, fmt.Errorf("target: %q is no target of make", s.Target)
	}
	s.sources = []string{path.Join(s.Source, s.Name+".c")}
	return s, nil
}

var (
	moduleName = lazy.Regexp(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)
	targets    = lazy.Regexp(`^(?:[A-Za-z0-9_./][A-Za-z0-9_./@%+-]*(?: |$))*$`)
	// dirName matches what kbuild takes, neither blanks nor colons, and what has no
	// meaning to make or to the shell.
	dirName = lazy.Regexp(`^[A-Za-z0-9_.+][A-Za-z0-9_.+~@-]*(?:/[A-Za-z0-9_.+][A-Za-z0-9_.+~@-]*)*$`)
)

func checkModule(name string) error {
	if ext := path.Ext(name); ext == ".ko" || ext == ".o" {
		return fmt.Errorf("%q ends in %s: the name goes without its suffix", name, ext)
	}
	if len(name) > maxName || !moduleName().MatchString(name) {
		return fmt.Errorf("%.40q is no name of a module", name)
	}
	return nil
}

func checkPath(dir string) error {
	if !dirName().MatchString(dir) {
		return fmt.Errorf("%q has characters that make cannot cope with", dir)
	}
	return nil
}

// inside makes a directory below top relative to it.
func inside(dir, top string) (string, error) {
	rel := path.Clean(dir)
	if path.IsAbs(dir) {
		rel, _ = filepath.Rel(top, dir)
	}
	if !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%q leads out of the source", dir)
	}
	return rel, checkPath(rel)
}

// destination returns the directory below /lib/modules/K for an install-dir.
func destination(dir string) (string, error) {
	if slices.Contains(strings.Split(dir, "/"), "..") {
		return "", errors.New("it leads upwards")
	}
	clean := path.Join("/", dir)
	top, _, _ := strings.Cut(clean[1:], "/")
	if top != "extra" && (!path.IsAbs(dir) || top != "kernel" && top != "updates") {
		clean = path.Join("/extra", clean)
	}
	return clean, checkPath(clean[1:])
}

// Plan finds out how the modules of specs are built.
//
// The directory's Makefile builds a module, with the target of the spec or else the
// first of modules, module, NAME.ko, default and all that it has a rule for, which is
// the eclass's order. If nothing is said of how, neither target nor args, and the
// directory's Kbuild file has the module in obj-m, kbuild builds it: Makefiles tend to
// build for the kernel that runs, and kbuild for the one it is called for.
func (t *Tree) Plan(specs []Spec) (*Conf, error) {
	c := &Conf{Args: t.args}
	for _, s := range specs {
		if slices.ContainsFunc(c.Modules, func(m Module) bool { return kmod.Normal(m.Name) == kmod.Normal(s.Name) }) {
			return nil, fmt.Errorf("module %s is there twice", s.Name)
		}
		step, err := t.step(c, s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(c.Steps, step) {
			c.Steps = append(c.Steps, step)
		}
		c.Modules = append(c.Modules, s.Module)
	}
	return c, nil
}

var asksRelease = lazy.Regexp(`(?m)^[ \t]*(?:else[ \t]+)?if(?:n?eq|n?def)\b.*\bKERNELRELEASE\b`)

// step finds out how a module of c is built.
func (t *Tree) step(c *Conf, s Spec) (Step, error) {
	t.entry = s.Source
	said := t.Notes
	modules, lists := t.dir(s.Source, nil)
	t.Notes = said // the spec has told of what is in the directory
	known := slices.ContainsFunc(modules, func(m Module) bool { return m.Name == s.Name && m.Dir == s.Dir })
	name, text, err := read(t.root, s.Source, "GNUmakefile", "makefile", "Makefile")
	if known && len(t.args) == 0 && s.Target == "" || lists && err != nil {
		return Step{Dir: s.Source, Kbuild: true, Target: cmp.Or(s.Target, "modules")}, nil
	}
	if err != nil {
		return Step{}, fmt.Errorf("module %s: %s has no Makefile", s.Name, s.Source)
	}
	if asksRelease().MatchString(text) {
		c.NoKernelRelease = true
		t.note("%s: what it does depends on KERNELRELEASE, which make is therefore not given", name)
	}
	// Only references have such quotes.
	if !slices.ContainsFunc(t.args, func(a string) bool { return strings.Contains(word(a), "'${kernel") }) {
		t.note("%s: no argument of make says which kernel to build for, so that is up to it; compare: --make-arg KDIR='${kernel_source_dir}'", name)
	}
	for _, target := range []string{"modules", "module", s.Name + ".ko", "default", "all"} {
		rule := regexp.MustCompile(`(?m)^(?:[A-Za-z0-9_.][^:=#\n]*[ \t])?` + regexp.QuoteMeta(target) + `(?:[ \t][^:=#\n]*)?::?(?:[^:=]|$)`)
		if s.Target == "" && rule.MatchString(text) {
			s.Target = target
		}
	}
	return Step{Dir: s.Source, Target: s.Target}, nil
}
