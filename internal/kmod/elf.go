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

	"dkms-kernel-install/internal/codec"
)

// maxSection bounds in bytes what is read of a section. The .modinfo sections and
// section name tables of real modules are far smaller.
const maxSection = 16 << 20

// elfFile is a whole ELF file. It is not read with debug/elf, which by its own
// documentation may panic or use much memory on malformed files; only the structures
// and constants are from there.
type elfFile struct {
	data     *io.SectionReader
	class    elf.Class
	encoding elf.Data
	typ      elf.Type
	machine  elf.Machine
	sections []section
	names    []byte // the section name table
}

// section is the part of a section header that matters here.
type section struct {
	name         uint32
	typ          elf.SectionType
	flags        elf.SectionFlag
	offset, size uint64
}

// readELF reads the header of an ELF file and those of its sections, all of which
// must be in the file. Like the kernel it knows no extended section numbering, so
// that a file has 65535 sections at most.
func readELF(data *io.SectionReader) (*elfFile, error) {
	ident, err := codec.ReadRange(data, data.Size(), 0, elf.EI_NIDENT)
	if err != nil || string(ident[:len(elf.ELFMAG)]) != elf.ELFMAG {
		return nil, errors.New("is not an ELF file")
	}
	f := &elfFile{data: data, class: elf.Class(ident[elf.EI_CLASS]), encoding: elf.Data(ident[elf.EI_DATA])}
	var order binary.ByteOrder
	switch f.encoding {
	case elf.ELFDATA2LSB:
		order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		order = binary.BigEndian
	default:
		return nil, fmt.Errorf("bad ELF header: data encoding %d", f.encoding)
	}
	h, entrySize, err := f.header(order)
	if err != nil {
		return nil, err
	}
	f.typ, f.machine = elf.Type(h.Type), elf.Machine(h.Machine)
	if h.Shnum == 0 {
		return nil, errors.New("is an ELF file without sections")
	}
	if int(h.Shentsize) != entrySize || h.Shstrndx >= h.Shnum {
		return nil, errors.New("bad ELF header: section header table")
	}
	table, err := codec.ReadRange(data, data.Size(), int64(h.Shoff), int64(h.Shnum)*int64(entrySize))
	if err != nil {
		return nil, fmt.Errorf("section headers: %w", err)
	}
	if err := f.readSections(table, entrySize, order); err != nil {
		return nil, err
	}
	if f.names, err = f.content(f.sections[h.Shstrndx]); err != nil {
		return nil, fmt.Errorf("section names: %w", err)
	}
	return f, nil
}

// header reads the file's header, that of a 32-bit file into the 64-bit form too,
// and returns how large the file's section headers must be.
func (f *elfFile) header(order binary.ByteOrder) (h elf.Header64, entrySize int, err error) {
	switch f.class {
	case elf.ELFCLASS32:
		var h32 elf.Header32
		err = f.readStruct(order, &h32)
		h = elf.Header64{Type: h32.Type, Machine: h32.Machine, Shoff: uint64(h32.Shoff),
			Shentsize: h32.Shentsize, Shnum: h32.Shnum, Shstrndx: h32.Shstrndx}
		return h, binary.Size(elf.Section32{}), err
	case elf.ELFCLASS64:
		err = f.readStruct(order, &h)
		return h, binary.Size(elf.Section64{}), err
	}
	return h, 0, fmt.Errorf("bad ELF header: class %d", f.class)
}

// readStruct reads v, a struct of package elf, from the beginning of the file.
func (f *elfFile) readStruct(order binary.ByteOrder, v any) error {
	buf, err := codec.ReadRange(f.data, f.data.Size(), 0, int64(binary.Size(v)))
	if err != nil {
		return fmt.Errorf("ELF header: %w", err)
	}
	_, err = binary.Decode(buf, order, v)
	return err
}

// readSections reads the section headers in table.
func (f *elfFile) readSections(table []byte, entrySize int, order binary.ByteOrder) error {
	size := uint64(f.data.Size())
	for entry := range slices.Chunk(table, entrySize) {
		s, err := decodeSection(entry, order, f.class)
		if err != nil {
			return err
		}
		// A linker that ran out of disk leaves such a file, and the kernel refuses it.
		if s.inFile() && (s.offset > size || s.size > size-s.offset) {
			return fmt.Errorf("truncated: section %d has %d bytes at %d in a file of %d: %w",
				len(f.sections), s.size, s.offset, size, io.ErrUnexpectedEOF)
		}
		f.sections = append(f.sections, s)
	}
	return nil
}

func decodeSection(entry []byte, order binary.ByteOrder, class elf.Class) (section, error) {
	if class == elf.ELFCLASS32 {
		var h elf.Section32
		_, err := binary.Decode(entry, order, &h)
		return section{h.Name, elf.SectionType(h.Type), elf.SectionFlag(h.Flags), uint64(h.Off), uint64(h.Size)}, err
	}
	var h elf.Section64
	_, err := binary.Decode(entry, order, &h)
	return section{h.Name, elf.SectionType(h.Type), elf.SectionFlag(h.Flags), h.Off, h.Size}, err
}

// inFile reports whether the section has content in the file.
func (s section) inFile() bool { return s.typ != elf.SHT_NULL && s.typ != elf.SHT_NOBITS }

// content returns the content of a section.
func (f *elfFile) content(s section) ([]byte, error) {
	if !s.inFile() {
		return nil, nil
	}
	if s.size > maxSection {
		return nil, fmt.Errorf("the section has %d bytes, %d at most are supported", s.size, maxSection)
	}
	return codec.ReadRange(f.data, f.data.Size(), int64(s.offset), int64(s.size))
}

// loaded returns the content of the section with this name that the kernel loads. Like
// the kernel it passes over those without SHF_ALLOC. Several are an error: which of them
// counts is not the same in all kernels.
func (f *elfFile) loaded(name string) ([]byte, error) {
	found := f.find(name)
	if len(found) == 0 {
		return nil, fmt.Errorf("has no %s section: it is not a kernel module (one without SHF_ALLOC does not count)", name)
	}
	return f.only(name, found)
}

// optional is like loaded, but the section need not be there.
func (f *elfFile) optional(name string) ([]byte, error) {
	found := f.find(name)
	if len(found) == 0 {
		return nil, nil
	}
	return f.only(name, found)
}

// find returns the sections with this name that the kernel loads.
func (f *elfFile) find(name string) (found []section) {
	for _, s := range f.sections {
		if s.flags&elf.SHF_ALLOC != 0 && uint64(s.name) <= uint64(len(f.names)) && bytes.HasPrefix(f.names[s.name:], []byte(name+"\x00")) {
			found = append(found, s)
		}
	}
	return found
}

// only returns the content of the one section that was found.
func (f *elfFile) only(name string, found []section) ([]byte, error) {
	if len(found) > 1 {
		return nil, fmt.Errorf("has %d %s sections, a kernel module has one", len(found), name)
	}
	content, err := f.content(found[0])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return content, nil
}
