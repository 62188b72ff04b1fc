// SPDX-License-Identifier: GPL-2.0-or-later

// Package packages registers packages, removes them, and moves them in and out of
// archives.
package packages

import (
	"cmp"
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
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/scripts"
	"dkms-kernel-install/internal/tree"
)

// sourceDir is where the source of a package belongs.
func sourceDir(m *machine.Machine, id tree.ID) string {
	return filepath.Join(m.Settings.SourceTree, id.Name+"-"+id.Version)
}

// Find returns a package that is in the tree, broken or not.
func Find(m *machine.Machine, id tree.ID) (tree.Package, error) {
	packages, err := m.Tree.Read()
	if err != nil {
		return tree.Package{}, failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	return find(packages, id)
}

func find(packages []tree.Package, id tree.ID) (tree.Package, error) {
	i := slices.IndexFunc(packages, func(p tree.Package) bool { return p.ID == id })
	if i < 0 {
		return tree.Package{}, &failure.Failure{What: id.String() + " is not in the DKMS tree", Status: failure.StatusAlready,
			Hint: "dkms status shows what is; to add it: dkms add " + id.String()}
	}
	return packages[i], nil
}

// Registered reports whether the package id is in the tree, broken or not. What a killed
// registration leaves, an empty directory, is to be registered again.
func Registered(m *machine.Machine, id tree.ID) bool {
	p, err := Find(m, id)
	return err == nil && (!p.Broken() || len(p.Builds) > 0 || files.Exists(m.Tree.SourceDir(id)))
}

// Register makes the package id known; its source is in the source tree. Its conf,
// which confFile replaces if it is not empty, is checked as it reads for kernel k.
// The caller holds the lock of the tree.
func Register(ctx context.Context, m *machine.Machine, id tree.ID, k tree.Target, confFile string) error {
	err := tree.CheckID(id)
	for _, s := range []string{id.Name, id.Version} {
		if err == nil && strings.TrimSpace(s) != s {
			err = fmt.Errorf("%q begins or ends with white space", s) // a line end of Windows, mostly
		}
	}
	if err != nil {
		return &failure.Failure{What: "cannot add " + id.String(), Why: err.Error(), Status: failure.StatusBadConf, Hint: "choose another name or version"}
	}
	packages, err := m.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	for _, p := range packages {
		if p.ID == id && !p.Broken() {
			return &failure.Failure{What: id.String() + " is already added", Status: failure.StatusAlready,
				Hint: "run: dkms build " + id.String()}
		}
	}
	source := sourceDir(m, id)
	c, err := readNew(m, source, confFile, id, k, failure.StatusNoConf)
	if err != nil {
		return err
	}
	script := scripts.Script{ID: id, Kernel: k, Directive: "POST_ADD", Value: c.PostAdd}
	err = script.Owe(m)
	if err == nil {
		err = m.Tree.Register(id, source)
	}
	if err != nil {
		return failure.From(err, "cannot add "+id.String(), failure.StatusNoPerm)
	}
	if c.Name != id.Name || c.Version != id.Version {
		m.Note(fmt.Sprintf("%s: its dkms.conf calls it %s/%s", id, c.Name, c.Version))
	}
	for _, w := range c.Warnings {
		m.Note(id.String() + ": " + w)
	}
	if err := script.Run(ctx, m); err != nil {
		m.Note(err.Error())
	}
	return nil
}

// readNew checks a source that is not registered yet, and reads its conf, which
// confFile replaces if it is not empty. An empty id takes the names that the conf
// gives. Missing is the exit status if there is no conf.
func readNew(m *machine.Machine, source, confFile string, id tree.ID, k tree.Target, missing int) (conf.Conf, error) {
	fail := func(status int, why, hint string) error {
		return &failure.Failure{What: "cannot add " + source, Why: why, Hint: hint, Status: status}
	}
	if fi, err := os.Stat(source); err != nil || !fi.IsDir() {
		return conf.Conf{}, fail(failure.StatusNotFound, "there is no such directory", "install the package that brings the source, or unpack it there")
	}
	confFile = cmp.Or(confFile, filepath.Join(source, "dkms.conf"))
	if fi, err := os.Stat(confFile); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return conf.Conf{}, fail(missing, "it has no dkms.conf", "write one: see dkms(8)")
	}
	c, err := observe.ConfFile(m, confFile, id, k)
	if err != nil {
		return c, fail(failure.StatusBadConf, err.Error(), "correct dkms.conf; nothing was added")
	}
	return c, nil
}

// Import copies the source in dir into the source tree, under the name and version
// that its conf gives, and returns those. A source in the source tree that has a name and
// a version stays there, and goes by them. ConfFile replaces the conf if it is not
// empty. A source that is there already is an error, unless it is the same; if force is
// set, it is replaced, which Import reports. The caller holds the lock of the tree.
func Import(ctx context.Context, m *machine.Machine, dir string, k tree.Target, confFile string, force bool) (id tree.ID, replaced bool, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return id, false, err
	}
	c, err := readNew(m, dir, confFile, tree.ID{}, k, failure.StatusUsage)
	if err != nil {
		return id, false, err
	}
	if id, ok := sourceID(m, dir, c); ok {
		return id, false, nil
	}
	id = tree.ID{Name: c.Name, Version: c.Version}
	to := sourceDir(m, id)
	from, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return id, false, err
	}
	if there, err := filepath.EvalSymlinks(to); err == nil {
		within := strings.HasPrefix(from+"/", there+"/") || strings.HasPrefix(there+"/", from+"/")
		if from == there || sameSource(m, dir, to) {
			return id, false, nil
		}
		if !force || within {
			return id, false, &failure.Failure{What: "cannot add " + dir, Why: to + " exists", Status: failure.StatusAlready,
				Hint: fmt.Sprintf("to add what is there, run: dkms add %s; to replace it, use --force with a directory elsewhere", id)}
		}
		replaced = true
	}
	if err := placeSource(ctx, m, dir, to); err != nil {
		return id, false, failure.From(err, "cannot copy the source to "+to, failure.StatusNotFound)
	}
	return id, replaced, nil
}

// sourceID returns the package that dir, a directory in the source tree, is named for:
// whoever brought it removes it by that name, and not by the one that its conf c gives. It
// reports false if dir is elsewhere, or its name has no version.
func sourceID(m *machine.Machine, dir string, c conf.Conf) (id tree.ID, ok bool) {
	parent, err := os.Stat(filepath.Dir(dir))
	sources, errSources := os.Stat(m.Settings.SourceTree)
	if err != nil || errSources != nil || !os.SameFile(parent, sources) {
		return id, false
	}
	// Either part may have hyphens: the conf tells one from the other.
	base := filepath.Base(dir)
	if version, ok := strings.CutPrefix(base, c.Name+"-"); ok {
		id = tree.ID{Name: c.Name, Version: version}
	} else if name, ok := strings.CutSuffix(base, "-"+c.Version); ok {
		id = tree.ID{Name: name, Version: c.Version}
	} else if i := strings.LastIndexByte(base, '-'); i >= 0 {
		id = tree.ID{Name: base[:i], Version: base[i+1:]}
	}
	return id, id.Name != "" && strings.ContainsAny(id.Version, "0123456789")
}

// sameSource reports whether two directories have the same content, as after a run
// that was killed when it had copied one to the other.
func sameSource(m *machine.Machine, a, b string) bool {
	x, errX := m.Hashes.Source(a)
	y, errY := m.Hashes.Source(b)
	return errX == nil && errY == nil && x == y
}
