// SPDX-License-Identifier: GPL-2.0-or-later

// Package check lays out a machine of its own, in which packages can be built for kernels that
// are not installed, and nothing of this one changes.
package check

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/root"
	"dkms-kernel-install/internal/toolchain"
	"dkms-kernel-install/internal/tree"
)

// Layout is a tree and a directory of kernels, each of which has nothing but links to headers.
type Layout struct{ dir string }

// Tree is the directory of the tree.
func (l Layout) Tree() string { return filepath.Join(l.dir, "tree") }

// Modules is the directory that is to be taken for /lib/modules.
func (l Layout) Modules() string { return filepath.Join(l.dir, "modules") }

// over is the directory with the headers that were in packages, each where it would be installed.
func (l Layout) over() string { return filepath.Join(l.dir, "over") }

// Unpacked reports whether headers were in packages: then only InPlace serves.
func (l Layout) Unpacked() bool { return files.Exists(l.over()) }

// InPlace prepares l to take the place of the tree and the kernels of m, and returns the root
// in which it does.
func (l Layout) InPlace(m *machine.Machine) (root.Root, error) {
	at := map[string]string{m.Tree.Dir: l.Tree(), m.Kernels.Modules: l.Modules()}
	links, err := filepath.Glob(filepath.Join(l.Modules(), "*", "*"))
	for _, link := range links {
		to, errLink := os.Readlink(link)
		if real, errReal := filepath.EvalSymlinks(m.Kernels.Modules); errLink == nil && errReal == nil && files.Below(real, to) {
			// It would lead to itself.
			errLink = errors.Join(os.Remove(link), os.Mkdir(link, 0o755))
			at[filepath.Join(m.Kernels.Modules, strings.TrimPrefix(link, l.Modules()))] = to
		}
		err = errors.Join(err, errLink)
	}
	r := root.Root{Dir: "/", Elsewhere: m.Elsewhere, At: at}
	if l.Unpacked() {
		r.Over = []string{l.over()}
	}
	return r, errors.Join(err, os.MkdirAll(m.Tree.Dir, 0o755), os.MkdirAll(m.Kernels.Modules, 0o755))
}

// Remove removes the layout.
func (l Layout) Remove() { _ = files.RemoveAll(l.dir) }

// New lays out the kernels whose headers are in the directories and packages of distributions
// called headers, and registers packages: for names that begin with a dot or a slash the
// sources in these directories, for others the registered packages of that NAME or
// NAME/VERSION, with those that they depend on. Without names it takes all that want automatic
// installation; without headers, the kernels that have theirs installed. Errors are of type
// [*failure.Failure].
func New(ctx context.Context, m *machine.Machine, names, headers []string) (l Layout, err error) {
	if l, err = layout(); err != nil {
		return l, err
	}
	defer func() {
		if err != nil {
			l.Remove()
		}
	}()
	k, err := l.kernels(ctx, m, headers)
	if err != nil {
		return l, err
	}
	return l, l.packages(ctx, m, names, k)
}

// layout makes a layout that has nothing.
func layout() (l Layout, err error) {
	if l.dir, err = os.MkdirTemp("", "dkms-check."); err == nil {
		// Builds may run as another user.
		err = errors.Join(os.Chmod(l.dir, 0o755), os.Mkdir(l.Tree(), 0o755), os.Mkdir(l.Modules(), 0o755))
	}
	if err != nil {
		return l, failure.From(err, "cannot make a directory for the check", failure.StatusUsage)
	}
	return l, nil
}

// kernels lays out the kernels, and returns one of them.
func (l Layout) kernels(ctx context.Context, m *machine.Machine, headers []string) (k tree.Target, err error) {
	var dirs []string
	for _, word := range headers {
		found, err := filepath.Glob(word)
		if err != nil || len(found) == 0 {
			return k, &failure.Failure{What: "no headers in " + word, Why: "there is no such directory", Hint: "name what /lib/modules/RELEASE/build leads to", Status: failure.StatusUsage}
		}
		for _, path := range found {
			if fi, err := os.Stat(path); err != nil || fi.IsDir() {
				dirs = append(dirs, path)
			} else if err := l.unpack(ctx, path); err != nil {
				return k, failure.From(err, "no headers in "+path, failure.StatusUsage)
			}
		}
	}
	for _, pattern := range []string{"usr/src/linux-headers-*", "usr/src/kernels/*"} {
		found, _ := filepath.Glob(filepath.Join(l.over(), pattern))
		for _, dir := range found {
			if files.Exists(filepath.Join(dir, "include/config/kernel.release")) { // what several share has none
				dirs = append(dirs, dir)
			}
		}
	}
	if len(headers) == 0 {
		with, alone, err := m.WithHeaders()
		if err != nil {
			return k, err
		}
		for _, k := range append(with, alone...) {
			dirs = append(dirs, m.Kernel(k).Dir)
		}
	}
	for _, dir := range dirs {
		if k, err = l.kernel(m, dir); err != nil {
			return k, failure.From(err, "no headers in "+dir, failure.StatusUsage)
		}
	}
	if len(dirs) == 0 {
		return k, &failure.Failure{What: "there is no kernel to build for", Why: "none has its headers installed", Hint: "name directories with headers: --headers=DIR", Status: failure.StatusUsage}
	}
	return k, nil
}

// kernel lays out the kernel whose headers are in dir, or in its directory build.
func (l Layout) kernel(m *machine.Machine, dir string) (k tree.Target, err error) {
	release := ""
	if build := filepath.Join(dir, "build"); !files.Exists(filepath.Join(dir, "include")) && files.Exists(build) {
		dir, release = build, filepath.Base(dir) // of /lib/modules/K
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return k, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return k, err
	}
	kern := kernel.Dirs{Source: dir}.Kernel("", m.Arch)
	if lacks := kern.LacksHeaders(); lacks != "" {
		return k, fmt.Errorf("%s does not exist", lacks)
	}
	k = m.Target(cmp.Or(kern.HeadersRelease(), release))
	if err := tree.CheckTarget(k); err != nil {
		return k, fmt.Errorf("include/config/kernel.release in it does not say which kernel it is of: %w", err)
	}
	if arch := kern.OtherArch(); arch != "" {
		return k, fmt.Errorf("they are for another architecture: %s", arch)
	}
	at := filepath.Join(l.Modules(), k.Release)
	if err := os.MkdirAll(at, 0o755); err != nil {
		return k, err
	}
	common, errCommon := filepath.EvalSymlinks(kern.Common())
	if rel, ok := strings.CutPrefix(dir, l.over()); ok {
		dir, common, errCommon = rel, kern.Common(), nil // where they will be
	}
	if errCommon == nil {
		err = files.ReplaceLink(common, filepath.Join(at, "source"))
	}
	return k, errors.Join(err, files.ReplaceLink(dir, filepath.Join(at, "build")))
}

// unpack unpacks a package of headers.
func (l Layout) unpack(ctx context.Context, file string) error {
	file, err := filepath.Abs(file)
	if err == nil {
		err = os.MkdirAll(l.over(), 0o755)
	}
	if err != nil {
		return err
	}
	return toolchain.Unpack(ctx, file, l.over())
}

// packages registers packages, whose confs it reads for k.
func (l Layout) packages(ctx context.Context, m *machine.Machine, names []string, k tree.Target) error {
	all, err := m.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusUsage)
	}
	into := tree.Tree{Dir: l.Tree()}
	register := func(id tree.ID, source string) error {
		if err := into.Register(id, source); err != nil {
			return failure.From(err, "cannot check "+id.String(), failure.StatusUsage)
		}
		return nil
	}
	for _, name := range names {
		if !isDir(name) {
			continue
		}
		c, dir, err := source(m, name, k)
		if err == nil {
			err = register(tree.ID{Name: c.Name, Version: c.Version}, dir)
		}
		if err != nil {
			return err
		}
	}
	wanted := func(p tree.Package) bool { return len(names) == 0 && confOf(m, p, k).Autoinstall }
	for _, name := range names {
		if isDir(name) {
			continue
		}
		before := wanted
		wanted = func(p tree.Package) bool { return before(p) || p.Name == name || p.ID.String() == name }
		if !slices.ContainsFunc(all, wanted) {
			return &failure.Failure{What: name + " is not registered", Why: "it is not in " + m.Tree.Dir, Hint: "for a directory with a source, write ./" + name, Status: failure.StatusUsage}
		}
	}
	taken := map[string]bool{}
	for again := true; again; {
		again = false
		for _, p := range all {
			if p.Broken() || taken[p.ID.String()] || !wanted(p) && !taken[p.Name] {
				continue
			}
			taken[p.ID.String()], again = true, true
			for _, need := range confOf(m, p, k).BuildDepends {
				taken[need] = true
			}
			if err := register(p.ID, p.Source); err != nil {
				return err
			}
		}
	}
	return nil
}

// isDir reports whether name is that of a directory, and not of a package.
func isDir(name string) bool { return strings.HasPrefix(name, ".") || filepath.IsAbs(name) }

// confOf returns the conf of a registered package; what cannot be read says nothing.
func confOf(m *machine.Machine, p tree.Package, k tree.Target) conf.Conf {
	c, _ := observe.Conf(m, p.ID, k)
	return c
}

// source returns the conf of the source in dir, and its absolute path.
func source(m *machine.Machine, dir string, k tree.Target) (c conf.Conf, abs string, err error) {
	abs, err = filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	file := filepath.Join(abs, "dkms.conf")
	if err == nil {
		_, err = os.Stat(file)
	}
	if err == nil {
		c, err = observe.ConfFile(m, file, tree.ID{}, k)
	}
	if err != nil {
		return c, "", &failure.Failure{What: "cannot check " + dir, Why: err.Error(), Hint: "name a directory with a dkms.conf; dkms-kernel-install init writes one", Status: failure.StatusUsage, Err: err}
	}
	return c, abs, nil
}
