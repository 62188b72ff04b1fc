package engine

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
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// ArchiveOptions say what archive is made of a package.
type ArchiveOptions struct {
	// File is where the archive goes, compressed as its name says. A name
	// without a folder is one in the package's folder of archives; an empty
	// one is made of the names of the package and of the kernels.
	File                     string
	SourceOnly, BinariesOnly bool // not both
}

// InTree says whether the archive goes into the tree.
func (o ArchiveOptions) InTree() bool { return !strings.Contains(o.File, "/") }

// maxKernelList is the length in bytes from which on the kernels of an archive
// are not named in its name: a name may have 255.
const maxKernelList = 200

// MakeArchive makes an archive of a package with its builds for kernels, with
// all that it has where kernels is nil, and returns the archive's path. A file
// of that name is replaced. The conf is checked as it reads for kernel k. The
// caller holds the lock.
func (e *Engine) MakeArchive(ctx context.Context, id tree.ID, kernels []tree.Target, k tree.Target, o ArchiveOptions) (file string, err error) {
	what := "cannot make an archive of " + id.String()
	fail := func(status int, why, hint string) (string, error) {
		return "", &failure.Failure{What: what, Why: why, Hint: hint, Status: status}
	}
	if err := e.Registered(id); err != nil {
		return "", err
	}
	packages, err := e.Tree.Read()
	if err != nil {
		return "", failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	p := packages[slices.IndexFunc(packages, func(p tree.Package) bool { return p.ID == id })]
	if p.Broken() {
		return fail(failure.StatusNoConf, "it is broken: its source is gone", "put the source back in "+filepath.Join(e.Settings.SourceTree, id.Name+"-"+id.Version))
	}
	c, err := e.Conf(id, k)
	if err != nil {
		status := failure.StatusBadConf
		if errors.Is(err, fs.ErrNotExist) {
			status = failure.StatusNoConf
		}
		return fail(status, err.Error(), "correct its dkms.conf")
	}
	if called := (tree.ID{Name: c.Name, Version: c.Version}); called != id {
		if o.BinariesOnly {
			return fail(failure.StatusBadConf, fmt.Sprintf("its dkms.conf calls it %s: the archive could not be loaded again", called), "correct PACKAGE_NAME and PACKAGE_VERSION in it")
		}
		e.Events.Note(fmt.Sprintf("%s: its dkms.conf calls it %s, and so will who loads the archive", id, called))
	}

	content := archive.Package{Name: id.Name, Version: id.Version, Source: p.Source, SourceFiles: !o.BinariesOnly}
	list := "source-only"
	if !o.SourceOnly {
		if kernels == nil {
			for _, b := range p.Builds {
				kernels = append(kernels, b.Target)
			}
		}
		if len(kernels) == 0 {
			return fail(failure.StatusInstall, "there is no build of it", "run: dkms build "+id.String()+", or use --source-only")
		}
		var names []string
		for _, k := range kernels {
			if _, ok := p.Build(k); !ok {
				return fail(failure.StatusInstall, "it is not built for "+k.String(), fmt.Sprintf("run: dkms build %s -k %s, or use --source-only", id, k))
			}
			names = append(names, "kernel"+k.Release+"-"+k.Arch)
			content.Builds = append(content.Builds, archive.Build{Release: k.Release, Arch: k.Arch, Dir: e.Tree.TargetDir(id, k)})
		}
		if list = strings.Join(names, "-"); len(list) >= maxKernelList {
			list = "manykernels"
		}
	}
	if file = o.File; o.InTree() {
		file = filepath.Join(e.Tree.TarballDir(id), cmp.Or(file, id.Name+"-"+id.Version+"-"+list+".dkms.tar.gz"))
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	if err := e.writeArchive(ctx, file, content); err != nil {
		tree.RemoveEmpty(e.Tree.TarballDir(id), e.Tree.PackageDir(id))
		status := failure.StatusInstall
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
			status = failure.StatusNoPerm
		}
		return "", failure.From(err, what, status)
	}
	return file, nil
}

// writeArchive writes an archive, whose file exists when it is whole.
func (e *Engine) writeArchive(ctx context.Context, file string, p archive.Package) error {
	compression, err := archive.ForName(file)
	if err != nil {
		return &failure.Failure{What: "cannot make " + file, Why: err.Error(), Hint: "use a name that ends in .tar, .tar.gz, .tar.xz or .tar.zst", Status: failure.StatusNotFound}
	}
	dir, name := filepath.Split(file)
	if fi, err := os.Lstat(file); err == nil && !fi.Mode().IsRegular() {
		return &failure.Failure{What: "cannot make " + file, Why: "something that is no file is there", Hint: "choose another name", Status: failure.StatusNoPerm}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(dir, tree.TempName(name))
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	left, err := archive.Write(ctx, f, compression, p)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		os.Remove(tmp)
		return err
	}
	for _, name := range left {
		e.Events.Note(fmt.Sprintf("left out of the archive: %s, which is no file, or a link that leads out", name))
	}
	return tree.SyncDir(dir)
}

// LoadOptions say how an archive is loaded.
type LoadOptions struct {
	// Force replaces the source and builds that are there already.
	Force bool
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

// Nothing says that all of the archive was there already.
func (l Loaded) Nothing() bool { return !l.Added && !l.Source && len(l.Builds) == 0 }

// LoadArchive puts what an archive holds into the trees: the source, and builds,
// which then are built and not installed. It registers the package. What is
// there already stays, and is told of. The conf is checked as it reads for kernel
// k. Until all of the archive is found to be good, nothing changes. The caller
// holds the lock.
func (e *Engine) LoadArchive(ctx context.Context, file string, k tree.Target, o LoadOptions) (Loaded, error) {
	l, err := e.loadArchive(ctx, file, k, o)
	if err == nil {
		return l, nil
	}
	f := *failure.From(err, "", failure.StatusNoPerm)
	f.What = "cannot load " + file
	f.Why = strings.ReplaceAll(f.Why, e.unpacked()+"/", "")
	return l, &f
}

// unpacked is the folder that archives are unpacked to: in the tree, so that
// builds get to their places by a rename, and nobody else's.
func (e *Engine) unpacked() string { return filepath.Join(e.Tree.Dir, tree.TempName("archive")) }

func (e *Engine) loadArchive(ctx context.Context, file string, k tree.Target, o LoadOptions) (l Loaded, err error) {
	dir := e.unpacked()
	defer os.RemoveAll(dir)
	content, err := e.unpack(ctx, file, dir)
	if err != nil {
		return l, err
	}
	builds, err := e.checkBuilds(ctx, dir, content.Builds)
	if err != nil {
		return l, err
	}
	if l.ID, err = e.archived(dir, content, k); err != nil {
		return l, err
	}
	if w := o.Want; w.Name != "" && w.Name != l.Name || w.Version != "" && w.Version != l.Version {
		return l, &failure.Failure{Why: "it is of " + l.ID.String(), Hint: "leave out -m and -v", Status: failure.StatusNotFound}
	}

	packages, err := e.Tree.Read()
	if err != nil {
		return l, failure.From(err, "", failure.StatusNoPerm)
	}
	source := filepath.Join(e.Settings.SourceTree, l.Name+"-"+l.Version)
	stays := source
	l.Added = true
	for _, p := range packages {
		if p.ID != l.ID {
			continue
		}
		if err := e.Tree.Heal(l.ID); err != nil {
			return l, failure.From(err, "", failure.StatusNoPerm)
		}
		if l.Added = p.Broken(); !l.Added {
			stays = p.Source
		}
	}
	switch there := exists(source); {
	case content.Source == "" && l.Added && !there:
		return l, &failure.Failure{Why: "it has builds alone, and " + source + " does not exist", Status: failure.StatusNotFound,
			Hint: "first install the source, or load an archive that has it; nothing was loaded"}
	case content.Source == "":
	case o.Force, l.Added && !there:
		l.Source = true
	default:
		e.Events.Note(fmt.Sprintf("%s exists and stays; --force replaces it", stays))
	}
	for _, b := range builds {
		if at := e.Tree.TargetDir(l.ID, b.kernel); exists(at) && !o.Force {
			e.Events.Note(fmt.Sprintf("%s exists and stays; --force replaces it", at))
		} else {
			l.Builds = append(l.Builds, b.kernel)
		}
	}
	return l, e.commit(ctx, l, dir, content, builds, source, k)
}

// unpack unpacks an archive to the folder dir, which it makes.
func (e *Engine) unpack(ctx context.Context, file, dir string) (c archive.Contents, err error) {
	// Not blocking: a FIFO would keep us waiting for a writer.
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
		return c, bad("it is no file", "name an archive, as dkms mktarball makes them")
	}
	if err := os.RemoveAll(dir); err != nil {
		return c, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
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
		return c, bad(err.Error(), "nothing was loaded: get the archive anew, from somebody you trust")
	}
	return c, err
}

// archivedBuild is a build in an archive.
type archivedBuild struct {
	kernel tree.Target
	dir    string // where it was unpacked
}

// checkBuilds checks the unpacked builds as those that are made here are
// checked. Those without a folder of modules are passed over: the classic
// command has such for builds that failed.
func (e *Engine) checkBuilds(ctx context.Context, dir string, list []archive.Build) (good []archivedBuild, err error) {
	left := int64(archive.MaxBytes) // modules are compressed once more
	for _, b := range list {
		k := tree.Target{Release: b.Release, Arch: b.Arch}
		if err := tree.CheckTarget(k); err != nil {
			return nil, badBuild(fmt.Sprintf("%q names a kernel: %v", b.Dir, err), failure.StatusNoPerm)
		}
		from := filepath.Join(dir, b.Dir)
		entries, err := os.ReadDir(filepath.Join(from, "module"))
		if errors.Is(err, fs.ErrNotExist) {
			e.Events.Note("the archive has no modules for " + k.String())
			continue
		}
		if err != nil {
			return nil, badBuild(fmt.Sprintf("%s/module: it is no folder", b.Dir), failure.StatusNoModule)
		}
		seen := map[string]bool{}
		for _, entry := range entries {
			name, _, ok := kmod.SplitName(entry.Name())
			if !ok {
				continue
			}
			file := filepath.Join(b.Dir, "module", entry.Name())
			if err := conf.CheckName(name); err != nil {
				return nil, badBuild(fmt.Sprintf("%q: %v", file, err), failure.StatusNoModule)
			}
			if seen[name] {
				return nil, badBuild(file+": the module is there twice", failure.StatusNoModule)
			}
			seen[name] = true
			module, err := kmod.ReadFile(filepath.Join(dir, file))
			if err == nil {
				err = kmod.Check(bytes.NewReader(module), int64(len(module)), k.Arch, k.Release)
			}
			if err == nil {
				err = context.Cause(ctx)
			}
			if left -= int64(len(module)); err == nil && left < 0 {
				err = fmt.Errorf("the modules are more than %d bytes", int64(archive.MaxBytes))
			}
			if err != nil {
				return nil, badBuild(file+": "+err.Error(), failure.StatusNoModule)
			}
		}
		if len(seen) == 0 {
			return nil, badBuild(b.Dir+"/module: there is no module in it", failure.StatusNoModule)
		}
		good = append(good, archivedBuild{k, from})
	}
	return good, nil
}

func badBuild(why string, status int) error {
	return &failure.Failure{Why: why, Status: status, Hint: "nothing was loaded: get the archive anew, or make it again with dkms mktarball"}
}

// archived returns the package that the unpacked archive is of.
func (e *Engine) archived(dir string, c archive.Contents, k tree.Target) (id tree.ID, err error) {
	source := c.Source
	if source == "" {
		id = tree.ID{Name: c.Name, Version: c.Version}
		if err := tree.CheckID(id); err != nil {
			return id, &failure.Failure{Why: "its package's name: " + err.Error(), Status: failure.StatusBadConf,
				Hint: "nothing was loaded: get the archive anew"}
		}
		if c.Conf == "" {
			return id, nil
		}
		source = filepath.Dir(c.Conf)
	}
	read, err := e.readNew(filepath.Join(dir, source), tree.ID{}, k)
	if err != nil {
		return id, err
	}
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

// commit puts what l says into the trees. What takes room comes first; then each
// step leaves a package in one of its states: the source, which makes nothing of
// itself, its registration, and one build after the other.
func (e *Engine) commit(ctx context.Context, l Loaded, dir string, content archive.Contents, builds []archivedBuild, source string, k tree.Target) error {
	if err := cmp.Or(context.Cause(ctx), syncFileSystem(dir)); err != nil {
		return err
	}
	replaces := exists(source)
	if l.Source {
		err := os.MkdirAll(e.Settings.SourceTree, 0o755)
		if err == nil {
			err = e.placeSource(ctx, filepath.Join(dir, content.Source), source)
		}
		if err != nil {
			return failure.From(err, "", failure.StatusNotFound)
		}
	}
	if l.Added {
		if err := e.Register(ctx, l.ID, k); err != nil {
			if l.Source && !replaces {
				os.RemoveAll(source)
			}
			return err
		}
	} else if l.Source {
		if err := e.Tree.Register(l.ID, source); err != nil {
			return failure.From(err, "", failure.StatusNoPerm)
		}
	}
	for _, b := range builds {
		if !slices.Contains(l.Builds, b.kernel) {
			continue
		}
		to := e.Tree.TargetDir(l.ID, b.kernel)
		err := os.MkdirAll(filepath.Dir(to), 0o755)
		if err == nil {
			err = tree.ReplaceDir(b.dir, to)
		}
		if err != nil {
			tree.RemoveEmpty(filepath.Dir(to), e.Tree.PackageDir(l.ID))
			return failure.From(err, "", failure.StatusNoPerm)
		}
	}
	return nil
}

// placeSource puts a copy of the folder from into the source tree, in place of
// what is there. A half-copied source must not pass for one.
func (e *Engine) placeSource(ctx context.Context, from, to string) error {
	tmp := filepath.Join(e.Settings.SourceTree, tree.TempName(filepath.Base(to)))
	err := build.Stage(ctx, from, tmp)
	if err == nil {
		err = syncFileSystem(tmp)
	}
	if err == nil {
		err = tree.ReplaceDir(tmp, to)
	}
	if err != nil {
		os.RemoveAll(tmp)
	}
	return err
}

// syncFileSystem makes durable what the file system that dir is on holds: for
// many small files it is quicker than one after the other.
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
