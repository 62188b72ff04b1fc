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

// Cache remembers Confs, so that a run need not start bash to find that there is
// nothing to do. It does not notice changes of what a conf reads besides its own
// files and the kernel's configuration. So it is good to decide whether there is
// anything to do, and to do it the conf is read again.
type Cache struct {
	file    string
	entries map[string]cached
}

type cached struct {
	Stamp string
	Conf  Conf
}

// OpenCache reads the cache in file, which is JSON. If the file is missing or
// damaged, the cache is empty. If file is "", the cache never remembers anything.
func OpenCache(file string) *Cache {
	entries, _ := files.ReadState[map[string]cached](file)
	return &Cache{file: file, entries: entries}
}

// Get returns the Conf of src. It reports false if the cache does not have it, or
// if something that it was read from changed since.
func (c *Cache) Get(src Source, set Settings) (Conf, bool) {
	e, ok := c.entries[src.key()]
	if !ok || e.Stamp != src.stamp(set) {
		return Conf{}, false
	}
	return e.Conf, true
}

// Replace makes the cache remember confs, by their sources, and nothing else. It
// writes the file if that changes anything.
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
	// Without fmt, which would take most of the time of a run that finds nothing to
	// do.
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
