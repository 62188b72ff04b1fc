// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/version"
)

// Read returns a snapshot of every package in the tree, sorted by name and
// version. A tree that does not exist is empty. What does not look like a part
// of the tree is passed over. If kernels are given, only builds for them are read.
func (t Tree) Read(kernels ...Target) ([]Package, error) {
	names, err := os.ReadDir(t.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := reader{Tree: t, kernels: slices.Clone(kernels), links: map[string]bool{}}
	slices.SortFunc(r.kernels, func(a, b Target) int {
		return cmp.Or(strings.Compare(a.Release, b.Release), strings.Compare(a.Arch, b.Arch))
	})
	r.kernels = slices.Compact(r.kernels)
	for _, k := range r.kernels {
		r.links[filepath.Base(t.InstalledLink("", k))] = true
	}
	found := make([][]Package, len(names))
	errs := make([]error, len(names))
	files.Each(len(names), func(i int) {
		if n := names[i]; n.IsDir() && !strings.HasPrefix(n.Name(), ".") {
			found[i], errs[i] = r.readName(n.Name())
		}
	})
	return slices.Concat(found...), errors.Join(errs...)
}

// reader is the state of one [Tree.Read].
type reader struct {
	Tree
	kernels     []Target        // sorted; empty for all
	links       map[string]bool // the names of the kernels' links; empty for all
	directories sync.Map        // from a directory that holds sources to its resolved path, "" if there is none
}

// readName reads all versions of one package.
func (r *reader) readName(name string) ([]Package, error) {
	top, err := files.Open(unix.AT_FDCWD, filepath.Join(r.Dir, name))
	if err != nil {
		return nil, err
	}
	defer unix.Close(top)
	entries, err := files.List(top)
	if err != nil {
		return nil, err
	}
	installed := map[string]bool{} // V/K/A that a kernel's link leads to
	displaced := false
	for _, e := range entries {
		displaced = displaced || e.Name == originals
		if e.Kind == unix.DT_LNK && strings.HasPrefix(e.Name, "kernel-") && (len(r.links) == 0 || r.links[e.Name]) {
			var to [unix.PathMax]byte
			if n, err := unix.Readlinkat(top, e.Name, to[:]); err == nil {
				installed[r.relative(name, string(to[:n]))] = true
			}
		}
	}
	var packages []Package
	for _, e := range entries {
		id := ID{name, e.Name}
		kept := strings.HasPrefix(e.Name, keptPrefix)
		if e.Kind != unix.DT_DIR || strings.HasPrefix(e.Name, ".") && !kept || e.Name == originals {
			continue
		}
		p := Package{ID: id, Kept: kept, Originals: displaced}
		if !kept {
			p.Source = r.source(r.SourceDir(id))
		}
		if p.Builds, err = r.builds(top, id); err != nil {
			return nil, err
		}
		for i := range p.Builds {
			b := &p.Builds[i]
			b.Installed = installed[id.Version+"/"+b.Release+"/"+b.Arch] || kept && r.moved(id, b.Target)
			if displaced {
				_, err := os.Stat(r.OriginalDir(name, b.Target))
				b.Originals = err == nil
			}
		}
		if p.Broken() && len(p.Builds) == 0 && (kept || !r.ours(id)) {
			continue
		}
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b Package) int {
		return cmp.Or(version.Compare(a.Version, b.Version), strings.Compare(a.Version, b.Version))
	})
	return packages, nil
}

// moved reports whether the kernel's link leads to where a build of id was before
// [Tree.Keep], which was killed, moved it.
func (t Tree) moved(id ID, k Target) bool {
	was := id.Unkept()
	if t.InstalledVersion(id.Name, k) != was.Version {
		return false
	}
	_, err := os.Lstat(t.TargetDir(was, k))
	return errors.Is(err, fs.ErrNotExist)
}

// ours reports whether a directory M/V that has neither a source nor builds is a
// broken package; see [Tree.Sources].
func (r *reader) ours(id ID) bool {
	if _, err := os.Lstat(r.SourceDir(id)); err == nil {
		return true
	}
	return r.hasSource(id)
}

// hasSource reports whether there is a source of id in [Tree.Sources].
func (t Tree) hasSource(id ID) bool {
	if t.Sources == "" {
		return false
	}
	_, err := os.Stat(filepath.Join(t.Sources, id.Name+"-"+id.Version))
	return err == nil
}

// builds returns the builds in the directory of id. The open directory top is the
// one above it.
func (r *reader) builds(top int, id ID) (builds []Build, err error) {
	dir, err := files.Open(top, id.Version)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	add := func(k Target) bool {
		entries, err := files.ListAt(dir, k.Release+"/"+k.Arch+"/module")
		if err == nil {
			builds = append(builds, Build{Target: k, Modules: modules(entries)})
		}
		return err == nil
	}
	var st unix.Stat_t
	isDir := func(name string) bool {
		return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
	}
	for _, k := range r.kernels {
		if isRelease(k.Release) && isDir(k.Release) {
			add(k)
		}
	}
	if len(r.kernels) > 0 {
		return builds, nil
	}
	releases, err := files.List(dir)
	if err != nil {
		return nil, err
	}
	arch := ""
	for _, e := range releases {
		if e.Kind != unix.DT_DIR || !isRelease(e.Name) {
			continue
		}
		// Most kernels are of one architecture. A directory with three links holds
		// one directory; file systems that do not count so report other numbers.
		if arch != "" && isDir(e.Name) && st.Nlink == 3 && add(Target{e.Name, arch}) {
			continue
		}
		arches, err := files.ListAt(dir, e.Name)
		if err != nil {
			return nil, err
		}
		for _, a := range arches {
			if !strings.HasPrefix(a.Name, ".") && add(Target{e.Name, a.Name}) {
				arch = a.Name
			}
		}
	}
	return builds, nil
}

// isRelease reports whether name, in a package's directory, may be a kernel's
// release.
func isRelease(name string) bool {
	return !slices.Contains(reserved, name) && !strings.HasPrefix(name, ".")
}

// source returns the directory that a link leads to, resolved; "" if it leads to
// none. Unlike [filepath.EvalSymlinks] alone, which looks at each directory on the
// way, it resolves a directory that several sources share only once.
func (r *reader) source(link string) string {
	to, err := os.Readlink(link)
	if err == nil && filepath.IsAbs(to) && to == filepath.Clean(to) {
		dir := filepath.Dir(to)
		real, ok := r.directories.Load(dir)
		if !ok {
			path, _ := filepath.EvalSymlinks(dir) // "" if there is none
			real, _ = r.directories.LoadOrStore(dir, path)
		}
		if real == "" {
			return ""
		}
		path := filepath.Join(real.(string), filepath.Base(to))
		if fi, err := os.Lstat(path); err != nil {
			return ""
		} else if fi.IsDir() {
			return path
		}
	}
	path, err := filepath.EvalSymlinks(link)
	if err != nil {
		return ""
	}
	if fi, err := os.Stat(path); err != nil || !fi.IsDir() {
		return ""
	}
	return path
}

// relative returns the target, to, of a kernel's link as V/K/A.
func (t Tree) relative(name, to string) string {
	if filepath.IsAbs(to) {
		if rel, err := filepath.Rel(filepath.Join(t.Dir, name), to); err == nil {
			return rel
		}
	}
	return filepath.Clean(to)
}

// modules returns the names of the module files among entries.
func modules(entries []files.Entry) (modules []string) {
	for _, e := range entries {
		if _, _, ok := kmod.SplitName(e.Name); ok && e.Kind == unix.DT_REG {
			modules = append(modules, e.Name)
		}
	}
	return modules
}

// Modules returns the file names of the modules in the build of id for k.
func (t Tree) Modules(id ID, k Target) ([]string, error) {
	entries, err := files.ListAt(unix.AT_FDCWD, t.ModuleDir(id, k))
	if err != nil {
		return nil, fmt.Errorf("%s: the build is gone", t.ModuleDir(id, k))
	}
	return modules(entries), nil
}

// InstalledVersion returns the version of the package called name that is
// installed for k; "" if none is.
func (t Tree) InstalledVersion(name string, k Target) string {
	to, err := os.Readlink(t.InstalledLink(name, k))
	if err != nil {
		return ""
	}
	version, _, _ := strings.Cut(t.relative(name, to), "/")
	return version
}

// Links returns the kernels for which some version of the package called name
// counts as installed, even if the build is gone.
func (t Tree) Links(name string) []Target {
	var targets []Target
	entries, _ := os.ReadDir(filepath.Join(t.Dir, name))
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "kernel-") || e.Type() != fs.ModeSymlink {
			continue
		}
		to, err := os.Readlink(filepath.Join(t.Dir, name, e.Name()))
		if err != nil {
			continue
		}
		// The link's own name does not show where the release ends.
		if parts := strings.Split(t.relative(name, to), "/"); len(parts) == 3 {
			targets = append(targets, Target{parts[1], parts[2]})
		}
	}
	return targets
}

// BuiltAgainst returns the versions of the packages that the build of id for k
// was made against, by package name, as far as they were recorded.
func (t Tree) BuiltAgainst(id ID, k Target) map[string]string {
	versions := map[string]string{}
	entries, _ := os.ReadDir(t.TargetDir(id, k))
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Name(), ".dep_"); ok && e.Type().IsRegular() {
			if b, err := os.ReadFile(filepath.Join(t.TargetDir(id, k), e.Name())); err == nil {
				versions[name] = strings.TrimSpace(string(b))
			}
		}
	}
	return versions
}
