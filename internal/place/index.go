// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"bytes"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
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
	index, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	known := map[string]bool{}
	for line := range bytes.Lines(index) {
		path, _, _ := bytes.Cut(line, []byte(":"))
		known[string(path)] = true
	}
	for _, p := range list {
		for _, m := range p.Modules {
			rel, err := filepath.Rel(k.Dir, k.dest(m))
			if err == nil && m.Location != "" && !known[rel] && files.Exists(k.dest(m)) {
				return true
			}
		}
	}
	return false
}

func modified(st unix.Stat_t) time.Duration { return time.Duration(st.Mtim.Nano()) }
func changed(st unix.Stat_t) time.Duration  { return time.Duration(st.Ctim.Nano()) }
