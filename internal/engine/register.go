package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// Register makes the package id known; its source is in the source tree. The
// conf is checked as it reads for kernel k. The caller holds the lock.
func (e *Engine) Register(ctx context.Context, id tree.ID, k tree.Target) error {
	if err := tree.CheckID(id); err != nil {
		return &failure.Failure{What: "cannot add " + id.String(), Why: err.Error(), Status: failure.StatusBadConf, Hint: "choose another name or version"}
	}
	packages, err := e.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	for _, p := range packages {
		if p.ID == id && !p.Broken() {
			return &failure.Failure{What: id.String() + " is already added", Status: failure.StatusAlready,
				Hint: "run: dkms build " + id.String()}
		}
	}
	source := filepath.Join(e.Settings.SourceTree, id.Name+"-"+id.Version)
	c, err := e.readNew(source, id, k)
	if err != nil {
		return err
	}
	if err := e.Tree.Register(id, source); err != nil {
		return failure.From(err, "cannot add "+id.String(), failure.StatusNoPerm)
	}
	if c.Name != id.Name || c.Version != id.Version {
		e.Events.Note(fmt.Sprintf("%s: its dkms.conf calls it %s/%s", id, c.Name, c.Version))
	}
	for _, w := range c.Warnings {
		e.Events.Note(id.String() + ": " + w)
	}
	job := e.job(id, k, source, plan.Package{Conf: c})
	if err := e.runScript(ctx, job, "POST_ADD", c.PostAdd); err != nil {
		e.Events.Note(err.Error())
	}
	return nil
}

// readNew checks a source that is not registered yet, and reads its conf. An
// empty id takes the names that the conf gives.
func (e *Engine) readNew(source string, id tree.ID, k tree.Target) (conf.Conf, error) {
	fail := func(status int, why, hint string) error {
		return &failure.Failure{What: "cannot add " + source, Why: why, Hint: hint, Status: status}
	}
	if fi, err := os.Stat(source); err != nil || !fi.IsDir() {
		return conf.Conf{}, fail(failure.StatusNotFound, "there is no such folder", "install the package that brings the source, or unpack it there")
	}
	src := e.source(id, k)
	src.File = cmp.Or(e.Options.Conf, filepath.Join(source, "dkms.conf"))
	if fi, err := os.Stat(src.File); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.Mode().IsRegular() {
		return conf.Conf{}, fail(failure.StatusNoConf, "it has no dkms.conf", "write one: see dkms(8)")
	}
	c, err := e.shell.Read(src, e.Settings)
	if err != nil {
		return c, fail(failure.StatusBadConf, err.Error(), "correct dkms.conf; nothing was added")
	}
	return c, nil
}

// sameSource says whether two folders have the same content, as after a run that
// was killed when it had copied one to the other.
func (e *Engine) sameSource(a, b string) bool {
	x, errX := e.hashes.Source(a)
	y, errY := e.hashes.Source(b)
	return errX == nil && errY == nil && x == y
}

// Import copies the source in folder dir into the source tree, under the name
// and version that its dkms.conf gives, and returns those. A source that is
// there already is left alone, and an error unless it is the same. The caller
// holds the lock.
func (e *Engine) Import(ctx context.Context, dir string, k tree.Target) (tree.ID, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return tree.ID{}, err
	}
	c, err := e.readNew(dir, tree.ID{}, k)
	if err != nil {
		return tree.ID{}, err
	}
	id := tree.ID{Name: c.Name, Version: c.Version}
	to := filepath.Join(e.Settings.SourceTree, id.Name+"-"+id.Version)
	from, err := os.Stat(dir)
	if err != nil {
		return id, err
	}
	if there, err := os.Stat(to); err == nil {
		if os.SameFile(from, there) || e.sameSource(dir, to) {
			return id, nil
		}
		return id, &failure.Failure{What: "cannot add " + dir, Why: to + " exists", Status: failure.StatusAlready,
			Hint: fmt.Sprintf("remove it first, or run: dkms add %s", id)}
	}
	if err := e.placeSource(ctx, dir, to); err != nil {
		return id, failure.From(err, "cannot copy the source to "+to, failure.StatusNotFound)
	}
	return id, nil
}
