// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"bytes"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// A record says how the modules of a package that were placed for a kernel look, by file
// name. Without one, somebody else placed them.
type record map[string]recorded

// recorded are the SHA-256 sums of one module: as it was built, and, if the package's
// POST_INSTALL changed it after it was placed, as it is now; and as the package's module
// was that it takes the place of, until that is done.
type recorded struct {
	Built, Changed string
	Before         string `json:",omitempty"`
	// Displaced has the sums of the modules in the archive that made way for it, by their
	// paths in the archive.
	Displaced map[string]string `json:",omitempty"`
}

// foretell adds to the record of p, some of whose modules are there, what is to be placed
// and what is there: if only some of it is placed, both stay the package's.
func (k *Kernel) foretell(p Placement, list []found) error {
	all, _ := k.record(p.Name)
	if all == nil {
		all = record{}
	}
	for _, f := range list {
		for _, path := range f.stale {
			was := all[filepath.Base(path)]
			was.Before = files.Sum(path)
			all[filepath.Base(path)] = was
		}
		now := all[f.module.File]
		now.Built, now.Changed = files.Sum(filepath.Join(k.Tree.ModuleDir(p.ID, k.Target), f.module.File)), ""
		all[f.module.File] = now
	}
	return files.WriteState(k.Tree.PlacedFile(p.Name, k.Target), all, files.Options{})
}

// Record notes how the modules of p that were placed, at these paths, look now. What
// differs from what was built counts as installed from now on.
func (k *Kernel) Record(p Placement, placed []string) error {
	all := record{}
	displaced, _ := k.archived(p.Name) // one that cannot be put back has no sum to know it by
	for _, path := range placed {
		built := filepath.Join(k.Tree.ModuleDir(p.ID, k.Target), filepath.Base(path))
		now := recorded{Built: files.Sum(built)}
		if !same(path, built) {
			now.Changed = files.Sum(path)
		}
		for _, a := range displaced {
			if rel, err := filepath.Rel(k.Tree.OriginalDir(p.Name, k.Target), a.file); err == nil && kmod.ModuleName(a.file) == kmod.ModuleName(path) {
				if now.Displaced == nil {
					now.Displaced = map[string]string{}
				}
				now.Displaced[rel] = files.Sum(a.file)
			}
		}
		all[filepath.Base(path)] = now
	}
	return files.WriteState(k.Tree.PlacedFile(p.Name, k.Target), all, files.Options{})
}

// forgetDisplaced takes a module in the archive of the package called name out of its record.
func (k *Kernel) forgetDisplaced(name, file string) error {
	all, ok := k.record(name)
	rel, err := filepath.Rel(k.Tree.OriginalDir(name, k.Target), file)
	if !ok || err != nil {
		return err
	}
	for _, m := range all {
		delete(m.Displaced, rel)
	}
	return files.WriteState(k.Tree.PlacedFile(name, k.Target), all, files.Options{})
}

// record returns the record of the package called name.
func (k *Kernel) record(name string) (r record, ok bool) {
	return files.ReadState[record](k.Tree.PlacedFile(name, k.Target))
}

// changed reports whether the file at path is what POST_INSTALL made of the module of that
// file name in the build of id.
func (k *Kernel) changed(id tree.ID, path string) bool {
	all, _ := k.record(id.Name)
	was := all[filepath.Base(path)]
	return was.Changed != "" && files.Sum(path) == was.Changed && files.Sum(filepath.Join(k.Tree.ModuleDir(id, k.Target), filepath.Base(path))) == was.Built
}

// recorded reports whether the file at path is one that was placed for the package called
// name, whatever has been built since.
func (k *Kernel) recorded(name, path string) bool {
	all, _ := k.record(name)
	was := all[filepath.Base(path)]
	now := ""
	if was.Built != "" || was.Before != "" {
		now = files.Sum(path)
	}
	return now != "" && (now == was.Built || now == was.Changed || now == was.Before)
}

// signedSince reports whether placed is the module in the file built, with another
// signature or none, and has changed after that: somebody signed it in its place.
func signedSince(placed, built string) bool {
	var fp, fb unix.Stat_t
	if unix.Lstat(placed, &fp) != nil || unix.Lstat(built, &fb) != nil || !before(fb.Ctim, fp.Ctim) {
		return false
	}
	a, err := kmod.ReadFile(placed)
	if err != nil {
		return false
	}
	b, err := kmod.ReadFile(built)
	return err == nil && bytes.Equal(kmod.StripSignature(a), kmod.StripSignature(b))
}
