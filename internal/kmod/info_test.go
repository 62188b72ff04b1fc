// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/kmod/kmodtest"
	"dkms-kernel-install/internal/testskip"
)

// parseBytes is parseInfo of a module in memory.
func parseBytes(module []byte) (Info, error) {
	return parseInfo(io.NewSectionReader(bytes.NewReader(module), 0, int64(len(module))))
}

func TestParseInfo(t *testing.T) {
	unloaded := kmodtest.AMD64("version=1")
	unloaded.Unloaded = []string{"name=foo", "version=2"}
	tests := []struct {
		name   string
		module []byte
		want   Info
	}{
		{
			"x86_64",
			kmodtest.AMD64("license=GPL", "version=1.2", "srcversion=ABC", "depends=", "name=foo",
				"vermagic=6.1 SMP mod_unload ").Build(),
			Info{elf.ELFCLASS64, elf.ELFDATA2LSB, elf.ET_REL, elf.EM_X86_64,
				"foo", "1.2", "ABC", "6.1 SMP mod_unload "},
		},
		{
			"32 bits, big-endian",
			kmodtest.Module{Class: elf.ELFCLASS32, Data: elf.ELFDATA2MSB, Type: elf.ET_REL, Machine: elf.EM_PPC,
				Modinfo: []string{"version=2"}}.Build(),
			Info{Class: elf.ELFCLASS32, Data: elf.ELFDATA2MSB, Type: elf.ET_REL, Machine: elf.EM_PPC, Version: "2"},
		},
		{
			"first of several, padding, text that is not a field, value with =",
			kmodtest.AMD64("", "", "junk", "version=a=b", "", "version=2", "=x").Build(),
			Info{Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Type: elf.ET_REL, Machine: elf.EM_X86_64, Version: "a=b"},
		},
		{
			"signed",
			appendSignature(kmodtest.AMD64("version=1").Build(), []byte("signature")),
			Info{Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Type: elf.ET_REL, Machine: elf.EM_X86_64, Version: "1"},
		},
		{
			"a .modinfo that is not loaded",
			unloaded.Build(),
			Info{Class: elf.ELFCLASS64, Data: elf.ELFDATA2LSB, Type: elf.ET_REL, Machine: elf.EM_X86_64, Version: "1"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseBytes(tt.module)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for _, c := range []codec.Compression{codec.None, codec.Gzip, codec.XZ, codec.Zstd} {
				path := filepath.Join(t.TempDir(), "foo.ko"+c.Suffix())
				writeCompressed(t, path, tt.module, c)
				got, err := ReadInfo(path)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tt.want, got); diff != "" {
					t.Errorf("ReadInfo, %v (-want +got)\n%s", c, diff)
				}
			}
		})
	}
}

func TestReadInfoErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.ko")
	if err := os.WriteFile(bad, []byte("no module"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{bad, dir, filepath.Join(dir, "missing.ko")} {
		_, err := ReadInfo(path)
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("ReadInfo(%s): error %v does not name the file", path, err)
		}
	}
}

// TestParseInfoTruncated cuts a module at every length. No part may pass for a whole one.
func TestParseInfoTruncated(t *testing.T) {
	module := testModule()
	for n := range module {
		if info, err := parseBytes(module[:n]); err == nil {
			t.Fatalf("the first %d of %d bytes give %+v", n, len(module), info)
		}
	}
}

func TestParseInfoBad(t *testing.T) {
	header64 := func(change func(*elf.Header64)) []byte {
		module := testModule()
		var h elf.Header64
		if _, err := binary.Decode(module, binary.LittleEndian, &h); err != nil {
			t.Fatal(err)
		}
		change(&h)
		if _, err := binary.Encode(module, binary.LittleEndian, h); err != nil {
			t.Fatal(err)
		}
		return module
	}
	section64 := func(name string, change func(*elf.Section64)) []byte {
		module := testModule()
		f, err := elf.NewFile(bytes.NewReader(module))
		if err != nil {
			t.Fatal(err)
		}
		var h elf.Header64
		binary.Decode(module, binary.LittleEndian, &h)
		for i, s := range f.Sections {
			if s.Name == name {
				entry := module[int(h.Shoff)+i*int(h.Shentsize):]
				var sh elf.Section64
				binary.Decode(entry, binary.LittleEndian, &sh)
				change(&sh)
				binary.Encode(entry, binary.LittleEndian, sh)
				return module
			}
		}
		t.Fatalf("no section %s", name)
		return nil
	}
	tests := []struct {
		name   string
		module []byte
		want   string
	}{
		{"empty", nil, "not an ELF file"},
		{"text", []byte(strings.Repeat("not a module\n", 100)), "not an ELF file"},
		{"no .modinfo", kmodtest.AMD64().Build(), "no .modinfo"},
		{"class", header64(func(h *elf.Header64) { h.Ident[elf.EI_CLASS] = 3 }), "class 3"},
		{"data", header64(func(h *elf.Header64) { h.Ident[elf.EI_DATA] = 9 }), "data encoding 9"},
		{"no sections", header64(func(h *elf.Header64) { h.Shnum = 0 }), "without sections"},
		{"entry size", header64(func(h *elf.Header64) { h.Shentsize = 1 }), "section header table"},
		{"names index", header64(func(h *elf.Header64) { h.Shstrndx = 0xffff }), "section header table"},
		{"table beyond the end", header64(func(h *elf.Header64) { h.Shoff = 1 << 40 }), "truncated"},
		{"table offset overflow", header64(func(h *elf.Header64) { h.Shoff = 1<<64 - 1 }), "truncated"},
		{"many sections", header64(func(h *elf.Header64) { h.Shnum = 0xffff }), "truncated"},
		{"section offset overflow", section64(".modinfo", func(s *elf.Section64) { s.Off = 1<<64 - 1 }), "truncated"},
		{"section size overflow", section64(".modinfo", func(s *elf.Section64) { s.Size = 1<<64 - 1 }), "truncated"},
		{"other section beyond the end", section64(".text", func(s *elf.Section64) { s.Size = 1 << 30 }), "truncated"},
		{"name beyond the names", section64(".modinfo", func(s *elf.Section64) { s.Name = 1<<32 - 1 }), "no .modinfo"},
		{"names without data", section64(".shstrtab", func(s *elf.Section64) { s.Type = uint32(elf.SHT_NOBITS) }), "no .modinfo"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parseBytes(tt.module)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	ko := func(machine elf.Machine, class elf.Class, data elf.Data) []byte {
		return kmodtest.Module{Class: class, Data: data, Type: elf.ET_REL, Machine: machine,
			Modinfo: []string{"vermagic=" + testRelease + " SMP"}}.Build()
	}
	const (
		c32, c64    = elf.ELFCLASS32, elf.ELFCLASS64
		little, big = elf.ELFDATA2LSB, elf.ELFDATA2MSB
	)
	executable := kmodtest.AMD64("vermagic=" + testRelease + " SMP")
	executable.Type = elf.ET_EXEC
	module := testModule()
	unloaded, alone, two := kmodtest.AMD64("vermagic=6.1 SMP"), kmodtest.AMD64(), kmodtest.AMD64("vermagic="+testRelease+" SMP")
	unloaded.Unloaded, alone.Unloaded, two.Second = two.Modinfo, two.Modinfo, two.Modinfo
	tests := []struct {
		name   string
		module []byte
		arch   string
		want   string // "": passes
	}{
		{"x86_64", module, "x86_64", ""},
		{"aarch64", ko(elf.EM_AARCH64, c64, little), "aarch64", ""},
		{"armv7l", ko(elf.EM_ARM, c32, little), "armv7l", ""},
		{"armv7b", ko(elf.EM_ARM, c32, big), "armv7b", ""},
		{"armv8l on a 64-bit kernel", ko(elf.EM_AARCH64, c64, little), "armv8l", ""},
		{"i686", ko(elf.EM_386, c32, little), "i686", ""},
		{"i686 on a 64-bit kernel", module, "i686", ""},
		{"riscv64", ko(elf.EM_RISCV, c64, little), "riscv64", ""},
		{"ppc64le", ko(elf.EM_PPC64, c64, little), "ppc64le", ""},
		{"ppc64", ko(elf.EM_PPC64, c64, big), "ppc64", ""},
		{"s390x", ko(elf.EM_S390, c64, big), "s390x", ""},
		{"loongarch64", ko(elf.EM_LOONGARCH, c64, little), "loongarch64", ""},
		{"mips64, big", ko(elf.EM_MIPS, c64, big), "mips64", ""},
		{"mips64, little", ko(elf.EM_MIPS, c64, little), "mips64", ""},
		{"mips", ko(elf.EM_MIPS, c32, little), "mips", ""},
		{"sparc64", ko(elf.EM_SPARCV9, c64, big), "sparc64", ""},
		{"unknown architecture", module, "pdp11", ""},
		{"signed", appendSignature(testModule(), []byte("signature")), "x86_64", ""},

		{"wrong machine", module, "aarch64",
			"is for the machine EM_X86_64/ELFCLASS64/ELFDATA2LSB, a module for aarch64 has EM_AARCH64/"},
		{"wrong class", ko(elf.EM_X86_64, c32, little), "x86_64", "is for the machine"},
		{"wrong byte order", ko(elf.EM_PPC64, c64, little), "ppc64", "is for the machine"},
		{"32 bits for 64", ko(elf.EM_386, c32, little), "x86_64", "is for the machine EM_386"},
		{"executable", executable.Build(), "x86_64", "type ET_EXEC, a kernel module has ET_REL"},
		{"no vermagic", kmodtest.AMD64("name=foo").Build(), "x86_64", "no vermagic"},
		{"wrong release", kmodtest.AMD64("vermagic=6.1 SMP").Build(), "x86_64",
			`built for the kernel "6.1", expected "` + testRelease + `"`},
		{"release is a prefix", kmodtest.AMD64("vermagic=" + testRelease + "-rt SMP").Build(), "x86_64", "built for the kernel"},
		{"wrong release, unknown architecture", kmodtest.AMD64("vermagic=6.1 SMP").Build(), "pdp11", "built for the kernel"},
		{"empty", nil, "x86_64", "not an ELF file"},
		{"text", []byte("#!/bin/sh\n"), "x86_64", "not an ELF file"},
		{"compressed", compressed(t, module, codec.XZ), "x86_64", "not an ELF file"},
		{"truncated", module[:len(module)/2], "x86_64", "truncated"},
		{"no .modinfo", kmodtest.AMD64().Build(), "x86_64", "no .modinfo"},
		{"signature over most of it", falseSignature(module, 100), "x86_64", "truncated"},
		{"signature over all of it", falseSignature(module, len(module)), "x86_64", "not an ELF file"},
		{"signature over more than all of it", falseSignature(module, len(module)+1), "x86_64", ""},
		{"unloaded .modinfo for this kernel", unloaded.Build(), "x86_64", "built for the kernel \"6.1\""},
		{"unloaded .modinfo alone", alone.Build(), "x86_64", "no .modinfo section"},
		{"two .modinfo", two.Build(), "x86_64", "has 2 .modinfo sections"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Check(bytes.NewReader(tt.module), int64(len(tt.module)), tt.arch, testRelease)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("unexpected error: %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

// falseSignature returns module with the end of a signature that claims its last n bytes.
func falseSignature(module []byte, n int) []byte {
	signed := appendSignature(module[:len(module):len(module)], nil)
	binary.BigEndian.PutUint32(signed[len(signed)-len(signatureMagic)-4:], uint32(n))
	return signed
}

func TestCheckName(t *testing.T) {
	tests := []struct {
		name  string
		files []string
		ok    bool
	}{
		{"foo", []string{"foo"}, true},
		{"foo_bar", []string{"foo-bar"}, true},
		{"foo_bar", []string{"foo_bar"}, true},
		{"foo_bar_2", []string{"foo,bar-2"}, true},
		{"foo", []string{"built", "foo"}, true},
		{"", []string{"foo"}, true}, // before Linux 4.13
		{"bar", []string{"foo"}, false},
		{"foo", []string{"foo-bar", "bar"}, false},
		{"foo-bar", []string{"foo_bar"}, true},
		{"Foo", []string{"foo"}, false},
	}
	for _, tt := range tests {
		if err := (Info{Name: tt.name}).CheckName(tt.files...); (err == nil) != tt.ok {
			t.Errorf("%q in %q: %v", tt.name, tt.files, err)
		}
	}
}

// TestCompiled reads what a compiler makes, and compares with the standard library.
func TestCompiled(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil {
		testskip.For(t, "needs gcc: "+err.Error())
	}
	dir := t.TempDir()
	source := filepath.Join(dir, "foo.c")
	object := filepath.Join(dir, "foo.o")
	err := os.WriteFile(source, []byte(`
#define INFO(id, s) static const char id[] __attribute__((section(".modinfo"), used, aligned(1))) = s;
INFO(a, "vermagic=6.1 SMP ")
INFO(b, "name=foo")
int counter;
int init(void) { return counter++; }
`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-g", "-ffunction-sections", "-c", "-o", object, source).CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	got, err := ReadInfo(object)
	if err != nil {
		t.Fatal(err)
	}
	f, err := elf.Open(object)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := Info{Class: f.Class, Data: f.Data, Type: elf.ET_REL, Machine: f.Machine, Name: "foo", VerMagic: "6.1 SMP "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzParseInfo(f *testing.F) {
	f.Add(testModule(), "x86_64")
	f.Add(kmodtest.Module{Class: elf.ELFCLASS32, Data: elf.ELFDATA2MSB, Type: elf.ET_REL, Machine: elf.EM_PPC,
		Modinfo: []string{"vermagic=" + testRelease}}.Build(), "ppc")
	f.Add([]byte(elf.ELFMAG), "")
	f.Fuzz(func(t *testing.T, module []byte, arch string) {
		info, err := parseBytes(module)
		if err != nil && info != (Info{}) {
			t.Errorf("%+v together with the error %v", info, err)
		}
		checked, errCheck := Check(bytes.NewReader(module), int64(len(module)), arch, testRelease)
		if errCheck == nil && (err != nil || checked != info || info.Release() != testRelease) {
			t.Errorf("Check passes %+v, %v", info, err)
		}
		if _, err := parseBytes(StripSignature(module)); errCheck == nil && !HasSignature(StripSignature(module)) && err != nil {
			t.Errorf("Check passes a module of which this is left once it is cut: %v", err)
		}
	})
}
