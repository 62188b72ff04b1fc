// Package draft turns a source tree of kernel modules into a dkms.conf: from
// module specs as Gentoo's linux-mod-r1.eclass and dkms.eclass know them, or
// from what the tree's own Kbuild and Makefile files say. It reads files and
// runs nothing.
package draft

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Module is one .ko of a tree.
type Module struct {
	Name string // without suffix
	Dir  string // folder of the built .ko, relative to the tree; "." is its top
	Dest string // DEST_MODULE_LOCATION
	// sources are the C files that it is made of, relative to the tree, as far
	// as they are known.
	sources []string
}

// Spec is a module as an entry of modlist describes it: what it is and how it
// is built.
type Spec struct {
	Module
	Source string // folder with the Makefile, relative to the tree
	Target string // of make, several with spaces between; "" where none is given
}

// ParseSpec reads NAME[=INSTALL-DIR[:SOURCE-DIR[:BUILD-DIR[:TARGET]]]], where
// every part but the name may be empty. top is the absolute path of the tree,
// which source and build folders are relative to; an absolute one must be
// inside.
//
// The defaults are those of the eclasses: the source folder is the tree's top,
// and the build folder is the source folder. An install folder that does not
// begin with /kernel, /updates or /extra, which is what dkms asks for, goes
// below /extra.
func ParseSpec(text, top string) (Spec, error) {
	s := Spec{Module: Module{Dest: "/extra", Dir: "."}, Source: "."}
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
	var err error
	if parts[0] != "" {
		if s.Dest, err = destination(parts[0]); err != nil {
			return s, fmt.Errorf("install-dir: %w", err)
		}
	}
	if parts[1] != "" {
		if s.Source, err = inside(parts[1], top); err != nil {
			return s, fmt.Errorf("source-dir: %w", err)
		}
	}
	s.Dir = s.Source
	if parts[2] != "" {
		if s.Dir, err = inside(parts[2], top); err != nil {
			return s, fmt.Errorf("build-dir: %w", err)
		}
	}
	targets := strings.Fields(parts[3])
	for _, t := range targets {
		if !targetName.MatchString(t) {
			return s, fmt.Errorf("target: %q is no target of make", t)
		}
	}
	s.Target = strings.Join(targets, " ")
	s.sources = []string{path.Join(s.Source, s.Name+".c")}
	return s, nil
}

var (
	moduleName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.+-]*$`)
	targetName = regexp.MustCompile(`^[A-Za-z0-9_./][A-Za-z0-9_./@%+-]*$`)
	// pathElement is what a folder may be called: kbuild itself takes neither
	// blanks nor colons, and the rest has a meaning to make or to the shell.
	pathElement = regexp.MustCompile(`^[A-Za-z0-9_.+][A-Za-z0-9_.+~@-]*$`)
)

func checkModule(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("the module has no name")
	case strings.HasSuffix(name, ".ko"), strings.HasSuffix(name, ".o"):
		return fmt.Errorf("%q ends in %s: the name goes without its suffix", name, path.Ext(name))
	case !moduleName.MatchString(name), len(name) > 200:
		return fmt.Errorf("%.40q is no name of a module", name)
	}
	return nil
}

// inside makes a folder below top relative to it.
func inside(dir, top string) (string, error) {
	if filepath.IsAbs(dir) {
		rel, err := filepath.Rel(top, dir)
		if err != nil || !filepath.IsLocal(rel) {
			return "", fmt.Errorf("%q is not inside %s", dir, top)
		}
		dir = rel
	}
	if !filepath.IsLocal(dir) {
		return "", fmt.Errorf("%q leads out of the source", dir)
	}
	dir = path.Clean(dir)
	return dir, checkPath(dir)
}

func checkPath(dir string) error {
	for element := range strings.SplitSeq(dir, "/") {
		if !pathElement.MatchString(element) {
			return fmt.Errorf("%q has characters that make cannot cope with", dir)
		}
	}
	return nil
}

// destination is the folder below /lib/modules/K for an install-dir.
func destination(dir string) (string, error) {
	elements := strings.Split(strings.Trim(dir, "/"), "/")
	if slices.Contains(elements, "..") {
		return "", fmt.Errorf("%q leads upwards", dir)
	}
	clean := path.Clean("/" + dir)
	if err := checkPath(strings.TrimPrefix(clean, "/")); err != nil && clean != "/" {
		return "", err
	}
	top, _, _ := strings.Cut(clean[1:], "/")
	switch {
	case top == "extra", strings.HasPrefix(dir, "/") && (top == "kernel" || top == "updates"):
		return clean, nil
	}
	return path.Join("/extra", clean), nil
}
