// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// Recorded returns the SHA-256 sums, by file name, that the modules of the package called
// name had as they were built and placed. It reports false if that was not recorded.
func (k *Kernel) Recorded(name string) (built map[string]string, ok bool) {
	all, ok := k.record(name)
	built = map[string]string{}
	for file, was := range all {
		built[file] = was.Built
	}
	return built, ok
}

// Left returns the paths of the modules in the kernel's directory that were recorded when they
// were placed for the package called name.
func (k *Kernel) Left(name string) (paths []string) {
	all, _ := k.record(name)
	if k.read() != nil {
		return nil
	}
	for file := range all {
		for _, path := range k.index[kmod.ModuleName(file)] {
			if filepath.Base(path) == file && k.recorded(name, path) {
				paths = append(paths, path)
			}
		}
	}
	slices.Sort(paths)
	return paths
}

// Intact reports whether m is placed as it was built, or as POST_INSTALL or somebody who has
// signed it left it. Unlike [Kernel.Holds] it reads the files, whatever their times say.
func (k *Kernel) Intact(id tree.ID, m Module) bool {
	dest, built := k.Path(m), filepath.Join(k.Tree.ModuleDir(id, k.Target), m.File)
	now := files.Sum(dest)
	if now == "" {
		return same(dest, built) // a link
	}
	return now == files.Sum(built) || k.changed(id, dest) || signedSince(dest, built)
}

// TakeBack makes the module in the build of id a copy of m as it is placed.
func (k *Kernel) TakeBack(id tree.ID, m Module) error {
	return copyTo(k.Path(m), filepath.Join(k.Tree.ModuleDir(id, k.Target), m.File))
}

// PlaceAgain places m of the build of id where it was placed before.
func (k *Kernel) PlaceAgain(id tree.ID, m Module) error {
	return k.put(filepath.Join(k.Tree.ModuleDir(id, k.Target), m.File), k.Path(m))
}

// Temporaries returns the paths of the temporaries in the kernel's directory, which
// [Kernel.Tidy] removes.
func (k *Kernel) Temporaries() ([]string, error) {
	err := k.read()
	return k.temps, err
}

// Flaws returns what is wrong with the modules that the package called name displaced, by
// the path of the file. If one has an empty text, it is an origin without its module.
func (k *Kernel) Flaws(name string) (map[string]string, error) {
	flaws := map[string]string{}
	dir := k.Tree.OriginalDir(name, k.Target)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || files.IsTemp(d.Name()) {
			return err
		}
		if d.IsDir() {
			if _, _, ok := kmod.SplitName(strings.TrimSuffix(d.Name(), originSuffix)); ok {
				flaws[path] = "it is a directory, and no file"
			}
			return nil
		}
		if module, ok := strings.CutSuffix(path, originSuffix); ok {
			if !files.Exists(module) {
				flaws[path] = ""
			}
			return nil
		}
		_, errModule := kmod.ReadInfo(path)
		switch {
		case errModule != nil:
			flaws[path] = errModule.Error()
		case !strings.HasPrefix(path, filepath.Join(dir, "collisions")+"/") && !files.Exists(path+originSuffix):
			flaws[path] = "nothing says where it was: " + filepath.Base(path) + originSuffix + " is gone"
		}
		return nil
	})
	all, _ := k.record(name)
	for _, m := range all {
		for rel, sum := range m.Displaced {
			path := filepath.Join(dir, rel)
			if now := files.Sum(path); now == "" && flaws[path] == "" {
				flaws[path] = "it is gone"
			} else if now != sum && flaws[path] == "" {
				flaws[path] = "it is not what was there before"
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if _, errOrigin := k.archived(name); errOrigin != nil && err == nil {
		flaws[dir] = errOrigin.Error()
	}
	return flaws, err
}
