// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/kmod/kmodtest"
)

// versioned returns a module with the content of the sections that have versions.
func versioned(class elf.Class, data elf.Data, table, crcs, names []byte) []byte {
	return kmodtest.Module{Class: class, Data: data, Type: elf.ET_REL, Machine: elf.EM_X86_64, Modinfo: []string{"name=m"}, Versions: table, LongCRCs: crcs, LongNames: names}.Build()
}

// entry is one of __versions, with an unsigned long of that many bytes.
func entry(order binary.AppendByteOrder, long int, crc uint32, name string) []byte {
	b := order.AppendUint32(nil, crc)
	if long == 8 {
		b = order.AppendUint64(nil, uint64(crc))
	}
	return append(b, name+strings.Repeat("\x00", 64-long-len(name))...)
}

func TestVersions(t *testing.T) {
	little, big := binary.LittleEndian, binary.BigEndian
	long := strings.Repeat("long", 20)
	for name, test := range map[string]struct {
		module []byte
		want   map[string]uint32
		err    string
	}{
		"none": {testModule(), map[string]uint32{}, ""},
		"64 bits": {versioned(elf.ELFCLASS64, elf.ELFDATA2LSB, append(entry(little, 8, 1, "module_layout"), entry(little, 8, 0xfedcba98, "kmalloc")...), nil, nil),
			map[string]uint32{"module_layout": 1, "kmalloc": 0xfedcba98}, ""},
		"32 bits, big-endian": {versioned(elf.ELFCLASS32, elf.ELFDATA2MSB, entry(big, 4, 7, "printk"), nil, nil), map[string]uint32{"printk": 7}, ""},
		"long names": {versioned(elf.ELFCLASS64, elf.ELFDATA2LSB, entry(little, 8, 1, "a"), []byte{2, 0, 0, 0, 3, 0, 0, 0}, []byte(long+"\x00b\x00")),
			map[string]uint32{"a": 1, long: 2, "b": 3}, ""},
		"cut short":  {versioned(elf.ELFCLASS64, elf.ELFDATA2LSB, make([]byte, 63), nil, nil), nil, "63 bytes"},
		"no module":  {[]byte("text"), nil, "not an ELF file"},
		"no name":    {versioned(elf.ELFCLASS64, elf.ELFDATA2LSB, []byte(strings.Repeat("x", 64)), nil, nil), map[string]uint32{strings.Repeat("x", 56): 0x78787878}, ""},
		"half a CRC": {versioned(elf.ELFCLASS64, elf.ELFDATA2LSB, nil, []byte{1, 2, 3}, []byte("a\x00")), map[string]uint32{}, ""},
	} {
		got, err := Versions(test.module)
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
		if (err != nil) != (test.err != "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: %v, want %q", name, err, test.err)
		}
	}
}

func FuzzVersions(f *testing.F) {
	f.Add(testModule())
	f.Add(versioned(elf.ELFCLASS64, elf.ELFDATA2LSB, entry(binary.LittleEndian, 8, 1, "a"), []byte{2, 0, 0, 0}, []byte("b\x00")))
	f.Add(versioned(elf.ELFCLASS32, elf.ELFDATA2MSB, entry(binary.BigEndian, 4, 1, "a"), nil, nil))
	f.Fuzz(func(t *testing.T, module []byte) {
		if crcs, err := Versions(module); err != nil && crcs != nil {
			t.Errorf("%v together with the error %v", crcs, err)
		}
	})
}
