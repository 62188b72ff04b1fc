package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"strings"
	"testing"
)

// elfModule describes a module for the tests to build.
type elfModule struct {
	class   elf.Class
	data    elf.Data
	typ     elf.Type
	machine elf.Machine
	modinfo []string // "key=value"; nil: no .modinfo section
	text    []byte
}

// amd64Module is what a build for x86_64 makes.
func amd64Module(modinfo ...string) elfModule {
	return elfModule{
		class: elf.ELFCLASS64, data: elf.ELFDATA2LSB, typ: elf.ET_REL, machine: elf.EM_X86_64,
		modinfo: modinfo,
		text:    []byte("\x55\x31\xc0\xc3"),
	}
}

const testRelease = "6.12.48+deb13-amd64"

func testModule() []byte {
	return amd64Module("name=foo", "version=1.2", "vermagic="+testRelease+" SMP preempt mod_unload ").build()
}

// build returns the ELF file: header, .text, .modinfo, .shstrtab, section headers.
func (m elfModule) build() []byte {
	var order binary.ByteOrder = binary.LittleEndian
	if m.data == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}

	type sectionData struct {
		name string
		typ  elf.SectionType
		data []byte
	}
	sections := []sectionData{{".text", elf.SHT_PROGBITS, m.text}}
	if m.modinfo != nil {
		data := []byte(strings.Join(m.modinfo, "\x00") + "\x00")
		sections = append(sections, sectionData{".modinfo", elf.SHT_PROGBITS, data})
	}
	// The kernel's own modules have holes like this one.
	sections = append(sections, sectionData{".bss", elf.SHT_NOBITS, make([]byte, 1<<20)})
	names := "\x00"
	for _, s := range sections {
		names += s.name + "\x00"
	}
	names += ".shstrtab\x00"
	sections = append(sections, sectionData{".shstrtab", elf.SHT_STRTAB, []byte(names)})

	headerSize, entrySize := binary.Size(elf.Header64{}), binary.Size(elf.Section64{})
	if m.class == elf.ELFCLASS32 {
		headerSize, entrySize = binary.Size(elf.Header32{}), binary.Size(elf.Section32{})
	}
	body := make([]byte, headerSize)
	headers := make([]byte, entrySize)
	for _, s := range sections {
		name := uint32(strings.Index(names, "\x00"+s.name+"\x00") + 1)
		var h any = elf.Section64{Name: name, Type: uint32(s.typ), Off: uint64(len(body)), Size: uint64(len(s.data))}
		if m.class == elf.ELFCLASS32 {
			h = elf.Section32{Name: name, Type: uint32(s.typ), Off: uint32(len(body)), Size: uint32(len(s.data))}
		}
		headers, _ = binary.Append(headers, order, h)
		if s.typ != elf.SHT_NOBITS {
			body = append(body, s.data...)
		}
	}

	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(m.class), byte(m.data), byte(elf.EV_CURRENT)}
	count := uint16(len(sections) + 1)
	var h any = elf.Header64{Ident: ident, Type: uint16(m.typ), Machine: uint16(m.machine), Version: 1,
		Shoff: uint64(len(body)), Ehsize: uint16(headerSize),
		Shentsize: uint16(entrySize), Shnum: count, Shstrndx: count - 1}
	if m.class == elf.ELFCLASS32 {
		h = elf.Header32{Ident: ident, Type: uint16(m.typ), Machine: uint16(m.machine), Version: 1,
			Shoff: uint32(len(body)), Ehsize: uint16(headerSize),
			Shentsize: uint16(entrySize), Shnum: count, Shstrndx: count - 1}
	}
	header, _ := binary.Append(nil, order, h)
	copy(body, header)
	return append(body, headers...)
}

// TestBuilder tests the tests: the standard library has to read what build makes.
func TestBuilder(t *testing.T) {
	for _, m := range []elfModule{
		amd64Module("name=foo"),
		{class: elf.ELFCLASS32, data: elf.ELFDATA2MSB, typ: elf.ET_REL, machine: elf.EM_PPC, modinfo: []string{"name=foo"}},
	} {
		f, err := elf.NewFile(bytes.NewReader(m.build()))
		if err != nil {
			t.Fatal(err)
		}
		data, err := f.Section(".modinfo").Data()
		if err != nil || string(data) != "name=foo\x00" {
			t.Errorf("%v: .modinfo = %q, %v", m.machine, data, err)
		}
	}
}
