package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/tree"
)

// onlyOne refuses --source-only together with --binaries-only.
func (c *classicRun) onlyOne() error {
	if c.SourceOnly && c.BinariesOnly {
		return usage(failure.StatusBadConf, "--source-only and --binaries-only exclude each other")
	}
	return nil
}

func (c *classicRun) mktarball() error {
	if err := c.onlyOne(); err != nil {
		return err
	}
	o := engine.ArchiveOptions{File: c.Archive, SourceOnly: c.SourceOnly, BinariesOnly: c.BinariesOnly}
	id, ks, unlock, err := c.begin(false)
	if errors.Is(err, fs.ErrPermission) && !o.InTree() {
		// Who may read the tree may take a copy of what is in it.
		unlock = func() {}
		if ks, err = c.kernels(); err == nil {
			id, err = c.id(false)
		}
	}
	if err != nil {
		return err
	}
	defer unlock()
	kernels := ks
	if c.All {
		kernels = nil
	}
	file, err := c.e.MakeArchive(c.ctx, id, kernels, ks[0], o)
	if err != nil {
		return err
	}
	c.text.Note("made " + file)
	return nil
}

func (c *classicRun) ldtarball() error {
	if err := c.onlyOne(); err != nil {
		return err
	}
	file := c.Archive
	switch {
	case len(c.Args) > 1 || len(c.Args) == 1 && file != "":
		return usage(failure.StatusNotFound, "more than one archive given")
	case len(c.Args) == 1:
		file = c.Args[0]
	case file == "":
		return usage(failure.StatusUsage, "ldtarball needs an archive")
	}
	unlock, err := c.e.Lock(c.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = c.load(file)
	return err
}

// load loads an archive. For ldtarball and add it is an error when all of it is
// there already; build and install go on with what is there.
func (c *classicRun) load(file string) (tree.ID, error) {
	ks, err := c.kernels()
	if err != nil {
		return tree.ID{}, err
	}
	l, err := c.e.LoadArchive(c.ctx, file, ks[0], engine.LoadOptions{
		Force: c.Force, Want: tree.ID{Name: c.Module, Version: c.ModuleVersion},
	})
	if err != nil {
		return l.ID, err
	}
	if l.Nothing() && (c.Action == "ldtarball" || c.Action == "add") {
		return l.ID, &failure.Failure{What: l.String() + " is already added, with all that is in " + file, Status: failure.StatusAlready,
			Hint: "use --force to replace what is there"}
	}
	c.loaded = !l.Nothing()
	if l.Added {
		c.text.Note("added " + l.String())
	}
	if l.Source {
		c.text.Note(fmt.Sprintf("%s: loaded its source", l.ID))
	}
	for _, k := range l.Builds {
		c.text.Note(fmt.Sprintf("%s: loaded its build for %s (%s)", l.ID, k.Release, k.Arch))
	}
	return l.ID, nil
}

// rpmFile returns the RPM package that is to be loaded in place of an archive.
func (c *classicRun) rpmFile() string {
	if !slices.Contains([]string{"add", "build", "install", "ldtarball"}, c.Action) {
		return ""
	}
	for _, file := range append(c.Args, c.Archive) {
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && filepath.Ext(file) == ".rpm" {
			return file
		}
	}
	return ""
}

// installRPM has rpm install a package, whose scripts call dkms: so the lock is
// not taken yet. Then it installs what is missing for the kernel.
func (c *classicRun) installRPM(file string) error {
	if _, err := c.kernel(); err != nil {
		return err
	}
	cmd := exec.CommandContext(c.ctx, "rpm", "-Uvh", "--", file)
	cmd.Stdout, cmd.Stderr = c.p.stdout, c.p.stderr
	if err := cmd.Run(); err != nil {
		return &failure.Failure{What: "cannot install " + file, Why: "rpm: " + err.Error(), Status: failure.StatusNoPerm, Err: err,
			Hint: "install it with the distribution's own tools, or load an archive that dkms mktarball made"}
	}
	return c.autoinstall()
}
