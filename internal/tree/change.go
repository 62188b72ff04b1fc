package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/atomicfile"
	"dkms-kernel-install/internal/walk"
)

// Register makes id known, with its source in folder source.
func (t Tree) Register(id ID, source string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := os.MkdirAll(t.PackageDir(id), 0o755); err != nil {
		return err
	}
	return ReplaceLink(source, t.SourceDir(id))
}

// SetInstalled records that the build of id for k is the installed one, in
// place of any other version.
func (t Tree) SetInstalled(id ID, k Target) error {
	return ReplaceLink(filepath.Join(id.Version, k.Release, k.Arch), t.installedLink(id.Name, k))
}

// ClearInstalled records that no version of the package is installed for k.
func (t Tree) ClearInstalled(name string, k Target) error {
	return removeIfThere(t.installedLink(name, k))
}

// RemoveBuild removes the build of id for k.
func (t Tree) RemoveBuild(id ID, k Target) error {
	dir := t.TargetDir(id, k)
	// The rename is the moment at which the build is gone: a removal that is
	// cut short never leaves half a build that counts as one.
	gone := filepath.Join(filepath.Dir(dir), TempName("removed-"+k.Arch))
	if err := walk.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := walk.RemoveAll(gone); err != nil {
		return err
	}
	RemoveEmpty(filepath.Dir(dir), t.PackageDir(id))
	return nil
}

// Unregister forgets a package that has no builds left, and removes its archives:
// a folder that only has those would be one of a broken package.
func (t Tree) Unregister(id ID) error {
	if err := walk.RemoveAll(t.TarballDir(id)); err != nil {
		return err
	}
	// The link goes last: without it, nobody can tell whose the folder is.
	if err := walk.RemoveAll(t.BuildDir(id)); err != nil {
		return err
	}
	if err := t.removeUnfinished(id); err != nil {
		return err
	}
	if err := removeIfThere(t.SourceDir(id)); err != nil {
		return err
	}
	RemoveEmpty(t.PackageDir(id), t.Dir)
	return nil
}

// removeUnfinished removes what killed runs made of builds of id, up to the modules.
func (t Tree) removeUnfinished(id ID) error {
	releases, err := os.ReadDir(t.PackageDir(id))
	for _, r := range releases {
		if !r.IsDir() || !isRelease(r.Name()) {
			continue
		}
		release := filepath.Join(t.PackageDir(id), r.Name())
		arches, _ := os.ReadDir(release)
		for _, a := range arches {
			dir := filepath.Join(release, a.Name())
			if _, err := os.Lstat(filepath.Join(dir, "module")); err == nil || !a.IsDir() {
				continue
			}
			if err := walk.RemoveAll(dir); err != nil {
				return err
			}
		}
		RemoveEmpty(release, t.PackageDir(id))
	}
	return err
}

// TempName returns the name of the temporary that becomes name by rename.
func TempName(name string) string { return atomicfile.TempName(name) }

// IsTemp says whether name is one that [TempName] made.
func IsTemp(name string) bool { return atomicfile.IsTemp(name) }

// ReplaceLink makes link a symbolic link to target, in one step.
func ReplaceLink(target, link string) error {
	dir, name := filepath.Split(link)
	tmp := filepath.Join(dir, TempName(name))
	if err := removeIfThere(tmp); err != nil {
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

// ReplaceDir makes the folder tmp the one called dir, in one step where the file
// system can, and removes what was there.
func ReplaceDir(tmp, dir string) error {
	err := os.Rename(tmp, dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTDIR) {
		// The old one takes the temporary's name.
		switch err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE); err {
		case nil:
			err = walk.RemoveAll(tmp)
		case unix.EINVAL, unix.ENOSYS:
			// A file system that cannot. After any other error the old one stays.
			if err = walk.RemoveAll(dir); err == nil {
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

// SyncDir makes the names in dir durable.
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

func removeIfThere(file string) error {
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
