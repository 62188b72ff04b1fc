// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/archive"
	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// ArchiveOptions say what archive is made of a package.
type ArchiveOptions struct {
	// File is where the archive goes, compressed as its name says. A name
	// without a directory is one in the package's directory of archives; an empty
	// one is made of the names of the package and of the kernels.
	File                     string
	SourceOnly, BinariesOnly bool // not both
}

// InTree reports whether the archive goes into the tree.
func (o ArchiveOptions) InTree() bool { return !strings.Contains(o.File, "/") }

// maxKernelList is the length in bytes from which on the kernels of an archive
// are not named in its name: a name may have 255.
const maxKernelList = 200

// sourceOnly is in the name of an archive that has no builds.
const sourceOnly = "source-only"

// MakeArchive makes an archive of a package with its builds for kernels, with all
// that it has if kernels is nil, and returns the archive's path. A file of that name
// is replaced. The conf is checked as it reads for kernel k. The caller holds the
// lock of the tree, or o writes elsewhere.
func MakeArchive(ctx context.Context, m *machine.Machine, id tree.ID, kernels []tree.Target, k tree.Target, o ArchiveOptions) (file string, err error) {
	p, err := Find(m, id)
	if err != nil {
		return "", err
	}
	a := archiver{m: m, p: p, what: "cannot make an archive of " + id.String()}
	if err := a.check(k, o); err != nil {
		return "", err
	}
	contents := archive.Contents{Source: p.Source}
	if o.BinariesOnly {
		contents = archive.Contents{Name: id.Name, Version: id.Version, Conf: filepath.Join(p.Source, "dkms.conf")}
	}
	list := sourceOnly
	if !o.SourceOnly {
		if contents.Binaries, list, err = a.builds(kernels, o.BinariesOnly); err != nil {
			return "", err
		}
	}
	if file = o.File; o.InTree() {
		file = filepath.Join(m.Tree.TarballDir(id), cmp.Or(file, id.Name+"-"+id.Version+"-"+list+".dkms.tar.gz"))
	}
	if file, err = filepath.Abs(file); err != nil {
		return "", err
	}
	if err := writeArchive(ctx, m, file, contents); err != nil {
		files.RemoveEmpty(m.Tree.TarballDir(id), m.Tree.PackageDir(id))
		status := failure.StatusInstall
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
			status = failure.StatusNoPerm
		}
		return "", failure.From(err, a.what, status)
	}
	return file, nil
}

// archiver makes an archive of one package.
type archiver struct {
	m    *machine.Machine
	p    tree.Package
	what string // has failed, if it fails
}

func (a archiver) fail(status int, why, hint string) error {
	return &failure.Failure{What: a.what, Why: why, Hint: hint, Status: status}
}

// check reports an error if the archive could not be loaded again.
func (a archiver) check(k tree.Target, o ArchiveOptions) error {
	id := a.p.ID
	if a.p.Broken() {
		return a.fail(failure.StatusNoConf, "it is broken: its source is gone", "put the source back in "+sourceDir(a.m, id))
	}
	c, err := observe.Conf(a.m, id, k)
	if err != nil {
		status := failure.StatusBadConf
		if errors.Is(err, fs.ErrNotExist) {
			status = failure.StatusNoConf
		}
		return a.fail(status, err.Error(), "correct its dkms.conf")
	}
	called := tree.ID{Name: c.Name, Version: c.Version}
	if called != id && o.BinariesOnly {
		return a.fail(failure.StatusBadConf, fmt.Sprintf("its dkms.conf calls it %s: the archive could not be loaded again", called),
			"correct PACKAGE_NAME and PACKAGE_VERSION in it")
	}
	if called != id {
		a.m.Note(fmt.Sprintf("%s: its dkms.conf calls it %s, and so will who loads the archive", id, called))
	}
	return nil
}

// builds returns the builds for kernels, all if that is nil, and what the name of an
// archive says of them.
func (a archiver) builds(kernels []tree.Target, binariesOnly bool) (builds []archive.Binaries, list string, err error) {
	id := a.p.ID
	if kernels == nil {
		for _, b := range a.p.Builds {
			kernels = append(kernels, b.Target)
		}
	}
	if len(kernels) == 0 && binariesOnly {
		return nil, "", a.fail(failure.StatusInstall, "there is no build of it", "run: dkms build "+id.String()+", or use --source-only")
	} else if len(kernels) == 0 {
		a.m.Note(id.String() + " is not built for any kernel: the archive has its source alone")
		return nil, sourceOnly, nil
	}
	var names []string
	for _, k := range kernels {
		if _, ok := a.p.Build(k); !ok {
			return nil, "", a.fail(failure.StatusInstall, "it is not built for "+k.String(), fmt.Sprintf("run: dkms build %s -k %s, or use --source-only", id, k))
		}
		names = append(names, "kernel"+k.Release+"-"+k.Arch)
		builds = append(builds, archive.Binaries{Release: k.Release, Arch: k.Arch, Dir: a.m.Tree.TargetDir(id, k)})
	}
	if list = strings.Join(names, "-"); len(list) >= maxKernelList {
		list = "manykernels"
	}
	return builds, list, nil
}

// writeArchive writes an archive, whose file exists once it is whole.
func writeArchive(ctx context.Context, m *machine.Machine, file string, contents archive.Contents) error {
	compression, err := codec.ForArchive(file)
	if err != nil {
		return &failure.Failure{What: "cannot make " + file, Why: err.Error(), Hint: "use a name that ends in .tar, .tar.gz, .tar.xz or .tar.zst", Status: failure.StatusNotFound}
	}
	if fi, err := os.Lstat(file); err == nil && !fi.Mode().IsRegular() {
		return &failure.Failure{What: "cannot make " + file, Why: "something that is not a file is there", Hint: "choose another name", Status: failure.StatusNoPerm}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := files.Create(file, 0o644, files.Options{Durable: true})
	if err != nil {
		return err
	}
	left, err := archive.Write(ctx, f, compression, contents)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	for _, name := range left {
		m.Note(fmt.Sprintf("left out of the archive: %s, which is not a file, or a link that leads out, or a log for root alone", name))
	}
	return f.Commit()
}
