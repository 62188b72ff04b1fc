// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Depth is how many directories in directories [Walk] visits.
const Depth = 256

// ErrDeep is the error of a directory that holds more.
var ErrDeep = fmt.Errorf("it holds directories in directories, more than %d deep", Depth)

// Walk calls visit for everything below the directory dir, without following symbolic
// links: with the open directory that it is in, its name there, and what it is. What is
// in a directory comes after it. What is gone meanwhile, or no directory any more, is
// passed over. An error of visit, the cause of a ctx that is done, and [ErrDeep] end
// it.
func Walk(ctx context.Context, dir string, visit func(at int, name string, st *unix.Stat_t) error) error {
	return walk(ctx, unix.AT_FDCWD, dir, Depth, visit)
}

func walk(ctx context.Context, at int, dir string, depth int, visit func(int, string, *unix.Stat_t) error) error {
	if depth < 0 {
		return ErrDeep
	}
	fd, err := unix.Openat(at, dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	for {
		names, err := f.Readdirnames(256)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			var st unix.Stat_t
			err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
			if err == nil {
				err = visit(fd, name, &st)
			}
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				err = walk(ctx, fd, name, depth-1, visit)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, unix.ELOOP) {
				return err
			}
		}
	}
}

// RemoveAll is [os.RemoveAll] for directories of any depth.
func RemoveAll(path string) error {
	// First, because the error of os.RemoveAll grows with the square of the depth.
	err := Walk(context.Background(), path, func(int, string, *unix.Stat_t) error { return nil })
	if !errors.Is(err, ErrDeep) && !errors.Is(err, unix.EMFILE) {
		return os.RemoveAll(path)
	}
	// That has a directory open for each that it is in; rm has not.
	if out, err := exec.Command("rm", "-rf", "--", path).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot remove %s: rm: %w\n%.200s", path, err, out)
	}
	return nil
}
