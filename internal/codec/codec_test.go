// SPDX-License-Identifier: GPL-2.0-or-later

package codec

import (
	"fmt"
	"testing"
)

func TestForArchive(t *testing.T) {
	for name, want := range map[string]string{
		"a": "0", "a.tar": "0", "a.dkms.tar.gz": "1", "a.tgz": "1", "a.tar.xz": "2", "a.txz": "2", "a.tar.zst": "3", "a.tzst": "3",
		"a.tar.bz2": "archives cannot be compressed as .bz2", "a.tbz": "archives cannot be compressed as .tbz", "a.rpm": "0",
	} {
		c, err := ForArchive(name)
		got := fmt.Sprint(int(c))
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}
