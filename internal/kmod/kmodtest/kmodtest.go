// SPDX-License-Identifier: GPL-2.0-or-later

// Package kmodtest makes kernel modules for tests: small ELF files that have all that a check, strip(1) and the tools
// of kmod look at, and that no compiler is needed for.
package kmodtest

import (
	"debug/elf"
	"encoding/binary"
	"fmt"
	"strings"
)

// Module describes a module to build.
type Module struct {
	Class   elf.Class
	Data    elf.Data
	Type    elf.Type
	Machine elf.Machine
	Modinfo []string // "key=value"; nil: no .modinfo section
	Text    []byte
	// Unloaded is Modinfo of a section of that name before the real one that the kernel does not load, and Second that
	// of one behind it that it does; nil: no such section.
	Unloaded, Second []string
	Debug            []byte // content of .debug_info, which strip -g removes; nil: no such section
	// Versions, LongCRCs and LongNames are the content of __versions, __version_ext_crcs and __version_ext_names; nil: no
	// such section.
	Versions, LongCRCs, LongNames []byte
}

// AMD64 is what a build for x86_64 makes.
func AMD64(modinfo ...string) Module {
	return Module{
		Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Type: elf.ET_REL, Machine: elf.EM_X86_64,
		Modinfo: modinfo,
		Text:    []byte("\x55\x31\xc0\xc3"),
	}
}

// For is what a build for the architecture makes, which is named as by uname -m.
func For(arch string, modinfo ...string) (Module, error) {
	m := AMD64(modinfo...)
	switch arch {
	case "x86_64":
	case "aarch64":
		m.Machine = elf.EM_AARCH64
	case "riscv64":
		m.Machine = elf.EM_RISCV
	case "ppc64le":
		m.Machine = elf.EM_PPC64
	case "s390x":
		m.Machine, m.Data = elf.EM_S390, elf.ELFDATA2MSB
	default:
		return m, fmt.Errorf("kmodtest makes no modules for %s", arch)
	}
	return m, nil
}

type sectionData struct {
	name  string
	typ   elf.SectionType
	flags elf.SectionFlag
	data  []byte
}

// sections returns those of the file, in order, and the content of the last one: their names.
func (m Module) sections() (list []sectionData, names string) {
	list = []sectionData{{".text", elf.SHT_PROGBITS, elf.SHF_ALLOC | elf.SHF_EXECINSTR, m.Text}}
	modinfo := func(flags elf.SectionFlag, entries []string) {
		if entries != nil {
			data := []byte(strings.Join(entries, "\x00") + "\x00")
			list = append(list, sectionData{".modinfo", elf.SHT_PROGBITS, flags, data})
		}
	}
	modinfo(0, m.Unloaded)
	modinfo(elf.SHF_ALLOC, m.Modinfo)
	modinfo(elf.SHF_ALLOC, m.Second)
	versions := func(name string, data []byte) {
		if data != nil {
			list = append(list, sectionData{name, elf.SHT_PROGBITS, elf.SHF_ALLOC, data})
		}
	}
	versions("__versions", m.Versions)
	versions("__version_ext_crcs", m.LongCRCs)
	versions("__version_ext_names", m.LongNames)
	if m.Debug != nil {
		list = append(list, sectionData{".debug_info", elf.SHT_PROGBITS, 0, m.Debug})
	}
	// The kernel's own modules have holes like this one.
	list = append(list, sectionData{".bss", elf.SHT_NOBITS, elf.SHF_ALLOC | elf.SHF_WRITE, make([]byte, 1<<20)})
	names = "\x00"
	for _, s := range list {
		names += s.name + "\x00"
	}
	names += ".shstrtab\x00"
	return append(list, sectionData{".shstrtab", elf.SHT_STRTAB, 0, []byte(names)}), names
}

// Build returns the ELF file: header, .text, each .modinfo, .debug_info, .bss, .shstrtab, section headers.
func (m Module) Build() []byte {
	var order binary.ByteOrder = binary.LittleEndian
	if m.Data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	sections, names := m.sections()
	headerSize, entrySize := binary.Size(elf.Header64{}), binary.Size(elf.Section64{})
	if m.Class == elf.ELFCLASS32 {
		headerSize, entrySize = binary.Size(elf.Header32{}), binary.Size(elf.Section32{})
	}
	body := make([]byte, headerSize)
	headers := make([]byte, entrySize)
	for _, s := range sections {
		name := uint32(strings.Index(names, "\x00"+s.name+"\x00") + 1)
		var h any = elf.Section64{Name: name, Type: uint32(s.typ), Flags: uint64(s.flags), Off: uint64(len(body)), Size: uint64(len(s.data))}
		if m.Class == elf.ELFCLASS32 {
			h = elf.Section32{Name: name, Type: uint32(s.typ), Flags: uint32(s.flags), Off: uint32(len(body)), Size: uint32(len(s.data))}
		}
		headers, _ = binary.Append(headers, order, h)
		if s.typ != elf.SHT_NOBITS {
			body = append(body, s.data...)
		}
	}

	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(m.Class), byte(m.Data), byte(elf.EV_CURRENT)}
	count := uint16(len(sections) + 1)
	var h any = elf.Header64{Ident: ident, Type: uint16(m.Type), Machine: uint16(m.Machine), Version: 1,
		Shoff: uint64(len(body)), Ehsize: uint16(headerSize),
		Shentsize: uint16(entrySize), Shnum: count, Shstrndx: count - 1}
	if m.Class == elf.ELFCLASS32 {
		h = elf.Header32{Ident: ident, Type: uint16(m.Type), Machine: uint16(m.Machine), Version: 1,
			Shoff: uint32(len(body)), Ehsize: uint16(headerSize),
			Shentsize: uint16(entrySize), Shnum: count, Shstrndx: count - 1}
	}
	header, _ := binary.Append(nil, order, h)
	copy(body, header)
	return append(body, headers...)
}
