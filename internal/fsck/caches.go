// SPDX-License-Identifier: GPL-2.0-or-later

package fsck

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/store"
)

// caches looks at what may be removed at any time, and then is made again.
func (c *checker) caches() {
	for _, dir := range []string{c.m.CacheDir(), c.m.CacheFile("builds"), c.m.CacheFile("files")} {
		if fi, err := os.Lstat(dir); err == nil && !fi.IsDir() {
			c.add(Finding{Path: dir, Is: "it is no directory", Do: "it is moved aside", mend: func() error { return c.aside(dir) }})
		}
	}
	if dir, ok := c.m.Store.(*store.Dir); ok {
		for path, err := range dir.Damaged() {
			c.add(Finding{Path: path, Is: err.Error(), Do: "it is removed", mend: remove(path)})
		}
	}
	for _, pattern := range []string{"*.json", "files/*"} {
		paths, _ := filepath.Glob(c.m.CacheFile(pattern))
		for _, path := range paths {
			if text, err := os.ReadFile(path); err != nil {
				c.unknown(path, err)
			} else if !json.Valid(text) && !files.IsTemp(filepath.Base(path)) {
				c.add(Finding{Path: path, Is: "it cannot be read", Do: "it is removed", mend: remove(path)})
			}
		}
	}
	c.hashes()
}

// hashes compares the hashes of sources and headers in the cache with what they are of.
func (c *checker) hashes() {
	fresh, cached := fingerprint.OpenHashes(""), c.m.Hashes.Again()
	compare := func(path string, hash func(*fingerprint.Hashes) (string, error)) {
		if c.ctx.Err() != nil {
			return
		}
		now, err := hash(fresh)
		kept, errKept := hash(cached)
		if err == nil && (errKept != nil || kept != now) {
			c.add(Finding{Path: c.m.CacheFile("hashes.json"), Is: "its hash of " + path + " is a wrong one", Do: "it is removed, with the directory files", mend: func() error {
				return errors.Join(c.m.Hashes.Drop(), files.RemoveAll(c.m.CacheFile("files")))
			}})
		}
	}
	for _, p := range c.seen.Packages {
		if !p.Broken() {
			compare(p.Source, func(h *fingerprint.Hashes) (string, error) {
				return h.Source(p.Source, filepath.Join(c.m.EtcDir(), p.Name))
			})
		}
	}
	for k, view := range c.views {
		if dir := c.m.Kernel(k).SourceDir; view.Headers {
			compare(dir, func(h *fingerprint.Hashes) (string, error) {
				return h.Headers(dir, filepath.Join(c.m.Kernel(k).Dir, "source"))
			})
		}
	}
}
