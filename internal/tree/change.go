// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"dkms-kernel-install/internal/files"
)

// Register adds id to the tree, or changes its source, which is in the directory
// called source.
func (t Tree) Register(id ID, source string) error {
	if err := CheckID(id); err != nil {
		return err
	}
	if err := os.MkdirAll(t.PackageDir(id), 0o755); err != nil {
		return err
	}
	return files.ReplaceLink(source, t.SourceDir(id))
}

// SetInstalled records that the build of id for k is installed, in place of any
// other version of the package.
func (t Tree) SetInstalled(id ID, k Target) error {
	return files.ReplaceLink(filepath.Join(id.Version, k.Release, k.Arch), t.InstalledLink(id.Name, k))
}

// ClearInstalled records that no version of the package is installed for k.
func (t Tree) ClearInstalled(name string, k Target) error {
	if err := files.Remove(t.PlacedFile(name, k)); err != nil {
		return err
	}
	return files.Remove(t.InstalledLink(name, k))
}

// Keep has the build of id for k, which is installed, outlive the package: it stays
// installed until another version is.
func (t Tree) Keep(id ID, k Target) error {
	kept := KeptID(id)
	to := t.TargetDir(kept, k)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	// An older one that is there cannot be installed, since this one is.
	if err := files.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(t.TargetDir(id, k), to); err != nil {
		return err
	}
	files.RemoveEmpty(filepath.Dir(t.TargetDir(id, k)), t.PackageDir(id))
	return t.SetInstalled(kept, k)
}

// healKept removes of a package that is [Package.Kept] the builds that are not installed
// any more, and records of the others that they are.
func (t Tree) healKept(p Package) error {
	if err := t.Heal(p.ID); err != nil {
		return err
	}
	for _, b := range p.Builds {
		var err error
		if !b.Installed {
			err = t.RemoveBuild(p.ID, b.Target)
		} else if t.InstalledVersion(p.Name, b.Target) != p.Version {
			err = t.SetInstalled(p.ID, b.Target)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// RemoveBuild removes the build of id for k, if there is one.
func (t Tree) RemoveBuild(id ID, k Target) error {
	dir := t.TargetDir(id, k)
	// The build is gone once it is renamed: if the removal is cut short, what is
	// left does not count as a build.
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
	top := t.PackageDir(id)
	if id != id.Unkept() {
		top = t.Dir // it has nothing but builds
	}
	files.RemoveEmpty(filepath.Dir(dir), top)
	return nil
}

// Unregister removes a package that has no builds from the tree, with its
// archives: a directory M/V that stays counts as a broken package as long as there
// is a source M-V in [Tree.Sources].
func (t Tree) Unregister(id ID) error {
	if err := files.RemoveAll(t.TarballDir(id)); err != nil {
		return err
	}
	if err := files.RemoveAll(t.BuildDir(id)); err != nil {
		return err
	}
	if err := t.removeUnfinished(id); err != nil {
		return err
	}
	// The link goes last: without it, [Tree.Heal] leaves the directory alone.
	if err := files.Remove(t.SourceDir(id)); err != nil {
		return err
	}
	files.RemoveEmpty(t.PackageDir(id), t.Dir)
	return nil
}

// removeUnfinished removes the directories K/A of id that have no modules: killed
// runs left them.
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
