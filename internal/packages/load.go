// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/archive"
	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// LoadOptions say how an archive is loaded.
type LoadOptions struct {
	// Force replaces the source and builds that are there already.
	Force bool
	Conf  string // replaces the package's dkms.conf, if not empty
	// Want is the package that the archive must be of, as far as it is given.
	Want tree.ID
}

// Loaded is what became of an archive.
type Loaded struct {
	tree.ID
	Added  bool // the package was not registered before
	Source bool // its source was put into the source tree
	Builds []tree.Target
}

// Nothing reports whether all of the archive was there already.
func (l Loaded) Nothing() bool { return !l.Added && !l.Source && len(l.Builds) == 0 }

// LoadArchive puts what an archive holds into the trees: the source, and builds,
// which then are built and not installed. It registers the package. What is there
// already stays, and is reported. The conf is checked as it reads for kernel k.
// Until all of the archive is found to be good, nothing changes. The caller holds
// the lock of the tree.
func LoadArchive(ctx context.Context, m *machine.Machine, file string, k tree.Target, o LoadOptions) (Loaded, error) {
	a := loading{m: m, options: o, k: k, dir: unpacked(m)}
	defer os.RemoveAll(a.dir)
	l, err := a.load(ctx, file)
	if err == nil {
		return l, nil
	}
	f := *failure.From(err, "", failure.StatusNoPerm)
	f.What = "cannot load " + file
	f.Why = strings.ReplaceAll(f.Why, a.dir+"/", "")
	return l, &f
}

// loading is an archive that is being loaded.
type loading struct {
	m       *machine.Machine
	options LoadOptions
	k       tree.Target
	dir     string // what the archive is unpacked to
	content archive.Contents
	builds  []archivedBuild
	bare    bool   // its dkms.conf names no module
	scripts string // that its dkms.conf has root run
	source  string // where its source goes
}

// unpacked returns the directory that archives are unpacked to. It is in the tree, so
// that builds get to their places by a rename.
func unpacked(m *machine.Machine) string { return filepath.Join(m.Tree.Dir, files.TempName("archive")) }

func (a *loading) load(ctx context.Context, file string) (l Loaded, err error) {
	if a.content, err = unpack(ctx, file, a.dir); err != nil {
		return l, err
	}
	if a.builds, err = checkBuilds(ctx, a.m, a.dir, a.content.Binaries); err != nil {
		return l, err
	}
	if l.ID, err = a.archived(); err != nil {
		return l, err
	}
	for _, b := range a.builds {
		if len(b.modules) == 0 && !a.bare {
			return l, badBuild(b.dir+"/module: there is no module in it", failure.StatusNoModule)
		}
	}
	if w := a.options.Want; w.Name != "" && w.Name != l.Name || w.Version != "" && w.Version != l.Version {
		return l, &failure.Failure{Why: "it is of " + l.ID.String(), Hint: "leave out -m and -v", Status: failure.StatusNotFound}
	}
	a.source = sourceDir(a.m, l.ID)
	if err := a.decide(&l); err != nil {
		return l, err
	}
	return l, a.commit(ctx, l)
}

// decide finds out what of the archive goes into the trees, and reports what is there
// and stays.
func (a *loading) decide(l *Loaded) error {
	packages, err := a.m.Tree.Read()
	if err != nil {
		return failure.From(err, "", failure.StatusNoPerm)
	}
	stays := a.source
	l.Added = true
	for _, p := range packages {
		if p.ID != l.ID {
			continue
		}
		if err := a.m.Tree.Heal(l.ID); err != nil {
			return failure.From(err, "", failure.StatusNoPerm)
		}
		if l.Added = p.Broken(); !l.Added {
			stays = p.Source
		}
	}
	switch there := files.Exists(a.source); {
	case a.content.Source == "" && l.Added && !there:
		return &failure.Failure{Why: "it has builds alone, and " + a.source + " does not exist", Status: failure.StatusNotFound,
			Hint: "first install the source, or load an archive that has it; nothing was loaded"}
	case a.content.Source == "":
	case a.options.Force, l.Added && !there:
		l.Source = true
	default:
		a.m.Note(fmt.Sprintf("%s exists and stays; --force replaces it", stays))
	}
	for _, b := range a.builds {
		if at := a.m.Tree.TargetDir(l.ID, b.kernel); files.Exists(at) && !a.options.Force {
			a.m.Note(fmt.Sprintf("%s exists and stays; --force replaces it", at))
		} else {
			l.Builds = append(l.Builds, b.kernel)
		}
	}
	return nil
}

// unpack unpacks an archive to the directory dir, which it makes.
func unpack(ctx context.Context, file, dir string) (c archive.Contents, err error) {
	// O_NONBLOCK, since opening a FIFO would wait for a writer.
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return c, &failure.Failure{Why: "there is no such file", Hint: "check its path", Status: failure.StatusNotFound, Err: err}
		}
		return c, failure.From(errors.Unwrap(err), "", failure.StatusNoPerm)
	}
	defer f.Close()
	bad := func(why, hint string) error {
		return &failure.Failure{Why: why, Hint: hint, Status: failure.StatusNoPerm}
	}
	fi, err := f.Stat()
	if err != nil {
		return c, err
	}
	if !fi.Mode().IsRegular() {
		return c, bad("it is not a file", "name an archive, as dkms mktarball makes them")
	}
	if err := os.RemoveAll(dir); err != nil {
		return c, err
	}
	// Its dkms.conf is read by another user.
	if err := os.Mkdir(dir, 0o711); err != nil {
		return c, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return c, err
	}
	defer root.Close()
	c, err = archive.Extract(ctx, f, fi.Size(), root)
	var onDisk *fs.PathError
	if err != nil && context.Cause(ctx) == nil && !errors.As(err, &onDisk) {
		return c, bad(err.Error(), "nothing was loaded: get the archive again, from somebody you trust")
	}
	return c, err
}

// archivedBuild is a build in an archive.
type archivedBuild struct {
	kernel tree.Target
	dir    string // where it was unpacked
	// modules has what each module says of itself, by its name as the kernel has it.
	modules map[string]kmod.Info
}

// checkBuilds checks the unpacked builds as builds that are made here are checked. Builds
// without a directory of modules are skipped: the classic command archives them for
// builds that failed.
func checkBuilds(ctx context.Context, m *machine.Machine, dir string, list []archive.Binaries) (good []archivedBuild, err error) {
	left := int64(archive.MaxBytes) // modules are compressed once more
	for _, b := range list {
		k := tree.Target{Release: b.Release, Arch: b.Arch}
		if err := tree.CheckTarget(k); err != nil {
			return nil, badBuild(fmt.Sprintf("%q names a kernel: %v", b.Dir, err), failure.StatusNoPerm)
		}
		entries, err := os.ReadDir(filepath.Join(dir, b.Dir, "module"))
		if errors.Is(err, fs.ErrNotExist) {
			m.Note("the archive has no modules for " + k.String())
			continue
		}
		if err != nil {
			return nil, badBuild(fmt.Sprintf("%s/module: it is not a directory", b.Dir), failure.StatusNoModule)
		}
		modules := map[string]kmod.Info{}
		for _, entry := range entries {
			name, _, ok := kmod.SplitName(entry.Name())
			if !ok {
				continue
			}
			file := filepath.Join(b.Dir, "module", entry.Name())
			if err := conf.CheckName(name); err != nil {
				return nil, badBuild(fmt.Sprintf("%q: %v", file, err), failure.StatusNoModule)
			}
			name = kmod.Normal(name)
			if _, ok := modules[name]; ok {
				return nil, badBuild(file+": the module is there twice", failure.StatusNoModule)
			}
			if modules[name], err = checkModule(ctx, filepath.Join(dir, file), k, &left); err != nil {
				return nil, badBuild(file+": "+err.Error(), failure.StatusNoModule)
			}
		}
		good = append(good, archivedBuild{k, filepath.Join(dir, b.Dir), modules})
	}
	return good, nil
}

// checkModule checks a module for k, and takes its size from left.
func checkModule(ctx context.Context, file string, k tree.Target, left *int64) (kmod.Info, error) {
	module, err := kmod.ReadFile(file)
	if err != nil {
		return kmod.Info{}, err
	}
	info, err := kmod.Check(bytes.NewReader(module), int64(len(module)), k.Arch, k.Release)
	if err != nil {
		return info, err
	}
	if *left -= int64(len(module)); *left < 0 {
		return info, fmt.Errorf("the modules are more than %d bytes", int64(archive.MaxBytes))
	}
	return info, context.Cause(ctx)
}

func badBuild(why string, status int) error {
	return &failure.Failure{Why: why, Status: status, Hint: "nothing was loaded: get the archive again, or make it again with dkms mktarball"}
}

// archived returns the name of the package in the unpacked archive, finds out whether it
// is to have modules, and checks that those which the conf names are these.
func (a *loading) archived() (id tree.ID, err error) {
	c := a.content
	source := c.Source
	if source == "" {
		id = tree.ID{Name: c.Name, Version: c.Version}
		if err := tree.CheckID(id); err != nil {
			return id, &failure.Failure{Why: "its package's name: " + err.Error(), Status: failure.StatusBadConf,
				Hint: "nothing was loaded: get the archive again"}
		}
		if c.Conf == "" {
			return id, nil
		}
		source = filepath.Dir(c.Conf)
	}
	read, err := readNew(a.m, filepath.Join(a.dir, source), a.options.Conf, tree.ID{}, a.k, failure.StatusNoConf)
	if err != nil {
		return id, err
	}
	a.bare = len(read.Modules) == 0 && read.Excluded == ""
	for _, b := range a.builds {
		for _, m := range read.Modules {
			if err := b.modules[kmod.Normal(m.DestName)].CheckName(m.BuiltName, m.DestName); err != nil {
				return id, badBuild(fmt.Sprintf("%s.ko for %s: %v", m.DestName, b.kernel, err), failure.StatusNoModule)
			}
		}
	}
	a.scripts = rootScripts(read)
	called := tree.ID{Name: read.Name, Version: read.Version}
	if c.Source == "" && called != id {
		return id, &failure.Failure{Why: fmt.Sprintf("it says that it is of %s, and its dkms.conf says %s", id, called),
			Hint: "nothing was loaded: make the archive again with dkms mktarball", Status: failure.StatusBadConf}
	}
	if err := tree.CheckID(called); err != nil {
		return id, &failure.Failure{Why: "its package's name: " + err.Error(), Status: failure.StatusBadConf,
			Hint: "correct PACKAGE_NAME and PACKAGE_VERSION in its dkms.conf"}
	}
	return called, nil
}

// commit puts into the trees what l says. What needs room comes first. Then each step
// leaves the package in one of its states: the source, which means nothing by itself,
// comes before the registration, and that before the builds.
func (a *loading) commit(ctx context.Context, l Loaded) error {
	m := a.m
	if err := cmp.Or(context.Cause(ctx), syncFileSystem(a.dir)); err != nil {
		return err
	}
	replaces := files.Exists(a.source)
	if l.Source {
		err := os.MkdirAll(m.Settings.SourceTree, 0o755)
		if err == nil {
			err = placeSource(ctx, m, filepath.Join(a.dir, a.content.Source), a.source)
		}
		if err != nil {
			return failure.From(err, "", failure.StatusNotFound)
		}
		if a.scripts != "" {
			m.Note(fmt.Sprintf("%s brings scripts that root runs without a sandbox: %s", l.ID, a.scripts))
		}
	}
	if l.Added {
		if err := Register(ctx, m, l.ID, a.k, a.options.Conf); err != nil {
			if l.Source && !replaces {
				os.RemoveAll(a.source)
			}
			return err
		}
	} else if l.Source {
		if err := m.Tree.Register(l.ID, a.source); err != nil {
			return failure.From(err, "", failure.StatusNoPerm)
		}
	}
	for _, b := range a.builds {
		if !slices.Contains(l.Builds, b.kernel) {
			continue
		}
		to := m.Tree.TargetDir(l.ID, b.kernel)
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = files.ReplaceDir(b.dir, to)
		}
		if err != nil {
			files.RemoveEmpty(filepath.Dir(to), m.Tree.PackageDir(l.ID))
			return failure.From(err, "", failure.StatusNoPerm)
		}
	}
	return nil
}

// rootScripts names the scripts of c that change the system, with their directives.
func rootScripts(c conf.Conf) string {
	var list []string
	for _, s := range []struct{ directive, value string }{
		{"POST_ADD", c.PostAdd}, {"PRE_INSTALL", c.PreInstall}, {"POST_INSTALL", c.PostInstall}, {"POST_REMOVE", c.PostRemove},
	} {
		if s.value != "" {
			list = append(list, fmt.Sprintf("%s=%q", s.directive, s.value))
		}
	}
	return strings.Join(list, ", ")
}

// placeSource puts a copy of the directory from into the source tree, in place of what
// is there. It does so in one step: half a source must not pass for one.
func placeSource(ctx context.Context, m *machine.Machine, from, to string) error {
	tmp := filepath.Join(m.Settings.SourceTree, files.TempName(filepath.Base(to)))
	err := build.Stage(ctx, from, tmp, nil)
	if err == nil {
		err = syncFileSystem(tmp)
	}
	if err == nil {
		err = files.ReplaceDir(tmp, to)
	}
	if err != nil {
		os.RemoveAll(tmp)
	}
	return err
}

// syncFileSystem makes durable everything on the file system of dir. For many small
// files that is faster than to sync each.
func syncFileSystem(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}
