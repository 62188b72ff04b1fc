// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the names of all temporaries. By it a later run recognizes them as
// this program's.
const prefix = ".dkms-kernel-install-"

// TempName returns the name of the temporary that becomes name by rename. It is
// the same every time, so that a killed run leaves at most one, which the next run
// replaces.
func TempName(name string) string { return prefix + name }

// IsTemp reports whether name is one that [TempName] returns.
func IsTemp(name string) bool { return strings.HasPrefix(name, prefix) }

// Options says how a file is written. The zero value is for caches: the file is
// replaced in one step, but after a power failure it may be empty or damaged.
type Options struct {
	Durable  bool      // the file and its name are on the disk when Commit returns
	New      bool      // if the file exists, it stays, and the error is [fs.ErrExist]
	Modified time.Time // the file's modification time; zero for that of the last write
}

// File is a temporary that takes another file's place with [File.Commit]. Until it
// is committed or closed, [Create] makes no other for the same file, in any process.
type File struct {
	*os.File
	path    string // of the file that it becomes
	options Options
}

// patience is how long Create waits for another process.
const patience = 2 * time.Second

// Create makes a temporary for the file called path, in the same directory, with
// mode perm. If there is another File for path, Create waits for it a while, then
// returns an error. The temporary is locked with flock(2), so that one which a killed
// run left does not count.
func Create(path string, perm os.FileMode, o Options) (*File, error) {
	dir, name := filepath.Split(path)
	tmp := filepath.Join(dir, TempName(name))
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if err != nil {
			return nil, err
		}
		mine, err := lock(f)
		if mine {
			if err := errors.Join(f.Truncate(0), f.Chmod(perm)); err != nil {
				f.Close()
				return nil, err
			}
			return &File{f, path, o}, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		if time.Since(start) > patience {
			return nil, fmt.Errorf("%s: another process has been writing it for %v", path, patience)
		}
	}
}

// lock locks the temporary f and reports whether it did. It does not if the lock is
// taken, or if f no longer has its name.
func lock(f *os.File) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() {
		return false, fmt.Errorf("%s is not a regular file", f.Name())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	} else if err != nil {
		return false, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	// The last holder of the lock may have renamed or removed it.
	now, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(fi, now), err
}

// Commit makes f the file that it was created for, and closes it. If that fails,
// it removes the temporary, and an earlier file stays as it was; but if only the
// directory cannot be synced, the new file is in place.
func (f *File) Commit() error {
	if err := f.commit(); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.File.Close(); err != nil || !f.options.Durable {
		return err
	}
	return SyncDir(filepath.Dir(f.path))
}

func (f *File) commit() error {
	o := f.options
	if !o.Modified.IsZero() {
		if err := os.Chtimes(f.Name(), o.Modified, o.Modified); err != nil {
			return err
		}
	}
	if o.Durable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if !o.New {
		return os.Rename(f.Name(), f.path)
	}
	err := unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, f.path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // the file system does not support it
		if _, err := os.Lstat(f.path); err == nil {
			return fs.ErrExist
		}
		return os.Rename(f.Name(), f.path)
	}
	return err
}

// Close removes the temporary, unless it was committed, and closes it.
func (f *File) Close() error {
	if fi, err := f.Stat(); err == nil {
		if now, err := os.Lstat(f.Name()); err == nil && os.SameFile(fi, now) {
			os.Remove(f.Name())
		}
	}
	return f.File.Close()
}

// Write replaces the file called path, in one step, with one that has mode perm and
// the content of r. It makes the directories above it that are missing.
func Write(path string, r io.Reader, perm os.FileMode, o Options) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := Create(path, perm, o)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Commit()
}

// Clean removes the temporary files in dir that no process has locked, as far as it
// can: killed processes left them.
func Clean(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if !IsTemp(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		f, err := os.OpenFile(filepath.Join(dir, e.Name()), os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if mine, _ := lock(f); mine {
			os.Remove(f.Name())
		}
		f.Close()
	}
}
