// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
)

// Heal removes what a killed run left of id: temporaries, empty directories of
// builds, and a scratch directory that explains no failure. In a directory that has
// neither a source link nor a source in [Tree.Sources] it removes only temporaries.
func (t Tree) Heal(id ID) error {
	dir := t.PackageDir(id)
	// Without either it may not be a package: somebody may have named another
	// directory as the tree by mistake.
	fi, err := os.Lstat(t.SourceDir(id))
	ours := err == nil && fi.Mode()&fs.ModeSymlink != 0 || t.hasSource(id)
	if _, err := removeTemps(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := healArchives(filepath.Dir(dir)); err != nil {
		return err
	}
	releases, err := removeTemps(dir)
	if err != nil {
		return err
	}
	for _, r := range releases {
		if !r.IsDir() || r.Name() == "build" {
			continue
		}
		release := filepath.Join(dir, r.Name())
		arches, err := removeTemps(release)
		if err != nil {
			return err
		}
		for _, a := range arches {
			if !a.IsDir() {
				continue
			}
			arch := filepath.Join(release, a.Name())
			left, err := removeTemps(arch)
			if err != nil {
				return err
			}
			if len(left) == 0 && ours {
				files.RemoveEmpty(arch, dir)
			}
			for _, e := range left {
				if e.IsDir() && e.Name() == "module" {
					if _, err := removeTemps(filepath.Join(arch, "module")); err != nil {
						return err
					}
				}
			}
		}
		if len(arches) == 0 && ours {
			files.RemoveEmpty(release, dir)
		}
	}
	if !ours {
		return nil
	}
	if !t.ExplainsFailure(id) {
		return files.RemoveAll(t.BuildDir(id))
	}
	return nil
}

// healArchives removes temporaries and empty directories from the archives of displaced
// modules in the directory of a package's name.
func healArchives(name string) error {
	var dirs []string
	err := filepath.WalkDir(filepath.Join(name, originals), func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		case files.IsTemp(d.Name()):
			return files.Remove(path)
		}
		return nil
	})
	for _, dir := range slices.Backward(dirs) {
		files.RemoveEmpty(dir, name)
	}
	return err
}

// HealGone removes what a killed run left of id, which is no longer a package of
// the tree. If nothing else is there, it removes the directories of id and its name.
func (t Tree) HealGone(id ID) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := t.Heal(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	os.Remove(t.PackageDir(id)) // fails unless it is empty
	files.RemoveEmpty(filepath.Dir(t.PackageDir(id)), t.Dir)
	return nil
}

// HealTop removes the temporaries that a killed run left in the tree's directory. It heals
// what upgrades kept, whichever kernels it is for: what has nothing else is not among the
// packages that others know.
func (t Tree) HealTop() error {
	kept, _ := fs.Glob(os.DirFS(t.Dir), "*/"+keptPrefix+"*/*")
	var errs []error
	if len(kept) > 0 {
		packages, err := t.Read()
		errs = append(errs, err)
		for _, p := range packages {
			if p.Kept {
				errs = append(errs, t.healKept(p))
			}
		}
	}
	for _, release := range kept {
		if _, err := removeTemps(filepath.Join(t.Dir, release)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		files.RemoveEmpty(filepath.Join(t.Dir, release), t.Dir)
	}
	_, err := removeTemps(t.Dir)
	return errors.Join(append(errs, err)...)
}

// removeTemps removes the temporaries in dir and returns the other entries.
func removeTemps(dir string) (left []fs.DirEntry, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !files.IsTemp(e.Name()) {
			left = append(left, e)
		} else if err := files.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return left, err
}

// ExplainsFailure reports whether the scratch directory of id holds the log of a
// build for a kernel that id has no build for now. The log's first line names the
// kernel: it ends in "for kernel K (A)".
func (t Tree) ExplainsFailure(id ID) bool {
	// The package may have left a FIFO there: opening one blocks.
	f, err := os.OpenFile(filepath.Join(t.BuildDir(id), "make.log"), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, 1024)
	n, _ := f.Read(head)
	line, _, _ := strings.Cut(string(head[:n]), "\n")
	_, of, _ := strings.Cut(line, " for kernel ")
	release, arch, ok := strings.Cut(strings.TrimSuffix(of, ")"), " (")
	if !ok {
		return false
	}
	_, err = os.Stat(t.ModuleDir(id, Target{release, arch}))
	return err != nil
}
