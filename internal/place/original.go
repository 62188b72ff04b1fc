// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// The archive of a package for a kernel, original_module/K/A, holds displaced
// modules. The one that was in use is FILE, and FILE.origin holds the path that it
// had. Others of the same name are collisions/PATH, where PATH is relative to the
// kernel's directory.

// archive copies the modules in foreign, which make way for m, into the archive. The
// first is the one that was in use.
func (k *Kernel) archive(p Placement, m Module, foreign []string) error {
	dir := k.Tree.OriginalDir(p.Name, k.Target)
	for i, path := range foreign {
		if i > 0 {
			rel, err := filepath.Rel(k.Dir, path)
			if err != nil {
				return err
			}
			if err := copyTo(path, filepath.Join(dir, "collisions", rel)); err != nil {
				return err
			}
			continue
		}
		file := filepath.Join(dir, filepath.Base(path))
		// The origin goes first: a module without one is never put back, and an
		// origin without a module does no harm.
		if err := files.Write(file+originSuffix, strings.NewReader(path+"\n"), 0o644, files.Options{Durable: true}); err != nil {
			return err
		}
		if err := copyTo(path, file); err != nil {
			return err
		}
	}
	return nil
}

const originSuffix = ".origin"

// archived is one module in the archive.
type archived struct {
	file   string // in the archive
	origin string // the path that it had
}

// archived lists the archive of the package called name. It returns an error if an
// origin is not below the kernel's directory: putting that one back would write
// elsewhere.
func (k *Kernel) archived(name string) ([]archived, error) {
	dir := k.Tree.OriginalDir(name, k.Target)
	var found []archived
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == dir && errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if _, _, ok := kmod.SplitName(d.Name()); !ok || !d.Type().IsRegular() || files.IsTemp(d.Name()) {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if below, ok := strings.CutPrefix(rel, "collisions/"); ok {
			found = append(found, archived{path, filepath.Join(k.Dir, below)})
			return nil
		}
		b, err := os.ReadFile(path + originSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // not put here by this program
		}
		if err != nil {
			return err
		}
		origin, err := k.inside(strings.TrimSpace(string(b)))
		if err != nil {
			return fmt.Errorf("%s%s: %w; correct it or remove the two files", path, originSuffix, err)
		}
		found = append(found, archived{path, origin})
		return nil
	})
	return found, err
}

// inside returns path with the kernel's directory spelled as in k.Dir: path may
// have its resolved name, such as /usr/lib/modules for /lib/modules.
func (k *Kernel) inside(path string) (string, error) {
	path = filepath.Clean(path)
	dirs := []string{k.Dir}
	if real, err := filepath.EvalSymlinks(k.Dir); err == nil {
		dirs = append(dirs, real)
	}
	for _, dir := range dirs {
		if rel, ok := strings.CutPrefix(path, dir+"/"); ok {
			return filepath.Join(k.Dir, rel), nil
		}
	}
	return "", fmt.Errorf("%q is not below %s", path, k.Dir)
}

// restore copies the modules that p displaced back to where they were and returns their
// paths. One in whose place another package has put its module since becomes a part of
// that package's archive instead. If the kernel is gone, restore does nothing. The
// archive stays until [Kernel.forgetOriginals].
func (k *Kernel) restore(p Placement) (paths []string, err error) {
	if fi, err := os.Stat(filepath.Join(k.Dir, "kernel")); err != nil || !fi.IsDir() {
		return paths, nil
	}
	list, err := k.archived(p.Name)
	if err != nil {
		return nil, err
	}
	for _, a := range list {
		if by := k.holder(p, a.origin); by != (tree.ID{}) {
			rel, err := filepath.Rel(k.Dir, a.origin)
			if err == nil && !k.builtBy(by.Name, a.file) {
				err = copyTo(a.file, filepath.Join(k.Tree.OriginalDir(by.Name, k.Target), "collisions", rel))
			}
			if err != nil {
				return paths, err
			}
			continue
		}
		if theirs, err := k.theirs(p, a); err != nil {
			return paths, err
		} else if theirs {
			continue // the kernel was upgraded since, or somebody put another one there
		}
		if err := copyTo(a.file, a.origin); err != nil {
			return paths, err
		}
		k.note(a.origin)
		paths = append(paths, a.origin)
	}
	return paths, nil
}

// theirs reports whether the directory that a module of p's archive was in has one of that
// name which is neither the archived one nor of p.
func (k *Kernel) theirs(p Placement, a archived) (bool, error) {
	if err := k.read(); err != nil {
		return false, err
	}
	name := kmod.ModuleName(a.file)
	var m Module
	for _, own := range p.Modules {
		if kmod.ModuleName(own.File) == name {
			m = own
		}
	}
	return slices.ContainsFunc(k.index[name], func(path string) bool {
		return filepath.Dir(path) == filepath.Dir(a.origin) && !same(path, a.file) && !k.mine(p, m, path)
	}), nil
}

// disown removes what versions of the package called name built from the archives of
// other packages, which would put it back.
func (k *Kernel) disown(name string) error {
	entries, err := os.ReadDir(k.Tree.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		dir := k.Tree.OriginalDir(e.Name(), k.Target)
		if e.Name() == name || !files.Exists(dir) {
			continue
		}
		// An archive that cannot be read is not put back either.
		list, _ := k.archived(e.Name())
		for _, a := range list {
			if !k.builtBy(name, a.file) {
				continue
			}
			if err := k.forgetDisplaced(e.Name(), a.file); err != nil {
				return err
			}
			for _, file := range []string{a.file + originSuffix, a.file} {
				if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			files.RemoveEmpty(filepath.Dir(a.file), k.Tree.Dir)
		}
	}
	return nil
}

// builtBy reports whether a version of the package called name built the module in file.
func (k *Kernel) builtBy(name, file string) bool {
	versions, _ := os.ReadDir(filepath.Join(k.Tree.Dir, name))
	return slices.ContainsFunc(versions, func(v fs.DirEntry) bool {
		return k.Holds(tree.ID{Name: name, Version: v.Name()}, file)
	})
}

// forgetOriginals removes the archive of the package called name.
func (k *Kernel) forgetOriginals(name string) error {
	dir := k.Tree.OriginalDir(name, k.Target)
	// The archive is gone once it is renamed: half an archive would lack origins.
	gone := filepath.Join(k.Tree.Dir, name, files.TempName("original-"+k.Target.Release+"-"+k.Target.Arch))
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files.RemoveEmpty(filepath.Dir(dir), k.Tree.Dir)
	return os.RemoveAll(gone)
}

// Heal removes the archive of the package called name if an Uninstall was killed
// before it did: the package is not installed, and all archived modules are back, or the
// kernel has gone.
func (k *Kernel) Heal(name string, installed bool) error {
	if installed {
		return nil
	}
	if !files.Exists(k.Dir) && files.Exists(filepath.Dir(k.Dir)) {
		return k.forgetOriginals(name)
	}
	list, err := k.archived(name)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, a := range list {
		if !same(a.file, a.origin) && (!files.Exists(a.origin) || k.builtBy(name, a.origin)) {
			// Not an Uninstall: the modules are still displaced.
			return nil
		}
	}
	return k.forgetOriginals(name)
}
