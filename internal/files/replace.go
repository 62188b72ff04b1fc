// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ReplaceLink makes link a durable symbolic link to target, in one step.
func ReplaceLink(target, link string) error {
	dir, name := filepath.Split(link)
	tmp := filepath.Join(dir, TempName(name))
	if err := Remove(tmp); err != nil {
		return err
	}
	if err := os.Symlink(target, tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, link); err != nil {
		os.Remove(tmp)
		return err
	}
	return SyncDir(dir)
}

// ReplaceDir renames the directory tmp to dir and removes what was there: in one step
// if the file system can exchange two names.
func ReplaceDir(tmp, dir string) error {
	err := os.Rename(tmp, dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTDIR) {
		// The old directory gets the temporary's name.
		switch err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err {
		case nil:
			err = RemoveAll(tmp)
		case unix.EINVAL, unix.ENOSYS:
			// The file system cannot. After any other error the old directory stays.
			if err = RemoveAll(dir); err == nil {
				err = os.Rename(tmp, dir)
			}
		}
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(dir))
}

// RemoveEmpty removes dir and then its parents while they are empty, up to but
// not including top.
func RemoveEmpty(dir, top string) {
	for strings.HasPrefix(dir, top+"/") && unix.Rmdir(dir) == nil {
		dir = filepath.Dir(dir)
	}
}

// SyncDir makes the entries of the directory dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("cannot sync %s: %w", dir, err)
	}
	return nil
}

// Remove removes the file or empty directory called file, if there is one.
func Remove(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Exists reports whether path exists, even as a symbolic link that leads nowhere. An
// error counts as no.
func Exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
