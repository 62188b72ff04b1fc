// SPDX-License-Identifier: GPL-2.0-or-later

// Package draft turns a source tree of kernel modules into a dkms.conf: from module
// specs as Gentoo's linux-mod-r1.eclass and dkms.eclass know them, or from what the
// tree's own Kbuild files say, which make reads in a sandbox.
package draft

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
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
	s = Spec{Module: Module{Dest: "/extra"}, Source: "."}
	var rest string
	s.Name, rest, _ = strings.Cut(text, "=")
	if err := checkModule(s.Name); err != nil {
		return s, err
	}
	parts := strings.Split(rest, ":")
	if len(parts) == 5 && parts[4] == "" {
		parts = parts[:4] // the shell's read drops an empty last one
	}
	if len(parts) > 4 {
		return s, fmt.Errorf("it has %d parts after the name, and there are four: install-dir:source-dir:build-dir:target", len(parts))
	}
	parts = append(parts, "", "", "")
	if parts[0] != "" {
		if s.Dest, err = destination(parts[0]); err != nil {
			return s, fmt.Errorf("install-dir: %w", err)
		}
	}
	if s.Source, err = inside(parts[1], top); err != nil {
		return s, fmt.Errorf("source-dir: %w", err)
	}
	if s.Dir = s.Source; parts[2] != "" {
		if s.Dir, err = inside(parts[2], top); err != nil {
			return s, fmt.Errorf("build-dir: %w", err)
		}
	}
	s.Target = strings.Join(strings.Fields(parts[3]), " ")
	if !targets.MatchString(s.Target) {
		return s, fmt.Errorf("target: %q is no target of make", s.Target)
	}
	s.sources = []string{path.Join(s.Source, s.Name+".c")}
	return s, nil
}

var (
	moduleName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}$`)
	targets    = regexp.MustCompile(`^(?:[A-Za-z0-9_./][A-Za-z0-9_./@%+-]*(?: |$))*$`)
	// dirName matches what kbuild takes, neither blanks nor colons, and what has no
	// meaning to make or to the shell.
	dirName = regexp.MustCompile(`^[A-Za-z0-9_.+][A-Za-z0-9_.+~@-]*(?:/[A-Za-z0-9_.+][A-Za-z0-9_.+~@-]*)*$`)
)

func checkModule(name string) error {
	if ext := path.Ext(name); ext == ".ko" || ext == ".o" {
		return fmt.Errorf("%q ends in %s: the name goes without its suffix", name, ext)
	}
	if !moduleName.MatchString(name) {
		return fmt.Errorf("%.40q is no name of a module", name)
	}
	return nil
}

// inside makes a directory below top relative to it.
func inside(dir, top string) (string, error) {
	if filepath.IsAbs(dir) {
		rel, err := filepath.Rel(top, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return "", fmt.Errorf("%q is not inside %s", dir, top)
		}
		dir = rel
	}
	if dir = path.Clean(dir); !filepath.IsLocal(dir) {
		return "", fmt.Errorf("%q leads out of the source", dir)
	}
	return dir, checkPath(dir)
}

func checkPath(dir string) error {
	if !dirName.MatchString(dir) {
		return fmt.Errorf("%q has characters that make cannot cope with", dir)
	}
	return nil
}

// destination returns the directory below /lib/modules/K for an install-dir.
func destination(dir string) (string, error) {
	if slices.Contains(strings.Split(dir, "/"), "..") {
		return "", errors.New("it leads upwards")
	}
	clean := path.Join("/", dir)
	top, _, _ := strings.Cut(clean[1:], "/")
	if top != "extra" && (dir[0] != '/' || top != "kernel" && top != "updates") {
		clean = path.Join("/extra", clean)
	}
	return clean, checkPath(clean[1:])
}
