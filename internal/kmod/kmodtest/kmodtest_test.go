// SPDX-License-Identifier: GPL-2.0-or-later

package kmodtest

import (
	"bytes"
	"debug/elf"
	"testing"
)

// TestBuild tests the tests: the standard library has to read what Build makes.
func TestBuild(t *testing.T) {
	debug := AMD64("name=foo")
	debug.Debug = []byte("symbols")
	for _, m := range []Module{
		AMD64("name=foo"),
		debug,
		{Class: elf.ELFCLASS32, Data: elf.ELFDATA2MSB, Type: elf.ET_REL, Machine: elf.EM_PPC, Modinfo: []string{"name=foo"}},
	} {
		f, err := elf.NewFile(bytes.NewReader(m.Build()))
		if err != nil {
			t.Fatal(err)
		}
		data, err := f.Section(".modinfo").Data()
		if err != nil || string(data) != "name=foo\x00" {
			t.Errorf("%v: .modinfo = %q, %v", m.Machine, data, err)
		}
		if (f.Section(".debug_info") != nil) != (m.Debug != nil) {
			t.Errorf("%v: .debug_info is there: %v", m.Machine, m.Debug == nil)
		}
	}
}
