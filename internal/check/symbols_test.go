// SPDX-License-Identifier: GPL-2.0-or-later

package check

import (
	"os"
	"path/filepath"
	"testing"

	"dkms-kernel-install/internal/kernel"
)

func TestCompare(t *testing.T) {
	const has = "0x00000001\tone\tvmlinux\tEXPORT_SYMBOL\t\n0xfffffffe\ttwo\tdrivers/m\tEXPORT_SYMBOL_GPL\tNS\nnot a line\n0x00000007\tthree\tvmlinux\tEXPORT_SYMBOL\n"
	for name, test := range map[string]struct {
		has   string
		wants map[string]uint32
		is    string
		bad   bool
	}{
		"fits":            {has, map[string]uint32{"one": 1, "two": 0xfffffffe}, "fits: all 2 symbols are those that it was built against", false},
		"differs":         {has, map[string]uint32{"one": 1, "two": 2, "four": 4}, "does not fit: 2 of 3 symbols differ: four (not there), two", true},
		"many":            {has, map[string]uint32{"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}, "does not fit: 6 of 6 symbols differ: a (not there), b (not there), c (not there), d (not there), e (not there), …", true},
		"no versions":     {has, nil, "unknown: the module has no versions of symbols (CONFIG_MODVERSIONS)", false},
		"kernel has none": {"0x00000000\tone\tvmlinux\tEXPORT_SYMBOL\n", map[string]uint32{"one": 1}, "unknown: the kernel has no versions of symbols (CONFIG_MODVERSIONS)", false},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "Module.symvers"), []byte(test.has), 0o644); err != nil {
			t.Fatal(err)
		}
		if is, bad := compare(test.wants, kernel.Dirs{Source: dir}.Kernel("6.1", "x86_64")); is != test.is || bad != test.bad {
			t.Errorf("%s: %q, %t", name, is, bad)
		}
	}
}
