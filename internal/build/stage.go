// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/sandbox"
)

// staging holds the directories of a build in progress.
type staging struct {
	top   string // the temporary that holds the others, and the log
	build string // what commands find at M/V/build
	out   string // what they find at M/V/K/A
	tmp   string // what they find at /tmp
	raw   string // modules before they are signed and compressed
	links string // what they find in /lib/modules/K besides what is there
}

// stage makes the directories, with a copy of the source in build, and the log. The
// user of the build owns what its commands may write to.
func (j *job) stage(ctx context.Context) error {
	top := j.Tree.StagingDir(j.ID, j.target())
	j.staging = staging{top, filepath.Join(top, "build"), filepath.Join(top, "out"), filepath.Join(top, "tmp"), filepath.Join(top, "raw"), filepath.Join(top, "links")}
	s := &j.staging
	if !j.private() {
		s.build = j.Tree.BuildDir(j.ID)
	}
	for _, dir := range []string{top, s.build} {
		if err := files.RemoveAll(dir); err != nil {
			return err
		}
	}
	for _, dir := range []string{top, s.build, s.out, s.tmp, s.raw, s.links} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		// The build does not own raw: strip gets it once the modules are there.
		if dir == top || dir == s.raw || dir == s.links {
			continue
		}
		if err := j.own(dir); err != nil {
			return err
		}
	}
	if !j.Kernel.Linked() {
		if err := os.Symlink(j.Kernel.SourceDir, filepath.Join(s.links, "build")); err != nil {
			return err
		}
	}
	if j.private() {
		// Other processes may run as the same user.
		if err := os.Chmod(top, 0o700); err != nil {
			return err
		}
	}
	if err := stageInto(ctx, j.Source, s.build, ".", j.user()); err != nil {
		return fmt.Errorf("cannot copy the source: %w", err)
	}
	overlay := filepath.Join(j.Settings.EtcDir, j.Name, "patches")
	if fi, err := os.Stat(overlay); err == nil && fi.IsDir() {
		if err := stageInto(ctx, overlay, s.build, "patches", j.user()); err != nil {
			return fmt.Errorf("cannot copy patches: %w", err)
		}
	}
	var err error
	j.run.log, err = os.OpenFile(filepath.Join(top, "make.log"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o640)
	return err
}

// user returns the owner of what is staged; nil for the user of this process.
func (j *job) user() *sandbox.User {
	if j.World == nil {
		return nil
	}
	return j.World.User
}

// own gives file to the user of the build.
func (j *job) own(file string) error {
	if u := j.user(); u != nil {
		return os.Lchown(file, u.UID, u.GID)
	}
	return nil
}

// share lets the user of the build make files in dir. What is there stays this
// process's own, and cannot be moved away.
func (j *job) share(dir string) error {
	u := j.user()
	if u == nil {
		return nil
	}
	return errors.Join(os.Lchown(dir, -1, u.GID), os.Chmod(dir, 0o775|fs.ModeSticky))
}

// logPath returns where the log is once the build has failed. The log of the last
// build that failed is also make.log.
func (d Description) logPath() string {
	name := "make.log"
	if d.Several {
		name = "make-" + d.Kernel.Release + "-" + d.Kernel.Arch + ".log"
	}
	return filepath.Join(d.Tree.BuildDir(d.ID), name)
}

// scratch guards the directory M/V/build, in which a failed build is left: builds of
// one package for two kernels may fail at once.
var scratch sync.Mutex

// abandon leaves the directory of a failed build, and its log, where people look for
// them, as far as it can. If large is set, it leaves the log alone: other builds need
// the room.
func (j *job) abandon(ctx context.Context, large bool) {
	scratch.Lock()
	defer scratch.Unlock()
	s, dir := j.staging, j.Tree.BuildDir(j.ID)
	if large || j.user() != nil && disown(ctx, s.build, false) != nil {
		files.RemoveAll(s.build)
		os.Mkdir(s.build, 0o755)
	}
	var logs []string
	if j.Several && j.private() {
		logs, _ = filepath.Glob(filepath.Join(dir, "make-*.log"))
	}
	for _, log := range append(logs, filepath.Join(s.top, "make.log")) {
		// The source may have a file or directory of that name.
		to := filepath.Join(s.build, filepath.Base(log))
		files.RemoveAll(to)
		os.Rename(log, to)
	}
	if own := filepath.Base(j.logPath()); own != "make.log" {
		files.RemoveAll(filepath.Join(s.build, own))
		os.Link(filepath.Join(s.build, "make.log"), filepath.Join(s.build, own))
	}
	if j.private() && files.RemoveAll(dir) == nil {
		os.Rename(s.build, dir)
	}
}

// disown gives dir and everything in it to this process's user, takes from all others
// the permission to write, and removes set-user-ID bits. If plain is set, it removes
// what is neither a file nor a directory.
func disown(ctx context.Context, dir string, plain bool) error {
	err := files.Walk(ctx, dir, func(at int, name string, st *unix.Stat_t) error {
		kind := st.Mode & unix.S_IFMT
		other := kind != unix.S_IFDIR && kind != unix.S_IFREG
		if plain && other {
			return unix.Unlinkat(at, name, 0)
		}
		if err := unix.Fchownat(at, name, os.Geteuid(), os.Getegid(), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if other || st.Mode&^(unix.S_IFMT|0o755) == 0 {
			return nil
		}
		fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fchmod(fd, st.Mode&0o755), unix.Close(fd))
	})
	return errors.Join(err, os.Lchown(dir, os.Geteuid(), os.Getegid()), os.Chmod(dir, 0o755))
}

// forget removes what an earlier build of the package left when it failed, unless that
// was for another kernel, which still has no build.
func (j *job) forget() error {
	scratch.Lock()
	defer scratch.Unlock()
	if j.private() && j.Tree.ExplainsFailure(j.ID) {
		return nil
	}
	return files.RemoveAll(j.Tree.BuildDir(j.ID))
}

// Stage makes dir a copy of the directory source, in place of what was there. The copy
// belongs to user or, if that is nil, to the user of this process.
func Stage(ctx context.Context, source, dir string, user *sandbox.User) error {
	if err := files.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return stageInto(ctx, source, dir, ".", user)
}

// stageInto copies directories, files and symbolic links in the directory source over
// the directory sub of dir. No link can make it write outside dir. Modes and times are
// kept, since make goes by them. Anything else, such as a FIFO or a device, is left out,
// as are set-user-ID bits. The owner of the copies is user or, if that is nil, the user
// of this process, who alone may then write to them.
func stageInto(ctx context.Context, source, dir, sub string, user *sandbox.User) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	own, perm := func(string) error { return nil }, fs.FileMode(0o755)
	if user != nil {
		own, perm = func(to string) error { return root.Lchown(to, user.UID, user.GID) }, 0o777
	}
	var directories []func() error // times of directories, set after their content
	err = filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(source, path)
		if err != nil {
			return err
		}
		to := filepath.Join(sub, rel)
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if err := root.MkdirAll(to, 0o755); err != nil {
				return err
			}
			directories = append(directories, func() error {
				// This process must be able to search it, whatever its mode was.
				return errors.Join(root.Chmod(to, fi.Mode()&perm|0o700), own(to), root.Chtimes(to, fi.ModTime(), fi.ModTime()))
			})
			return nil
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			return errors.Join(root.Symlink(target, to), own(to))
		case fi.Mode().IsRegular():
			return errors.Join(copyFile(path, root, to, fi, perm), own(to))
		}
		return nil
	})
	for i := len(directories) - 1; i >= 0 && err == nil; i-- {
		err = directories[i]()
	}
	return err
}

// Cost returns the size in bytes of the C files of a source, by which one can guess
// how long it takes to build compared to others.
func Cost(source string) (cost int64) {
	filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && filepath.Ext(path) == ".c" {
			if fi, err := d.Info(); err == nil {
				cost += fi.Size()
			}
		}
		return nil
	})
	return cost
}

func copyFile(from string, root *os.Root, to string, fi fs.FileInfo, perm fs.FileMode) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := root.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	out, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Chmod(fi.Mode()&perm|0o400), out.Close()); err != nil {
		return err
	}
	return root.Chtimes(to, fi.ModTime(), fi.ModTime())
}
