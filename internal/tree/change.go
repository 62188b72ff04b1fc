// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"dkms-kernel-install/internal/files"
)

// Register makes id known, with its source in directory source.
func (t Tree) Register(id ID, source string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := os.MkdirAll(t.PackageDir(id), 0o755); err != nil {
		return err
	}
	return files.ReplaceLink(source, t.SourceDir(id))
}

// SetInstalled records that the build of id for k is the installed one, in
// place of any other version.
func (t Tree) SetInstalled(id ID, k Target) error {
	return files.ReplaceLink(filepath.Join(id.Version, k.Release, k.Arch), t.installedLink(id.Name, k))
}

// ClearInstalled records that no version of the package is installed for k.
func (t Tree) ClearInstalled(name string, k Target) error {
	return files.Remove(t.installedLink(name, k))
}

// RemoveBuild removes the build of id for k.
func (t Tree) RemoveBuild(id ID, k Target) error {
	dir := t.TargetDir(id, k)
	// The rename is the moment at which the build is gone: a removal that is
	// cut short never leaves half a build that counts as one.
	gone := filepath.Join(filepath.Dir(dir), files.TempName("removed-"+k.Arch))
	if err := files.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := files.RemoveAll(gone); err != nil {
		return err
	}
	files.RemoveEmpty(filepath.Dir(dir), t.PackageDir(id))
	return nil
}

// Unregister forgets a package that has no builds left, and removes its archives:
// a directory that only has those would be one of a broken package.
func (t Tree) Unregister(id ID) error {
	if err := files.RemoveAll(t.TarballDir(id)); err != nil {
		return err
	}
	// The link goes last: without it, nobody can tell whose the directory is.
	if err := files.RemoveAll(t.BuildDir(id)); err != nil {
		return err
	}
	if err := t.removeUnfinished(id); err != nil {
		return err
	}
	if err := files.Remove(t.SourceDir(id)); err != nil {
		return err
	}
	files.RemoveEmpty(t.PackageDir(id), t.Dir)
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
			if err := files.RemoveAll(dir); err != nil {
				return err
			}
		}
		files.RemoveEmpty(release, t.PackageDir(id))
	}
	return err
}
