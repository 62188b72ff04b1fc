// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"reflect"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/rules"
)

// Cache remembers what confs said, so that a run which finds nothing to do need
// not start bash to find out. What a conf reads besides its own files and the
// kernel's configuration is not watched: so the cache may say that there is
// nothing to do, and whatever is done goes by a fresh reading.
type Cache struct {
	file    string
	entries map[string]cached
}

type cached struct {
	Stamp string
	Conf  Conf
}

// OpenCache reads the cache in file. A file that is missing or damaged is an
// empty cache; an empty name is a cache that remembers nothing.
func OpenCache(file string) *Cache {
	entries, _ := files.ReadState[map[string]cached](file)
	return &Cache{file: file, entries: entries}
}

// Get returns what the conf of src said, if everything it was read from is as it
// was then.
func (c *Cache) Get(src Source, set Settings) (Conf, bool) {
	e, ok := c.entries[src.key()]
	if !ok || e.Stamp != src.stamp(set) {
		return Conf{}, false
	}
	return e.Conf, true
}

// Replace makes the cache remember confs, by their sources, and nothing else.
func (c *Cache) Replace(confs map[*Source]Conf, set Settings) error {
	if c.file == "" {
		return nil
	}
	fresh := map[string]cached{}
	for src, conf := range confs {
		fresh[src.key()] = cached{src.stamp(set), conf}
	}
	if reflect.DeepEqual(fresh, c.entries) {
		return nil
	}
	c.entries = fresh
	return files.WriteState(c.file, fresh, files.Options{})
}

// Remove removes the cache.
func (c *Cache) Remove() { os.Remove(c.file) }

func (s Source) key() string { return s.Module + "/" + s.Version }

// stamp changes with everything that a conf is read from.
func (s Source) stamp(set Settings) string {
	// Without fmt, of which there would be more than of anything else in a run that
	// finds nothing to do.
	b := append(make([]byte, 0, 1<<10), rules.Conf)
	for _, list := range [][]string{{set.AddonModulesDir}, s.Vars(set), s.Directives} {
		b = binary.NativeEndian.AppendUint32(b, uint32(len(list)))
		for _, text := range list {
			b = append(append(b, text...), 0)
		}
	}
	for _, file := range append(s.Files(set), s.KernelConfigFile) {
		var st unix.Stat_t
		if unix.Stat(file, &st) != nil {
			st = unix.Stat_t{}
		}
		b = files.AppendStamp(b, file, &st)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
