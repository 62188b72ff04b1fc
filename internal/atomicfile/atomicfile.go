// Package atomicfile replaces files in one step, for caches: a reader finds the
// old file or the new one, and what a killed process leaves is found and removed
// by the next.
package atomicfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prefix begins the names of all temporaries, so that a later run knows them for
// its own.
const prefix = ".dkms-kernel-install-"

// TempName returns the name of the temporary that becomes name by rename. It is
// the same every time: a killed run leaves one at most, and the next run writes
// over it.
func TempName(name string) string { return prefix + name }

// IsTemp says whether name is one that [TempName] made.
func IsTemp(name string) bool { return strings.HasPrefix(name, prefix) }

// File is a temporary that takes another file's place with [File.Commit]. While
// one process has it, no other can have one for the same file.
type File struct {
	*os.File
	path string // what it becomes
}

// patience is how long Create waits for another process.
const patience = 2 * time.Second

// Create makes a temporary for the file called path, in the same folder, with
// mode perm. The lock of the temporary is flock(2), so that what is left of it
// after a run is no claim.
func Create(path string, perm os.FileMode) (*File, error) {
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
			return &File{f, path}, nil
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

// lock locks the temporary f, if nobody else has it and it still has its name.
func lock(f *os.File) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() {
		return false, fmt.Errorf("%s is no regular file", f.Name())
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return false, nil
	} else if err != nil {
		return false, &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
	// Whoever had it may have renamed or removed it meanwhile.
	now, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(fi, now), err
}

// Commit makes f the file that it was made for. It is not synced to the disk:
// after a power failure the file may be empty or damaged, which who reads a
// cache must be able to tell.
func (f *File) Commit() error {
	if err := os.Rename(f.Name(), f.path); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.File.Close()
}

// Close removes the temporary, unless it was committed.
func (f *File) Close() error {
	if fi, err := f.Stat(); err == nil {
		if now, err := os.Lstat(f.Name()); err == nil && os.SameFile(fi, now) {
			os.Remove(f.Name())
		}
	}
	return f.File.Close()
}

// WriteFile makes file hold data, with mode perm, in one step. The folders above
// it are made where they are missing.
func WriteFile(file string, data []byte, perm os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := Create(file, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Commit()
}

// Clean removes the temporaries that killed processes left in the folder dir. It
// is no error that there are none, or that they cannot be removed.
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
