// Package tree reads and changes the DKMS tree, /var/lib/dkms: which packages
// are registered, and which of their builds exist and are installed.
//
// The layout is the classic one:
//
//	M/V/source            -> the source; M/V is registered while it resolves
//	M/V/build/               scratch
//	M/V/K/A/module/          a build: the finished modules
//	M/V/K/A/log/make.log     its log
//	M/kernel-K-A          -> V/K/A: installed
//	M/V/tarball/             archives that were made of the package
//	M/original_module/K/A/   what an installed module displaced
//
// Every change is one rename, symlink or removal that is complete or has not
// happened; names that begin with a dot are temporaries of this program.
package tree

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/atomicfile"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/folder"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/version"
)

// Tree is the DKMS tree in one folder.
type Tree struct {
	Dir string
}

// ID names a package.
type ID struct{ Name, Version string }

func (id ID) String() string { return id.Name + "/" + id.Version }

// Target names a kernel by its release and architecture.
type Target struct{ Release, Arch string }

func (t Target) String() string { return t.Release + "/" + t.Arch }

// Package is a snapshot of one M/V.
type Package struct {
	ID
	// Source is the folder that the source link leads to; empty where it
	// leads to no folder, and the package is broken.
	Source string
	// Builds are sorted by kernel release, then architecture.
	Builds []Build
}

// Broken says whether the package's source is gone.
func (p Package) Broken() bool { return p.Source == "" }

// Build returns the package's build for k.
func (p Package) Build(k Target) (Build, bool) {
	for _, b := range p.Builds {
		if b.Target == k {
			return b, true
		}
	}
	return Build{}, false
}

// Build is one K/A folder of a package.
type Build struct {
	Target
	// Installed says that the kernel's link points here.
	Installed bool
	// Originals says that modules which stood in the way are archived.
	Originals bool
	// Modules are the file names of the modules, such as foo.ko.xz, sorted.
	Modules []string
}

// Dir returns the folder of a package.
func (t Tree) PackageDir(id ID) string { return filepath.Join(t.Dir, id.Name, id.Version) }

// SourceDir returns the link to the package's source.
func (t Tree) SourceDir(id ID) string { return filepath.Join(t.PackageDir(id), "source") }

// BuildDir returns the folder in which a package is built.
func (t Tree) BuildDir(id ID) string { return filepath.Join(t.PackageDir(id), "build") }

// StagingDir returns the folder that holds what a build for k is made of until it
// is one. It is a temporary.
func (t Tree) StagingDir(id ID, k Target) string {
	return filepath.Join(t.PackageDir(id), TempName("build-"+k.Release+"-"+k.Arch))
}

// TargetDir returns the folder of a package's build for k.
func (t Tree) TargetDir(id ID, k Target) string {
	return filepath.Join(t.PackageDir(id), k.Release, k.Arch)
}

// TarballDir returns the folder of archives that were made of a package.
func (t Tree) TarballDir(id ID) string { return filepath.Join(t.PackageDir(id), tarballs) }

// ModuleDir returns the folder of the finished modules of a build.
func (t Tree) ModuleDir(id ID, k Target) string {
	return filepath.Join(t.TargetDir(id, k), "module")
}

// OriginalDir returns the folder that keeps the modules which a module of the
// package called name displaced.
func (t Tree) OriginalDir(name string, k Target) string {
	return filepath.Join(t.Dir, name, originals, k.Release, k.Arch)
}

func (t Tree) installedLink(name string, k Target) string {
	return filepath.Join(t.Dir, name, "kernel-"+k.Release+"-"+k.Arch)
}

// Read returns a snapshot of every package in the tree, sorted by name and
// version. A tree that does not exist is empty. What does not look like a part
// of the tree is passed over. Where kernels are given, so are builds for others.
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
		r.links[filepath.Base(t.installedLink("", k))] = true
	}
	found := make([][]Package, len(names))
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, n := range names {
		if n.IsDir() && !strings.HasPrefix(n.Name(), ".") {
			group.Go(func() (err error) {
				found[i], err = r.readName(n.Name())
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(found...), nil
}

// reader is one reading of a tree.
type reader struct {
	Tree
	kernels []Target        // sorted; empty for all
	links   map[string]bool // names of their links; empty for all
	folders sync.Map        // what [filepath.EvalSymlinks] says of those that hold sources
}

// readName reads all versions of one package.
func (r *reader) readName(name string) ([]Package, error) {
	top, err := folder.Open(unix.AT_FDCWD, filepath.Join(r.Dir, name))
	if err != nil {
		return nil, err
	}
	defer unix.Close(top)
	entries, err := folder.List(top)
	if err != nil {
		return nil, err
	}
	installed := map[string]bool{} // V/K/A that a kernel's link names
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
		if e.Kind != unix.DT_DIR || strings.HasPrefix(e.Name, ".") || e.Name == originals {
			continue
		}
		p := Package{ID: id, Source: r.source(r.SourceDir(id))}
		if p.Builds, err = r.builds(top, id); err != nil {
			return nil, err
		}
		for i := range p.Builds {
			b := &p.Builds[i]
			b.Installed = installed[id.Version+"/"+b.Release+"/"+b.Arch]
			if displaced {
				_, err := os.Stat(r.OriginalDir(name, b.Target))
				b.Originals = err == nil
			}
		}
		packages = append(packages, p)
	}
	slices.SortFunc(packages, func(a, b Package) int {
		return cmp.Or(version.Compare(a.Version, b.Version), strings.Compare(a.Version, b.Version))
	})
	return packages, nil
}

// builds returns what there is in the folder of id, which is below top: kernels,
// and the modules that are built for them.
func (r *reader) builds(top int, id ID) (builds []Build, err error) {
	dir, err := folder.Open(top, id.Version)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	add := func(k Target) bool {
		entries, err := folder.ListAt(dir, k.Release+"/"+k.Arch+"/module")
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
	releases, err := folder.List(dir)
	if err != nil {
		return nil, err
	}
	arch := ""
	for _, e := range releases {
		if e.Kind != unix.DT_DIR || !isRelease(e.Name) {
			continue
		}
		// Most have builds for one architecture. A folder with three links has
		// one folder in it; where a file system does not count so, we look.
		if arch != "" && isDir(e.Name) && st.Nlink == 3 && add(Target{e.Name, arch}) {
			continue
		}
		arches, err := folder.ListAt(dir, e.Name)
		if err != nil {
			return nil, err
		}
		for _, a := range arches {
			if add(Target{e.Name, a.Name}) {
				arch = a.Name
			}
		}
	}
	return builds, nil
}

// isRelease says whether a folder of that name in the one of a package may be a
// kernel's.
func isRelease(name string) bool {
	return !slices.Contains(reserved, name) && !strings.HasPrefix(name, ".")
}

// source returns the folder that a link leads to; "" where it leads to none. It is
// [filepath.EvalSymlinks], which looks at each folder on the way, but looks at
// those that many sources share only once.
func (r *reader) source(link string) string {
	to, err := os.Readlink(link)
	if err == nil && filepath.IsAbs(to) && to == filepath.Clean(to) {
		dir := filepath.Dir(to)
		real, ok := r.folders.Load(dir)
		if !ok {
			path, _ := filepath.EvalSymlinks(dir) // "" where there is none
			real, _ = r.folders.LoadOrStore(dir, path)
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

// relative returns where the link of a kernel leads, as V/K/A.
func (t Tree) relative(name, to string) string {
	if filepath.IsAbs(to) {
		if rel, err := filepath.Rel(filepath.Join(t.Dir, name), to); err == nil {
			return rel
		}
	}
	return filepath.Clean(to)
}

// modules returns the module files among what is in a folder.
func modules(entries []folder.Entry) (modules []string) {
	for _, e := range entries {
		if _, _, ok := kmod.SplitName(e.Name); ok && e.Kind == unix.DT_REG {
			modules = append(modules, e.Name)
		}
	}
	return modules
}

// Modules returns the file names of the modules in the build of id for k.
func (t Tree) Modules(id ID, k Target) ([]string, error) {
	entries, err := folder.ListAt(unix.AT_FDCWD, t.ModuleDir(id, k))
	if err != nil {
		return nil, fmt.Errorf("%s: the build is gone", t.ModuleDir(id, k))
	}
	return modules(entries), nil
}

// InstalledVersion returns the version of the package called name that is
// installed for k; "" where none is.
func (t Tree) InstalledVersion(name string, k Target) string {
	to, err := os.Readlink(t.installedLink(name, k))
	if err != nil {
		return ""
	}
	version, _, _ := strings.Cut(t.relative(name, to), "/")
	return version
}

// Links returns the kernels for which some version of the package counts as
// installed, whether or not the build is still there.
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
		// The link's own name does not tell where the release ends.
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

// CheckID says whether id can be the name of a package in the tree.
func CheckID(id ID) error {
	for _, s := range []string{id.Name, id.Version} {
		if err := conf.CheckName(s); err != nil {
			return err
		}
	}
	if id.Version == originals {
		return fmt.Errorf("%q is the name of the archive in the tree", id.Version)
	}
	return nil
}

// CheckTarget says whether k can be the name of a kernel in the tree.
func CheckTarget(k Target) error {
	for _, s := range []string{k.Release, k.Arch} {
		if err := conf.CheckName(s); err != nil {
			return err
		}
	}
	if slices.Contains(reserved, k.Release) {
		return fmt.Errorf("%q is no kernel release, but the name of a folder in the tree", k.Release)
	}
	return nil
}

// tarballs is the folder, beside the builds of a package, of archives of it.
const tarballs = "tarball"

// reserved are names in the folder of a package that are no kernel's.
var reserved = []string{"source", "build", tarballs}

// originals is the folder, beside the versions of a package, that keeps modules
// which the package's displaced.
const originals = "original_module"

// Register makes id known, with its source in folder source.
func (t Tree) Register(id ID, source string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := os.MkdirAll(t.PackageDir(id), 0o755); err != nil {
		return err
	}
	return ReplaceLink(source, t.SourceDir(id))
}

// SetInstalled records that the build of id for k is the installed one, in
// place of any other version.
func (t Tree) SetInstalled(id ID, k Target) error {
	return ReplaceLink(filepath.Join(id.Version, k.Release, k.Arch), t.installedLink(id.Name, k))
}

// ClearInstalled records that no version of the package is installed for k.
func (t Tree) ClearInstalled(name string, k Target) error {
	return removeIfThere(t.installedLink(name, k))
}

// RemoveBuild removes the build of id for k.
func (t Tree) RemoveBuild(id ID, k Target) error {
	dir := t.TargetDir(id, k)
	// The rename is the moment at which the build is gone: a removal that is
	// cut short never leaves half a build that counts as one.
	gone := filepath.Join(filepath.Dir(dir), TempName("removed-"+k.Arch))
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	RemoveEmpty(filepath.Dir(dir), t.PackageDir(id))
	return nil
}

// Unregister forgets a package that has no builds left, and removes its archives:
// a folder that only has those would be one of a broken package.
func (t Tree) Unregister(id ID) error {
	if err := os.RemoveAll(t.TarballDir(id)); err != nil {
		return err
	}
	// The link goes last: without it, nobody can tell whose the folder is.
	if err := os.RemoveAll(t.BuildDir(id)); err != nil {
		return err
	}
	if err := removeIfThere(t.SourceDir(id)); err != nil {
		return err
	}
	RemoveEmpty(t.PackageDir(id), t.Dir)
	return nil
}

// Heal removes what a killed run left of id: temporaries, a build that was half
// removed, and a scratch folder that explains no failure for any kernel.
func (t Tree) Heal(id ID) error {
	dir := t.PackageDir(id)
	// What has no such link may be anybody's: the tree may be a folder that was
	// named by mistake.
	fi, err := os.Lstat(t.SourceDir(id))
	ours := err == nil && fi.Mode()&fs.ModeSymlink != 0
	if _, err := removeTemps(filepath.Dir(dir)); err != nil {
		return err
	}
	archives, _ := filepath.Glob(filepath.Join(t.Dir, id.Name, originals, "*"))
	for _, archive := range append(archives, filepath.Join(t.Dir, id.Name, originals)) {
		RemoveEmpty(archive, filepath.Join(t.Dir, id.Name))
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
				RemoveEmpty(arch, dir)
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
			RemoveEmpty(release, dir)
		}
	}
	if !ours {
		return nil
	}
	if !t.ExplainsFailure(id) {
		return os.RemoveAll(t.BuildDir(id))
	}
	return nil
}

// HealGone removes what a killed run left of id, which is no package of the tree
// any more.
func (t Tree) HealGone(id ID) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := t.Heal(id); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	os.Remove(t.PackageDir(id)) // where it is empty
	RemoveEmpty(filepath.Dir(t.PackageDir(id)), t.Dir)
	return nil
}

// HealTop removes what a killed run left beside the folders of packages.
func (t Tree) HealTop() error {
	_, err := removeTemps(t.Dir)
	return err
}

// removeTemps removes the temporaries in dir and returns what else is there.
func removeTemps(dir string) (left []fs.DirEntry, err error) {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if !IsTemp(e.Name()) {
			left = append(left, e)
		} else if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, err
		}
	}
	return left, err
}

// ExplainsFailure says whether the scratch folder of id holds the log of a build
// that failed and has not succeeded since. The log's first line ends in
// "for kernel K (A)".
func (t Tree) ExplainsFailure(id ID) bool {
	// A FIFO, which the package may have left there, would keep us waiting.
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

// TempName returns the name of the temporary that becomes name by rename.
func TempName(name string) string { return atomicfile.TempName(name) }

// IsTemp says whether name is one that [TempName] made.
func IsTemp(name string) bool { return atomicfile.IsTemp(name) }

// ReplaceLink makes link a symbolic link to target, in one step.
func ReplaceLink(target, link string) error {
	dir, name := filepath.Split(link)
	tmp := filepath.Join(dir, TempName(name))
	if err := removeIfThere(tmp); err != nil {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, link); err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncDir(dir)
}

// ReplaceDir makes the folder tmp the one called dir, in one step where the file
// system can, and removes what was there.
func ReplaceDir(tmp, dir string) error {
	err := os.Rename(tmp, dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTDIR) {
		// The old one takes the temporary's name.
		switch err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err {
		case nil:
			err = os.RemoveAll(tmp)
		case unix.EINVAL, unix.ENOSYS:
			// A file system that cannot. After any other error the old one stays.
			if err = os.RemoveAll(dir); err == nil {
				err = os.Rename(tmp, dir)
			}
		}
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// RemoveEmpty removes dir and then its parents while they are empty, up to but
// not including top.
func RemoveEmpty(dir, top string) {
	for strings.HasPrefix(dir, top+"/") && unix.Rmdir(dir) == nil {
		dir = filepath.Dir(dir)
	}
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}

func removeIfThere(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
