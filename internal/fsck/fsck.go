// SPDX-License-Identifier: GPL-2.0-or-later

// Package fsck finds what is damaged in the tree, in the directories of kernels and in the
// caches: whatever is not as this program left it.
package fsck

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// Finding is something that is not as it should be.
type Finding struct {
	Path string // the file or directory
	Is   string // what is wrong with it
	// Do says what a repair does; empty if it can do nothing.
	Do string
	// Lost says what nobody can make again, and what to do.
	Lost string
	// Alien reports whether this program merely does not know what it is. It stays, and
	// nothing is wrong.
	Alien bool
	// Again is what has to be built or placed again, after Mend; nil if nothing has.
	Again *Work
	mend  func() error
}

// Work is a package, or none, that has to be taken to its goal again for a kernel. The indexes
// of the kernel are made if that is due.
type Work struct {
	tree.ID
	Kernel tree.Target
	Goal   plan.Goal
	Build  bool // though there is a build that looks whole
}

// Mend does what can be done at once. The caller holds the lock of the tree.
func (f Finding) Mend() error {
	if f.mend == nil {
		return nil
	}
	return f.mend()
}

// checker is one check.
type checker struct {
	ctx   context.Context
	m     *machine.Machine
	seen  *observe.Snapshot
	views map[tree.Target]observe.View // of kernels that exist
	list  []Finding
}

func (c *checker) add(f Finding) { c.list = append(c.list, f) }

// unknown adds that path cannot be read.
func (c *checker) unknown(path string, err error) {
	do := ""
	if errors.Is(err, fs.ErrPermission) {
		do = "run this as root"
	}
	c.add(Finding{Path: path, Is: "it is not known: " + err.Error(), Lost: do})
}

// Check returns what is not as it should be, in the order of the paths. It changes nothing.
func Check(ctx context.Context, m *machine.Machine) ([]Finding, error) {
	if !files.Exists(m.Tree.Dir) {
		return nil, nil
	}
	seen, err := observe.Look(m, nil)
	if err != nil {
		return nil, err
	}
	c := &checker{ctx: ctx, m: m, seen: seen, views: map[tree.Target]observe.View{}}
	names, err := c.top()
	if err != nil {
		return nil, failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	for _, k := range c.kernels() {
		c.views[k] = seen.Fresh(ctx, k, observe.Scope{})
	}
	for _, name := range names {
		c.name(name)
	}
	for k, view := range c.views {
		c.kernel(k, view)
		c.key(k, view)
	}
	c.caches()
	if ctx.Err() != nil {
		return nil, failure.From(context.Cause(ctx), "not checked to the end", 1)
	}
	slices.SortStableFunc(c.list, func(a, b Finding) int { return strings.Compare(a.Path, b.Path) })
	return c.list, nil
}

// kernels returns the kernels that exist and for which the tree has anything.
func (c *checker) kernels() (list []tree.Target) {
	add := func(k tree.Target) {
		if !slices.Contains(list, k) && c.m.Kernel(k).Exists() {
			list = append(list, k)
		}
	}
	for _, p := range c.seen.Packages {
		for _, b := range p.Builds {
			add(b.Target)
		}
	}
	for _, pattern := range []string{"kernel-*", ".placed-*"} {
		paths, _ := filepath.Glob(filepath.Join(c.m.Tree.Dir, "*", pattern))
		for _, path := range paths {
			if k, ok := target(path); ok {
				add(k)
			}
		}
	}
	archives, _ := filepath.Glob(c.m.Tree.OriginalDir("*", tree.Target{Release: "*", Arch: "*"}))
	for _, path := range archives {
		add(tree.Target{Release: filepath.Base(filepath.Dir(path)), Arch: filepath.Base(path)})
	}
	return list
}

// target returns the kernel K/A that a file named PREFIX-K-A is about.
func target(path string) (tree.Target, bool) {
	_, name, _ := strings.Cut(filepath.Base(path), "-")
	return tree.ParseTarget(name)
}

// top looks at the tree's own directory and for what killed runs left in it, and returns the
// names of packages.
func (c *checker) top() (names []string, err error) {
	entries, err := os.ReadDir(c.m.Tree.Dir)
	for _, e := range entries {
		path := filepath.Join(c.m.Tree.Dir, e.Name())
		switch k, ok := target(path); {
		case files.IsTemp(e.Name()):
		case e.IsDir() && tree.CheckID(tree.ID{Name: e.Name(), Version: "1"}) == nil:
			names = append(names, e.Name())
		case strings.HasPrefix(e.Name(), ".unsettled-") && ok && c.m.Kernel(k).Exists():
			c.add(Finding{Path: path, Is: "a run was cut short before depmod, or before the initramfs was made", Do: "they are made up for", Again: &Work{Kernel: k}})
		case strings.HasPrefix(e.Name(), ".unsettled-"):
			c.add(Finding{Path: path, Is: "what is due for a kernel that is gone", Do: "it is removed", mend: remove(path)})
		case strings.HasPrefix(e.Name(), ".owed-"):
			c.add(Finding{Path: path, Is: "a run was cut short before it ran a script of a package", Do: "the script is run"})
		case !slices.ContainsFunc(known, func(prefix string) bool { return strings.HasPrefix(e.Name(), prefix) }):
			c.alien(path)
		}
	}
	errWalk := filepath.WalkDir(c.m.Tree.Dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(c.m.Tree.Dir, path)
		switch {
		case err != nil:
			c.unknown(path, err)
		case files.IsTemp(d.Name()):
			c.add(Finding{Path: path, Is: "a killed run left it", Do: "it is removed", mend: func() error { return files.RemoveAll(path) }})
		case strings.Count(rel, "/") != 2 || d.Name() != "build": // a scratch directory has anything
			return nil
		}
		if d != nil && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	return names, errors.Join(err, errWalk)
}

// known are the names, or what they begin with, of files in the tree's directory.
var known = []string{".lock", ".rpm-upgrade-", "mok.key", "mok.pub", "dkms_dbversion"}

func (c *checker) alien(path string) {
	c.add(Finding{Path: path, Is: "this program does not know what it is", Alien: true})
}

func remove(path string) func() error { return func() error { return files.Remove(path) } }

// name looks at the directory of all packages of one name.
func (c *checker) name(name string) {
	dir := filepath.Join(c.m.Tree.Dir, name)
	entries, err := os.ReadDir(dir)
	if err != nil {
		c.unknown(dir, err)
	}
	var kernels []tree.Target
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch k, ok := target(path); {
		case ok && (strings.HasPrefix(e.Name(), "kernel-") || strings.HasPrefix(e.Name(), ".placed-")):
			if !slices.Contains(kernels, k) {
				kernels = append(kernels, k)
			}
		case files.IsTemp(e.Name()) || e.Name() == conf.Originals:
		case !e.IsDir() || strings.HasPrefix(e.Name(), ".") && !strings.HasPrefix(e.Name(), ".kept-"):
			c.alien(path)
		}
	}
	for _, p := range c.seen.Packages {
		if p.Name == name && !p.Kept {
			c.source(p)
		}
	}
	for k := range c.views {
		if !slices.Contains(kernels, k) {
			kernels = append(kernels, k)
		}
	}
	for _, k := range kernels {
		c.installed(name, k)
	}
	c.originals(name)
}

// source looks at the link to the source of a package, and for what is nothing in its directory.
func (c *checker) source(p tree.Package) {
	link := c.m.Tree.SourceDir(p.ID)
	if !files.Exists(filepath.Join(link, "dkms.conf")) {
		f := Finding{Path: link, Is: "it leads to no source"}
		if source := c.sourceOf(p.ID); source != "" {
			f.Do, f.mend = "it leads to "+source+" again", func() error {
				if fi, err := os.Lstat(link); err == nil && fi.IsDir() {
					if err := c.aside(link); err != nil {
						return err
					}
				}
				return c.m.Tree.Register(p.ID, source)
			}
		} else {
			f.Lost = fmt.Sprintf("the source: install again what brings %s, or remove it: dkms remove %s --all", p.ID, p.ID)
		}
		c.add(f)
	}
	entries, _ := os.ReadDir(c.m.Tree.PackageDir(p.ID))
	for _, e := range entries {
		if !e.IsDir() && e.Name() != "source" && !files.IsTemp(e.Name()) {
			c.alien(filepath.Join(c.m.Tree.PackageDir(p.ID), e.Name()))
		}
	}
	records, _ := filepath.Glob(fingerprint.File(filepath.Join(c.m.Tree.PackageDir(p.ID), "*/*")))
	for _, record := range records {
		dir := filepath.Dir(record)
		k := tree.Target{Release: filepath.Base(filepath.Dir(dir)), Arch: filepath.Base(dir)}
		if _, ok := p.Build(k); !ok && c.m.Kernel(k).Exists() && c.m.Tree.InstalledVersion(p.Name, k) != p.Version {
			c.add(Finding{Path: c.m.Tree.ModuleDir(p.ID, k), Is: "there is no build, but the record of one", Do: fmt.Sprintf("%s is built again for %s", p.ID, k.Release),
				Again: &Work{ID: p.ID, Kernel: k, Goal: plan.Built}, mend: func() error { return c.clear(p.ID, k) }})
		}
	}
}

// sourceOf returns the directory where sources of packages have id's; "" if it does not.
func (c *checker) sourceOf(id tree.ID) string {
	source := filepath.Join(c.m.Tree.Sources, id.Name+"-"+id.Version)
	if id.Version == "" || !files.Exists(filepath.Join(source, "dkms.conf")) {
		return ""
	}
	return source
}
