// SPDX-License-Identifier: GPL-2.0-or-later

// Package place puts built modules into a kernel's directory, /lib/modules/K, and
// takes them out again. What stood in the way is archived in the DKMS tree and
// put back later.
//
// A run may be killed at any moment. Files appear by rename. A module that moves is
// copied before it is removed. The link in the tree, which records that a package is
// installed, is made after the modules are placed and removed after they are gone.
// So modules may be there without a link, or a link without its modules. The next
// run repairs both: it knows a package's modules by their content.
package place

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/tree"
)

// Kernel places modules of packages for one kernel. It reads the kernel's directory
// once and keeps the list up to date by its own changes. Except for
// [Kernel.Current], its methods must not be called concurrently.
type Kernel struct {
	Tree   tree.Tree
	Target tree.Target
	Dir    string // /lib/modules/K
	// Symlink reports whether links to the modules in the tree are placed, and not
	// copies.
	Symlink bool

	mu    sync.Mutex          // held by Current while it uses the fields below
	index map[string][]string // paths below Dir by module name; nil: not read
	temps []string            // paths of temporaries below Dir, as of that reading
}

// Module is one built module and where it goes.
type Module struct {
	File     string // its name in the tree, such as foo.ko.xz
	Location string // directory below the kernel's, such as /updates/dkms; "" if unknown
}

// Placement is a package's modules for a kernel, and where they go.
type Placement struct {
	tree.ID
	// Versions are all registered versions of the package. Modules that any of
	// them placed belong to the package.
	Versions []string
	// Installed reports whether a version of the package counts as installed.
	Installed bool
	// Others are the packages that are installed for the kernel. Those of the same
	// name do not count.
	Others  []tree.ID
	Modules []Module
	// Force reports whether modules are placed whatever is there, Override, whatever
	// version is there.
	Force, Override bool
	// Exact reports whether a module that somebody has signed in its place is another.
	Exact bool
	// Explicit reports whether somebody asked for this package: then the modules of
	// Others make way for its own. KeepNewer reports whether a newer module of another
	// version of the package does not.
	Explicit, KeepNewer bool
}

// Result is what Install did with a package's modules.
type Result struct {
	Placed []string // paths of modules in the kernel's directory
	// Kept has a line for each module that stands in the way: the file that it was
	// kept from, and why it was kept.
	Kept []string
	// Removed are the paths of the package's modules that were removed: they had
	// another path, or only another version has such modules.
	Removed []string
}

// Path returns the path at which m is placed.
func (k *Kernel) Path(m Module) string { return filepath.Join(k.Dir, m.Location, m.File) }

// Current reports whether the kernel's directory holds the modules of p as they were
// built, or as POST_INSTALL left them, except for those that Install would not place.
// It may be called by several goroutines at once, but not together with other methods.
func (k *Kernel) Current(p Placement) bool {
	var missing []Module
	for _, m := range p.Modules {
		dest := k.Path(m)
		if m.Location == "" || k.Holds(p.ID, dest) || !p.Exact && signedSince(dest, filepath.Join(k.Tree.ModuleDir(p.ID, k.Target), m.File)) {
			continue
		}
		if _, err := os.Lstat(dest); p.Force || err == nil && (p.Explicit || k.holder(p, dest) == tree.ID{}) {
			return false
		}
		missing = append(missing, m)
	}
	if len(missing) == 0 {
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	_, keeps, err := k.surveyAll(p)
	return err == nil && !slices.ContainsFunc(missing, func(m Module) bool { return keeps[m.File] == "" })
}

// TakenBy returns the first of p.Others that has placed a module where p places its
// own.
func (k *Kernel) TakenBy(p Placement) tree.ID {
	for _, m := range p.Modules {
		if by := k.holder(p, k.Path(m)); m.Location != "" && by != (tree.ID{}) {
			return by
		}
	}
	return tree.ID{}
}

// Install places the modules of p and records p as installed, in place of any other
// version. If a module that is there is newer than one of p, none of p is placed and p
// is not recorded, unless p.Force is set; nor if all are there in the same version. The
// caller holds the tree's lock. If there is an error, Result has what was done before.
func (k *Kernel) Install(p Placement) (Result, error) {
	var r Result
	if err := k.Tidy(); err != nil {
		return r, err
	}
	list, keeps, err := k.surveyAll(p)
	if err != nil {
		return r, err
	}
	for _, f := range list {
		if keeps[f.module.File] != "" && f.kept != "" {
			r.Kept = append(r.Kept, f.module.File+": "+f.kept)
		}
	}
	list = slices.DeleteFunc(list, func(f found) bool { return keeps[f.module.File] != "" })
	if slices.ContainsFunc(list, func(f found) bool { return len(f.stale) > 0 }) {
		if err := k.foretell(p, list); err != nil {
			return r, err
		}
	}
	for _, f := range list {
		m := f.module
		if err := k.archive(p, m, f.foreign); err != nil {
			return r, fmt.Errorf("cannot archive the module that was there before: %w", err)
		}
		dest := k.Path(m)
		if err := k.put(filepath.Join(k.Tree.ModuleDir(p.ID, k.Target), m.File), dest); err != nil {
			return r, fmt.Errorf("cannot place %s: %w", dest, err)
		}
		for _, path := range append(f.foreign, f.stale...) {
			if path != dest {
				if err := k.remove(path); err != nil {
					return r, err
				}
				if slices.Contains(f.stale, path) {
					r.Removed = append(r.Removed, path)
				}
			}
		}
		k.note(dest)
		r.Placed = append(r.Placed, dest)
	}
	if len(r.Placed) == 0 && len(r.Kept) > 0 {
		return r, nil
	}
	// A killed run may have moved a module away and left its directory.
	if moved, err := k.archived(p.Name); err == nil {
		for _, a := range moved {
			files.RemoveEmpty(filepath.Dir(a.origin), k.Dir)
		}
	}
	others, err := k.removeOthers(p)
	r.Removed = append(r.Removed, others...)
	if err != nil {
		return r, err
	}
	if err := k.Record(p, r.Placed); err != nil {
		return r, err
	}
	return r, k.Tree.SetInstalled(p.ID, k.Target)
}

// put makes dest a copy of the file at from, or a link to it.
func (k *Kernel) put(from, dest string) error {
	if !k.Symlink {
		return copyTo(from, dest)
	}
	if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
		return err
	}
	return files.ReplaceLink(from, dest)
}

// removeOthers removes the modules that other versions of the package placed and p
// does not have. It returns the paths that it removed.
func (k *Kernel) removeOthers(p Placement) (removed []string, err error) {
	mine := map[string]bool{}
	for _, m := range p.Modules {
		mine[kmod.ModuleName(m.File)] = true
	}
	for _, v := range p.Versions {
		if v == p.Version {
			continue
		}
		entries, _ := os.ReadDir(k.Tree.ModuleDir(tree.ID{Name: p.Name, Version: v}, k.Target))
		for _, e := range entries {
			name, _, ok := kmod.SplitName(e.Name())
			if !ok || mine[kmod.Normal(name)] {
				continue
			}
			for _, path := range slices.Clone(k.index[kmod.Normal(name)]) {
				if k.own(p, path) {
					if err := k.remove(path); err != nil {
						return removed, err
					}
					removed = append(removed, path)
				}
			}
		}
	}
	return removed, nil
}

// Files returns the paths of the modules of p in the kernel's directory.
func (k *Kernel) Files(p Placement) ([]string, error) {
	if err := k.read(); err != nil {
		return nil, err
	}
	var paths []string
	for _, m := range p.Modules {
		for _, path := range k.index[kmod.ModuleName(m.File)] {
			if k.mine(p, m, path) {
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}

// Holds reports whether the file at path is the module of that file name in the
// build of id: a copy of it, a link to it, or what POST_INSTALL made of it.
func (k *Kernel) Holds(id tree.ID, path string) bool {
	return same(path, filepath.Join(k.Tree.ModuleDir(id, k.Target), filepath.Base(path))) || k.changed(id, path)
}

// Detach replaces the modules of p that are links into the tree by copies.
func (k *Kernel) Detach(p Placement) error {
	paths, err := k.Files(p)
	if err != nil {
		return err
	}
	for _, path := range paths {
		if fi, err := os.Lstat(path); err != nil || fi.Mode().IsRegular() {
			continue
		}
		if err := copyTo(path, path); err != nil {
			return err
		}
	}
	return nil
}

// Uninstall puts back what the modules of p displaced, removes the modules of p from
// the kernel's directory and from the archives of packages that displaced them, and
// records that no version of the package is installed. It returns the paths that it put
// back and those that it removed. The caller holds the tree's lock.
func (k *Kernel) Uninstall(p Placement) (restored, removed []string, err error) {
	if err := k.Tidy(); err != nil {
		return nil, nil, err
	}
	if restored, err = k.restore(p); err != nil {
		return restored, nil, fmt.Errorf("cannot put back the module that was there before: %w", err)
	}
	paths, err := k.Files(p)
	if err != nil {
		return restored, nil, err
	}
	for _, path := range paths {
		if slices.Contains(restored, path) {
			continue
		}
		if err := k.remove(path); err != nil {
			return restored, removed, err
		}
		removed = append(removed, path)
	}
	for _, m := range p.Modules {
		if m.Location != "" {
			// A killed run may have removed the file and not the directory.
			files.RemoveEmpty(filepath.Dir(k.Path(m)), k.Dir)
		}
	}
	if err := k.disown(p.Name); err != nil {
		return restored, removed, err
	}
	if err := k.Tree.ClearInstalled(p.Name, k.Target); err != nil {
		return restored, removed, err
	}
	return restored, removed, k.forgetOriginals(p.Name)
}

// read lists the modules and the temporaries in the kernel's directory, unless it
// has done so. The temporaries stay: the caller may not hold the tree's lock.
func (k *Kernel) read() error {
	if k.index != nil {
		return nil
	}
	index := map[string][]string{}
	var temps []string
	err := filepath.WalkDir(k.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !d.Type().IsRegular() && !k.linked(path, d) {
			return nil
		}
		if files.IsTemp(d.Name()) || filepath.Dir(path) == k.Dir && leftByDepmod(d.Name()) {
			temps = append(temps, path)
			return nil
		}
		if _, _, ok := kmod.SplitName(d.Name()); ok {
			name := kmod.ModuleName(d.Name())
			index[name] = append(index[name], path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	k.index, k.temps = index, temps
	return nil
}

// depmodTemp matches the names of what kmod's depmod renames to its indexes: they end in
// the ID of its process and the time, in microseconds and seconds.
var depmodTemp = lazy.Regexp(`^modules\.(?:dep|alias|softdep|weakdep|symbols|devname|builtin|builtin\.alias)(?:\.bin)?\.(\d+)\.\d{1,6}\.\d{10}$`)

// leftByDepmod reports whether name is that of a temporary of a depmod that does not run
// any more. One that this program starts runs while the tree is locked.
func leftByDepmod(name string) bool {
	m := depmodTemp().FindStringSubmatch(name)
	if m == nil {
		return false
	}
	program, _ := os.ReadFile("/proc/" + m[1] + "/comm")
	return !slices.Contains([]string{"depmod", "kmod"}, strings.TrimSpace(string(program)))
}

// linked reports whether the file at path is a link into the tree: [Kernel.Symlink]
// places modules as such. Other links are not this program's.
func (k *Kernel) linked(path string, d fs.DirEntry) bool {
	if d.Type() != fs.ModeSymlink {
		return false
	}
	to, err := os.Readlink(path)
	return err == nil && strings.HasPrefix(to, k.Tree.Dir+"/")
}

// note adds the module at path to the index.
func (k *Kernel) note(path string) {
	name := kmod.ModuleName(path)
	if k.index != nil && !slices.Contains(k.index[name], path) {
		k.index[name] = append(k.index[name], path)
	}
}

// remove removes a module and the directories that it leaves empty.
func (k *Kernel) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name := kmod.ModuleName(path)
	k.index[name] = slices.DeleteFunc(slices.Clone(k.index[name]), func(p string) bool { return p == path })
	files.RemoveEmpty(filepath.Dir(path), k.Dir)
	return nil
}

// same reports whether a is a link to b, or both are regular files with the same
// content. It does not read them if a is newer than the last change of b but has the
// same modification time: then [copyTo] made a from b.
func same(a, b string) bool {
	var fa, fb unix.Stat_t
	if unix.Lstat(a, &fa) != nil {
		return false
	}
	if fa.Mode&unix.S_IFMT == unix.S_IFLNK {
		to, err := os.Readlink(a)
		return err == nil && to == b && unix.Stat(b, &fb) == nil
	}
	if unix.Lstat(b, &fb) != nil || fa.Mode&unix.S_IFMT != unix.S_IFREG || fb.Mode&unix.S_IFMT != unix.S_IFREG || fa.Size != fb.Size {
		return false
	}
	return fa.Mtim == fb.Mtim && before(fb.Ctim, fa.Ctim) || sameContent(a, b, fa.Size)
}

func before(a, b unix.Timespec) bool { return a.Sec < b.Sec || a.Sec == b.Sec && a.Nsec < b.Nsec }

// sameContent reports whether the files a and b, both of that size in bytes, hold
// the same.
func sameContent(a, b string, size int64) bool {
	ra, err := os.Open(a)
	if err != nil {
		return false
	}
	defer ra.Close()
	rb, err := os.Open(b)
	if err != nil {
		return false
	}
	defer rb.Close()
	n := min(size+1, 64<<10)
	ba, bb := make([]byte, n), make([]byte, n)
	for {
		na, errA := io.ReadFull(ra, ba)
		nb, errB := io.ReadFull(rb, bb)
		if na != nb || !bytes.Equal(ba[:na], bb[:nb]) {
			return false
		}
		if errA != nil || errB != nil {
			return errors.Is(errA, io.EOF) && errors.Is(errB, io.EOF) ||
				errors.Is(errA, io.ErrUnexpectedEOF) && errors.Is(errB, io.ErrUnexpectedEOF)
		}
	}
}

// copyTo makes to a durable copy of from, with mode 0644 and from's modification
// time, in one step. It makes the directories above to that are missing.
func copyTo(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	// See same; and a module that was archived gets its time back.
	return files.Write(to, in, 0o644, files.Options{Durable: true, Modified: fi.ModTime()})
}

// Tidy removes the temporaries that a killed run, or a killed depmod, left in the kernel's
// directory, as far as it can. The caller holds the tree's lock.
func (k *Kernel) Tidy() error {
	if err := k.read(); err != nil {
		return err
	}
	for _, path := range k.temps {
		os.Remove(path)
	}
	k.temps = nil
	return nil
}
