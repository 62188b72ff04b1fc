// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Versions returns the versions of the symbols that a module, which is not compressed, wants of
// other modules and of the kernel: their checksums by name, as the kernel's modpost notes them
// with CONFIG_MODVERSIONS. Without that the map is empty. See the kernel's
// Documentation/kbuild/modules.rst.
func Versions(module []byte) (map[string]uint32, error) {
	data := bytes.NewReader(module)
	size, err := unsignedSize(data, int64(len(module)))
	if err != nil {
		return nil, err
	}
	f, err := readELF(io.NewSectionReader(data, 0, size))
	if err != nil {
		return nil, err
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if f.encoding == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	crcs := map[string]uint32{}
	// An entry is an unsigned long, and the name.
	const entry = 64
	word := 8
	if f.class == elf.ELFCLASS32 {
		word = 4
	}
	table, err := f.optional("__versions")
	long, errLong := f.optional("__version_ext_crcs") // of names that do not fit
	names, errNames := f.optional("__version_ext_names")
	if err = errors.Join(err, errLong, errNames); err != nil {
		return nil, err
	}
	if len(table)%entry != 0 {
		return nil, fmt.Errorf("__versions: it has %d bytes, and an entry has %d", len(table), entry)
	}
	for e := range slices.Chunk(table, entry) {
		crc := uint64(order.Uint32(e))
		if word == 8 {
			crc = order.Uint64(e)
		}
		name, _, _ := bytes.Cut(e[word:], []byte{0})
		crcs[string(name)] = uint32(crc)
	}
	for len(long) >= 4 && len(names) > 0 {
		name, rest, _ := bytes.Cut(names, []byte{0})
		crcs[string(name)] = order.Uint32(long)
		long, names = long[4:], rest
	}
	return crcs, nil
}
