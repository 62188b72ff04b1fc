// SPDX-License-Identifier: GPL-2.0-or-later

package fsck

import (
	"maps"
	"os"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/tree"
)

// originals looks at the archives of what packages called name displaced.
func (c *checker) originals(name string) {
	top := filepath.Dir(filepath.Dir(c.m.Tree.OriginalDir(name, tree.Target{Release: "K", Arch: "A"})))
	for k := range c.views {
		c.archive(name, k)
	}
	for _, pattern := range []string{"", "*", "*/*"} {
		paths, _ := filepath.Glob(filepath.Join(top, pattern))
		for _, path := range paths {
			if fi, err := os.Lstat(path); err == nil && !fi.IsDir() {
				c.alien(path)
			}
		}
	}
	if _, err := os.ReadDir(top); err != nil && files.Exists(top) {
		c.unknown(top, err)
	}
}

// archive looks at the archive of what packages called name displaced for k.
func (c *checker) archive(name string, k tree.Target) {
	dir, modules := c.m.Tree.OriginalDir(name, k), c.m.Modules(k)
	flaws, err := modules.Flaws(name)
	if err != nil {
		c.unknown(dir, err)
	}
	for _, path := range slices.Sorted(maps.Keys(flaws)) {
		if is := flaws[path]; is != "" {
			c.add(Finding{Path: path, Is: is, Lost: "the module that was there before " + name + ": install again the package that brings " + k.Release + ", or what else it is from, once " + name + " is removed"})
			continue
		}
		origin, _ := os.ReadFile(path)
		c.add(Finding{Path: path, Is: "the module that was there before is gone", Do: "it is removed", mend: remove(path),
			Lost: "what was in " + string(origin[:max(len(origin)-1, 0)]) + ": install again what brings it, once " + name + " is removed"})
	}
	if !files.Exists(dir) || c.m.Tree.InstalledVersion(name, k) != "" {
		return
	}
	recorded, _ := modules.Recorded(name)
	if _, how := c.version(name, k, "", recorded); how != "" {
		return // the link is what is gone
	}
	c.add(Finding{Path: dir, Is: "nothing of " + name + " is installed that has displaced what it holds", Do: "what it holds goes back to where it was",
		mend: func() error {
			_, _, err := modules.Uninstall(place.Placement{ID: tree.ID{Name: name}, Others: observe.Installed(c.seen.Packages, k)})
			files.RemoveEmpty(filepath.Join(c.m.Tree.Dir, name), c.m.Tree.Dir)
			return err
		}})
}
