// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
)

// mount makes the file system what the command is to see of it.
func (s *spec) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("/ is no mount point of its own: %w", err)
	}
	// What is shown is opened before anything hides it.
	var v view
	defer v.close()
	if err := v.open(s); err != nil {
		return err
	}
	for _, b := range s.Layers {
		// Where that is denied, the command lacks what is a convenience.
		_ = unix.Mount("overlay", b.To, "overlay", unix.MS_RDONLY, "lowerdir="+b.From+":"+b.To)
	}
	if err := v.mount(s); err != nil {
		return err
	}
	if s.Features.PID {
		// If this fails, as in some containers, the old one shows processes that
		// are out of reach.
		_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
	}
	if err := s.nameKernel(); err != nil {
		return fmt.Errorf("cannot name the kernel: %w", err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}); err != nil {
		return fmt.Errorf("cannot make it read-only: %w", err)
	}
	for _, b := range slices.Concat(v.temporary, v.writable) {
		if err := unix.MountSetattr(unix.AT_FDCWD, b.to, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY, Attr_set: unix.MOUNT_ATTR_NODEV}); err != nil {
			return fmt.Errorf("cannot make %s writable: %w", b.to, err)
		}
	}
	return nil
}

// view is what the command is to see besides the rest of the file system.
type view struct {
	temporary []bind            // at /tmp and /var/tmp
	shown     []bind            // of Show
	kept      []bind            // of Keep, but for symbolic links
	links     map[string]string // targets of the symbolic links of Keep, by path
	writable  []bind            // of Writable
}

// open opens what s is to show. It passes over what is there for convenience only and
// does not exist, or that nobody here can reach.
func (v *view) open(s *spec) error {
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if fi, err := os.Lstat(dir); s.Tmp == "" || err != nil || !fi.IsDir() {
			continue
		}
		if err := add(&v.temporary, s.Tmp, dir); err != nil {
			return err
		}
	}
	hidden := append([]string{"/tmp", "/var/tmp"}, s.Hide...)
	for _, path := range slices.Concat(realPaths(s.Show), s.Show) {
		if !slices.ContainsFunc(hidden, func(dir string) bool { return strings.HasPrefix(path, dir+"/") }) {
			continue
		}
		if err := add(&v.shown, path, path); err != nil && !unreachable(err) {
			return err
		}
	}
	v.links = map[string]string{}
	for _, entry := range s.Keep {
		path := filepath.Join(s.Over, entry)
		if to, err := os.Readlink(path); err == nil {
			v.links[path] = to
		} else if err := add(&v.kept, path, path); err != nil && !unreachable(err) {
			return err
		}
	}
	for _, b := range s.Writable {
		if err := add(&v.writable, b.From, b.To); err != nil {
			return err
		}
	}
	return nil
}

// realPaths returns where paths lead by symbolic links: those lead nowhere in what is shown
// unless that is shown first.
func realPaths(paths []string) (list []string) {
	for _, path := range paths {
		if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
			list = append(list, real)
		}
	}
	return list
}

// Hides reports whether a command in w does not see path, which is free of links.
func (w *World) Hides(path string) bool {
	below := func(dirs []string) bool {
		return slices.ContainsFunc(dirs, func(dir string) bool { return files.Below(dir, path) })
	}
	return w.Features.Mounts && below(append([]string{"/tmp", "/var/tmp"}, w.Hide...)) && !below(w.Show) && !below(realPaths(w.Show))
}

func (v *view) close() {
	for _, b := range slices.Concat(v.temporary, v.shown, v.kept, v.writable) {
		unix.Close(b.fd)
	}
}

// mount hides what s hides, and shows v.
func (v *view) mount(s *spec) error {
	for _, path := range s.Hide {
		if err := hide(path); err != nil {
			return err
		}
	}
	for _, b := range slices.Concat(v.temporary, v.shown) {
		if err := b.mount(); err != nil {
			return err
		}
	}
	// Again: a file to hide may be in what is shown.
	for _, path := range s.Hide {
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			if err := hide(path); err != nil {
				return err
			}
		}
	}
	if s.Over != "" {
		if err := cover(s.Over); err != nil {
			return err
		}
	}
	for path, to := range v.links {
		if err := os.Symlink(to, path); err != nil {
			return err
		}
	}
	for _, b := range slices.Concat(v.kept, v.writable) {
		if err := b.mount(); err != nil {
			return err
		}
	}
	return nil
}

// unreachable reports whether err is that something does not exist, or that this
// process may not look at it.
func unreachable(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// bind is an open file or directory that is to be seen at a path.
type bind struct {
	fd  int
	to  string
	dir bool // dir reports whether it is a directory.
}

// add opens the file or directory from, to be seen at to, and appends it to list.
func add(list *[]bind, from, to string) error {
	b, err := open(from, to)
	if err == nil {
		*list = append(*list, b)
	}
	return err
}

func open(from, to string) (bind, error) {
	fd, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return bind{}, &fs.PathError{Op: "open", Path: from, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return bind{}, &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	return bind{fd, to, st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// mount shows b at its path. It makes what does not exist of the path: that is in an
// empty directory that hides another.
func (b bind) mount() error {
	if _, err := os.Stat(b.to); errors.Is(err, fs.ErrNotExist) {
		if err := b.make(); err != nil {
			return err
		}
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", b.fd), b.to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return &fs.PathError{Op: "mount", Path: b.to, Err: err}
	}
	return nil
}

// make makes an empty file or directory at b's path. Below /tmp and /var/tmp it follows no
// links out of them: a command that ran before may have put them there.
func (b bind) make() error {
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		name, ok := strings.CutPrefix(b.to, dir+"/")
		if !ok {
			continue
		}
		root, err := os.OpenRoot(dir)
		if err != nil {
			return err
		}
		defer root.Close()
		if b.dir {
			return root.MkdirAll(name, 0o755)
		}
		return errors.Join(root.MkdirAll(filepath.Dir(name), 0o755), root.WriteFile(name, nil, 0o644))
	}
	if b.dir {
		return os.MkdirAll(b.to, 0o755)
	}
	return errors.Join(os.MkdirAll(filepath.Dir(b.to), 0o755), os.WriteFile(b.to, nil, 0o644))
}

// hide makes a directory or file seem empty. It ignores one that does not exist, or
// that nobody here can reach.
func hide(path string) error {
	fi, err := os.Stat(path)
	if err != nil {
		if unreachable(err) {
			return nil
		}
		return err
	}
	if fi.IsDir() {
		return cover(path)
	}
	if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "hide", Path: path, Err: err}
	}
	return nil
}

// cover mounts an empty directory over dir.
func cover(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return &fs.PathError{Op: "hide", Path: dir, Err: err}
	}
	return nil
}
