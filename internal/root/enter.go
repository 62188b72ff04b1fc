// SPDX-License-Identifier: GPL-2.0-or-later

package root

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// devices are those of the host that a root has.
var devices = []string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// enter makes r the root of this process, which is in a mount namespace of its own.
func (r Root) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("/ is no mount point of its own: %w", err)
	}
	trees := map[string]int{} // what is shown of the host's
	for _, path := range append([]string{r.Dir, "/proc"}, devices...) {
		fd, err := copyTree(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // containers lack some devices
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		trees[path] = fd
	}
	at := r.Dir
	if at == "/" {
		at = "/proc" // any other directory
	}
	// Names are looked up in the new root from here on: its links lead nowhere else. The old
	// one lies over it until all is mounted.
	if err := errors.Join(show(trees[r.Dir], at), unix.Chdir(at)); err != nil {
		return err
	}
	leave := func() error { return unix.Unmount(".", unix.MNT_DETACH) }
	err := unix.PivotRoot(".", ".")
	if errors.Is(err, unix.EINVAL) {
		// This process is in a chroot that is no mount point. Another one is as good there.
		err, leave = unix.Chroot("."), func() error { return nil }
	}
	if err != nil {
		return err
	}
	if err := r.cover(); err != nil {
		return err
	}
	if r.Dir != "/" {
		if err := mount(trees); err != nil {
			return err
		}
	}
	return errors.Join(leave(), unix.Chdir("/"))
}

// cover lays r.Over over what is there, all but r.Keep, and shows r.At.
func (r Root) cover() error {
	at := maps.Clone(r.At)
	if at == nil {
		at = map[string]string{}
	}
	for _, path := range r.Keep {
		if _, err := os.Stat(path); err == nil {
			at[path] = path
		}
	}
	trees := map[string]int{} // opened before anything hides them
	for path, dir := range at {
		fd, err := copyTree(dir)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		trees[path] = fd
	}
	over := map[string][]string{} // by the directory that they lie over
	for _, layer := range r.Over {
		entries, err := os.ReadDir(layer)
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := e.Name()
			programs := name == "usr" || name == "bin" || name == "sbin" || strings.HasPrefix(name, "lib")
			// No directory for what is only in the layer is to be made.
			if dir, err := filepath.EvalSymlinks("/" + name); err == nil && e.IsDir() && programs {
				over[dir] = append(over[dir], filepath.Join(layer, name))
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(over)) { // /usr comes before /usr/lib
		lower := append(over[dir], dir)
		if strings.ContainsAny(strings.Join(lower, ""), `:,\`) {
			return fmt.Errorf("%q cannot be the name of a layer", lower)
		}
		if err := unix.Mount("overlay", dir, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
			return &fs.PathError{Op: "cover", Path: dir, Err: err}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(trees)) { // one may be in another
		if err := show(trees[path], path); err != nil {
			return err
		}
	}
	return nil
}

// copyTree returns an open copy of the tree of mounts at path.
func copyTree(path string) (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.AT_RECURSIVE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// mount mounts what a root needs and no image holds. Trees has the host's /proc and devices.
func mount(trees map[string]int) error {
	for _, dir := range []string{"/proc", "/dev", "/sys", "/run"} {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("it lacks a directory for a mount: %w", err)
		}
		if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
			return fmt.Errorf("its %s is not a directory", dir) // a link would have another one hidden
		}
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
	if err := unix.Mount("proc", "/proc", "proc", flags, ""); err != nil {
		// Containers often deny that. The host's shows processes that are out of reach.
		if show(trees["/proc"], "/proc") != nil {
			return &fs.PathError{Op: "mount", Path: "/proc", Err: err}
		}
	}
	for _, m := range []struct{ dir, options string }{{"/dev", "mode=755,size=1m"}, {"/sys", "mode=755,size=1m"}, {"/run", "mode=755"}} {
		if err := unix.Mount("tmpfs", m.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, m.options); err != nil {
			return &fs.PathError{Op: "mount", Path: m.dir, Err: err}
		}
	}
	for _, path := range devices {
		dev, ok := trees[path]
		if !ok {
			continue
		}
		if err := errors.Join(os.WriteFile(path, nil, 0o666), show(dev, path)); err != nil {
			return err
		}
	}
	return errors.Join(os.Symlink("/proc/self/fd", "/dev/fd"), os.Mkdir("/dev/shm", 0o1777),
		os.Symlink("fd/0", "/dev/stdin"), os.Symlink("fd/1", "/dev/stdout"), os.Symlink("fd/2", "/dev/stderr"))
}

// show mounts the copy of a tree of mounts at path.
func show(tree int, path string) error {
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "mount", Path: path, Err: err}
	}
	return nil
}
