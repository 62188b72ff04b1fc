// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
)

// Unindexed reports whether modules.dep(5) of the kernel lacks a module of one of list
// that is placed: the kernel's package was installed again, and brought its own. It reads
// the file only if that was not written where it is: unpacked, its last modification is
// older than its last change.
func (k *Kernel) Unindexed(list []Placement) bool {
	file := filepath.Join(k.Dir, "modules.dep")
	var st unix.Stat_t
	if unix.Stat(file, &st) != nil || changed(st)-modified(st) < 2*time.Second {
		return false
	}
	index := kmod.ReadList(file)
	for _, p := range list {
		for _, m := range p.Modules {
			rel, err := filepath.Rel(k.Dir, k.Path(m))
			if err == nil && m.Location != "" && index[kmod.ModuleName(m.File)] != rel && files.Exists(k.Path(m)) {
				return true
			}
		}
	}
	return false
}

func modified(st unix.Stat_t) time.Duration { return time.Duration(st.Mtim.Nano()) }
func changed(st unix.Stat_t) time.Duration  { return time.Duration(st.Ctim.Nano()) }
