// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"dkms-kernel-install/internal/codec"
)

// Info is what a module says of itself: fields of its ELF header, and of its .modinfo section those that modinfo(8)
// shows under the same names. A field that a module does not have is empty; of one that it has more than once, the
// first counts, as it does for the kernel.
type Info struct {
	Class   elf.Class
	Data    elf.Data
	Type    elf.Type
	Machine elf.Machine

	Name       string // as the kernel knows it, with "_" where the file's name may have "-"
	Version    string
	SrcVersion string
	VerMagic   string // "6.12.48+deb13-amd64 SMP preempt mod_unload modversions"
}

// Release is the kernel release that the module is for: the first word of its vermagic.
func (i Info) Release() string {
	release, _, _ := strings.Cut(i.VerMagic, " ")
	return release
}

// ReadInfo reads the Info of the module in the file at path, which may be compressed. Of an uncompressed one it reads
// the few kilobytes that it needs.
func ReadInfo(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	size, c, err := probe(f)
	if err != nil {
		return Info{}, fmt.Errorf("read %s: %w", path, err)
	}
	r := io.ReaderAt(f)
	if c != codec.None {
		module, err := decompress(f, size, c, MaxSize)
		if err != nil {
			return Info{}, fmt.Errorf("read %s: %w", path, err)
		}
		r, size = bytes.NewReader(module), int64(len(module))
	}
	info, err := parseInfo(r, size)
	if err != nil {
		return Info{}, fmt.Errorf("%s: %w", path, err)
	}
	return info, nil
}

// Check reports whether module, of size bytes and not compressed, is one that the kernel of the given release and
// architecture (as in uname -m) could load: a whole ELF relocatable file for that machine, with a vermagic for that
// release. The error says what was found and what was expected. Of a large module it reads a few kilobytes.
//
// For an architecture that this package does not know, the machine is not checked: the kernel's own headers chose it,
// and the kernel looks again when it loads the module.
func Check(module io.ReaderAt, size int64, arch, release string) error {
	if size > MaxSize {
		return fmt.Errorf("it has %d bytes, a module may have %d at most", size, MaxSize)
	}
	info, err := parseInfo(module, size)
	if err != nil {
		return err
	}
	if info.Type != elf.ET_REL {
		return fmt.Errorf("is an ELF file of type %v, a kernel module has %v", info.Type, elf.ET_REL)
	}
	if want := targets(arch); len(want) > 0 {
		found := target{info.Machine, info.Class, info.Data}
		ok := false
		for _, t := range want {
			ok = ok || t.matches(found)
		}
		if !ok {
			return fmt.Errorf("is for the machine %v, a module for %s has %v", found, arch, want[0])
		}
	}
	if info.VerMagic == "" {
		return errors.New("has no vermagic: the build did not get as far as modpost's last step")
	}
	if info.Release() != release {
		return fmt.Errorf("is built for the kernel %q, expected %q", info.Release(), release)
	}
	return nil
}

// target is what the kernel compares in the header of a module's ELF file.
type target struct {
	machine elf.Machine
	class   elf.Class
	data    elf.Data // ELFDATANONE: either
}

func (t target) matches(found target) bool {
	return t.machine == found.machine && t.class == found.class && (t.data == elf.ELFDATANONE || t.data == found.data)
}

func (t target) String() string {
	return fmt.Sprintf("%v/%v/%v", t.machine, t.class, t.data)
}

// targets returns what modules for arch may be, the usual first; none for an architecture that is not known.
//
// A 32-bit name stands for the 64-bit kernel of the family too: under the 32-bit personality, as in containers,
// uname -m is the 32-bit name, while what is built is for the kernel that runs.
func targets(arch string) []target {
	const (
		c32, c64    = elf.ELFCLASS32, elf.ELFCLASS64
		little, big = elf.ELFDATA2LSB, elf.ELFDATA2MSB
		either      = elf.ELFDATANONE
	)
	if strings.HasPrefix(arch, "armv") { // armv6l, armv7l, armv5tel, …; armv7b
		data := little
		if strings.HasSuffix(arch, "b") {
			data = big
		}
		return []target{{elf.EM_ARM, c32, data}, {elf.EM_AARCH64, c64, data}}
	}
	switch arch {
	case "x86_64":
		return []target{{elf.EM_X86_64, c64, little}}
	case "i386", "i486", "i586", "i686":
		return []target{{elf.EM_386, c32, little}, {elf.EM_X86_64, c64, little}}
	case "aarch64":
		return []target{{elf.EM_AARCH64, c64, little}}
	case "aarch64_be":
		return []target{{elf.EM_AARCH64, c64, big}}
	case "riscv64":
		return []target{{elf.EM_RISCV, c64, little}}
	case "riscv32":
		return []target{{elf.EM_RISCV, c32, little}, {elf.EM_RISCV, c64, little}}
	case "ppc64le":
		return []target{{elf.EM_PPC64, c64, little}}
	case "ppc64":
		return []target{{elf.EM_PPC64, c64, big}}
	case "ppc":
		return []target{{elf.EM_PPC, c32, big}, {elf.EM_PPC64, c64, big}}
	case "s390x":
		return []target{{elf.EM_S390, c64, big}}
	case "s390":
		return []target{{elf.EM_S390, c32, big}, {elf.EM_S390, c64, big}}
	case "loongarch64":
		return []target{{elf.EM_LOONGARCH, c64, little}}
	case "mips64": // the name does not tell the byte order
		return []target{{elf.EM_MIPS, c64, either}}
	case "mips":
		return []target{{elf.EM_MIPS, c32, either}, {elf.EM_MIPS, c64, either}}
	case "sparc64":
		return []target{{elf.EM_SPARCV9, c64, big}}
	case "sparc":
		return []target{{elf.EM_SPARC, c32, big}, {elf.EM_SPARCV9, c64, big}}
	case "parisc64":
		return []target{{elf.EM_PARISC, c64, big}}
	case "parisc":
		return []target{{elf.EM_PARISC, c32, big}, {elf.EM_PARISC, c64, big}}
	case "alpha":
		return []target{{elf.EM_ALPHA, c64, little}}
	case "ia64":
		return []target{{elf.EM_IA_64, c64, little}}
	case "m68k":
		return []target{{elf.EM_68K, c32, big}}
	default:
		return nil
	}
}

// maxSection bounds in bytes what is read of a section. The .modinfo sections and section name tables of real
// modules are far smaller.
const maxSection = 16 << 20

// section is the part of a section header that matters here.
type section struct {
	name         uint32
	typ          elf.SectionType
	offset, size uint64
}

// parseInfo reads the Info of the module in r, which has size bytes and is not compressed. A signature after the
// module does not disturb it. It is an error if it is not a whole ELF file, or has no .modinfo section.
//
// It does not use the parser of debug/elf, which by its own documentation may panic or use much memory on malformed
// files. Like the kernel it knows no extended section
// numbering, so that a file has 65535 sections at most.
func parseInfo(r io.ReaderAt, size int64) (Info, error) {
	var info Info
	ident, err := readRange(r, size, 0, elf.EI_NIDENT)
	if err != nil || string(ident[:len(elf.ELFMAG)]) != elf.ELFMAG {
		return Info{}, errors.New("is not an ELF file")
	}
	info.Class = elf.Class(ident[elf.EI_CLASS])
	info.Data = elf.Data(ident[elf.EI_DATA])
	var order binary.ByteOrder
	switch info.Data {
	case elf.ELFDATA2LSB:
		order = binary.LittleEndian
	case elf.ELFDATA2MSB:
		order = binary.BigEndian
	default:
		return Info{}, fmt.Errorf("bad ELF header: data encoding %d", ident[elf.EI_DATA])
	}

	var h elf.Header64
	var entrySize int
	switch info.Class {
	case elf.ELFCLASS32:
		var h32 elf.Header32
		if err := readStruct(r, size, order, &h32); err != nil {
			return Info{}, err
		}
		h = elf.Header64{Type: h32.Type, Machine: h32.Machine, Shoff: uint64(h32.Shoff),
			Shentsize: h32.Shentsize, Shnum: h32.Shnum, Shstrndx: h32.Shstrndx}
		entrySize = binary.Size(elf.Section32{})
	case elf.ELFCLASS64:
		if err := readStruct(r, size, order, &h); err != nil {
			return Info{}, err
		}
		entrySize = binary.Size(elf.Section64{})
	default:
		return Info{}, fmt.Errorf("bad ELF header: class %d", ident[elf.EI_CLASS])
	}
	info.Type = elf.Type(h.Type)
	info.Machine = elf.Machine(h.Machine)
	if h.Shnum == 0 {
		return Info{}, errors.New("is an ELF file without sections")
	}
	if int(h.Shentsize) != entrySize || h.Shstrndx >= h.Shnum {
		return Info{}, errors.New("bad ELF header: section header table")
	}

	table, err := readRange(r, size, h.Shoff, uint64(h.Shnum)*uint64(entrySize))
	if err != nil {
		return Info{}, fmt.Errorf("section headers: %w", err)
	}
	sections := make([]section, h.Shnum)
	for i := range sections {
		s := &sections[i]
		if err := s.decode(table[i*entrySize:(i+1)*entrySize], order, info.Class); err != nil {
			return Info{}, err
		}
		// A linker that ran out of disk leaves such a file, and the kernel refuses it.
		if s.typ != elf.SHT_NULL && s.typ != elf.SHT_NOBITS &&
			(s.offset > uint64(size) || s.size > uint64(size)-s.offset) {
			return Info{}, fmt.Errorf("truncated: section %d has %d bytes at %d in a file of %d: %w",
				i, s.size, s.offset, size, io.ErrUnexpectedEOF)
		}
	}

	names, err := sections[h.Shstrndx].data(r, size)
	if err != nil {
		return Info{}, fmt.Errorf("section names: %w", err)
	}
	for _, s := range sections {
		if uint64(s.name) > uint64(len(names)) || !bytes.HasPrefix(names[s.name:], []byte(".modinfo\x00")) {
			continue
		}
		data, err := s.data(r, size)
		if err != nil {
			return Info{}, fmt.Errorf(".modinfo: %w", err)
		}
		info.setFields(data)
		return info, nil
	}
	return Info{}, errors.New("has no .modinfo section: it is not a kernel module")
}

// readStruct reads v, a struct of package elf, from the beginning of r.
func readStruct(r io.ReaderAt, size int64, order binary.ByteOrder, v any) error {
	buf, err := readRange(r, size, 0, uint64(binary.Size(v)))
	if err != nil {
		return fmt.Errorf("ELF header: %w", err)
	}
	_, err = binary.Decode(buf, order, v)
	return err
}

// decode sets s from a section header.
func (s *section) decode(entry []byte, order binary.ByteOrder, class elf.Class) error {
	if class == elf.ELFCLASS32 {
		var h elf.Section32
		if _, err := binary.Decode(entry, order, &h); err != nil {
			return err
		}
		*s = section{h.Name, elf.SectionType(h.Type), uint64(h.Off), uint64(h.Size)}
		return nil
	}
	var h elf.Section64
	if _, err := binary.Decode(entry, order, &h); err != nil {
		return err
	}
	*s = section{h.Name, elf.SectionType(h.Type), h.Off, h.Size}
	return nil
}

// data returns the content of s.
func (s section) data(r io.ReaderAt, size int64) ([]byte, error) {
	if s.typ == elf.SHT_NULL || s.typ == elf.SHT_NOBITS {
		return nil, nil
	}
	if s.size > maxSection {
		return nil, fmt.Errorf("the section has %d bytes, %d at most are supported", s.size, maxSection)
	}
	return readRange(r, size, s.offset, s.size)
}

// setFields sets the fields of i from a .modinfo section: "key=value" strings, each with one or more zero bytes
// after it.
func (i *Info) setFields(modinfo []byte) {
	for entry := range bytes.SplitSeq(modinfo, []byte{0}) {
		key, value, ok := strings.Cut(string(entry), "=")
		if !ok {
			continue
		}
		var field *string
		switch key {
		case "name":
			field = &i.Name
		case "version":
			field = &i.Version
		case "srcversion":
			field = &i.SrcVersion
		case "vermagic":
			field = &i.VerMagic
		default:
			continue
		}
		if *field == "" {
			*field = value
		}
	}
}
