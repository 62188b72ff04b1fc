// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Depth is how many levels of directories below the first [Walk] enters.
const Depth = 256

// ErrDeep is the error of [Walk] if there are more levels than [Depth].
var ErrDeep = fmt.Errorf("it holds directories in directories, more than %d deep", Depth)

// Walk calls visit for everything below the directory dir, without following symbolic
// links. Visit gets the open directory, the name in it, and its status. A directory
// comes before its content. What has gone meanwhile, or is no longer a directory, is
// passed over, also if it is visit that returns such an error. Walk ends with any other
// error of visit, with the cause of ctx if that is done, and with [ErrDeep].
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

// Below reports whether the clean path is dir or below it.
func Below(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(dir, "/"))
}

// Sum returns the SHA-256 sum, in hex, of the regular file at path; "" if there is none that
// can be read.
func Sum(path string) string {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return ""
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil))
}

// RemoveAll is [os.RemoveAll], but also removes directories that are nested too deep
// for it.
func RemoveAll(path string) error {
	// Before os.RemoveAll, as its error grows with the square of the depth.
	err := Walk(context.Background(), path, func(int, string, *unix.Stat_t) error { return nil })
	if !errors.Is(err, ErrDeep) && !errors.Is(err, unix.EMFILE) {
		return os.RemoveAll(path)
	}
	// os.RemoveAll keeps a directory open for each level; rm does not.
	if out, err := exec.Command("rm", "-rf", "--", path).CombinedOutput(); err != nil {
		return fmt.Errorf("cannot remove %s: rm: %w\n%.200s", path, err, out)
	}
	return nil
}
