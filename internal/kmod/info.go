// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Info is what a module says of itself: fields of its ELF header, and fields of its
// .modinfo section that modinfo(8) shows under the same names. A field that a module
// does not have is empty. If it has one several times, the first with a value counts.
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

// Release returns the kernel release that the module is for: the first word of its
// vermagic.
func (i Info) Release() string {
	release, _, _ := strings.Cut(i.VerMagic, " ")
	return release
}

// CheckName returns an error unless the module has the name of one of these files, which
// are without suffix. Like the kernel's build, which turns dashes and commas into
// underscores, it does not tell these apart.
//
// A module that does not say its name passes: before Linux 4.13 none did, and nothing is
// lost. The name by which the kernel knows a module is in a structure whose layout
// depends on the kernel's configuration, so that a module can lie about it anyway. What
// this finds is another module in the place of the one that was asked for.
func (i Info) CheckName(files ...string) error {
	same := func(file string) bool { return Normal(strings.ReplaceAll(file, ",", "-")) == Normal(i.Name) }
	if i.Name == "" || slices.ContainsFunc(files, same) {
		return nil
	}
	return fmt.Errorf("is the module %q by its .modinfo, expected %q", i.Name, files[0])
}

// Check returns what module says of itself, and an error unless it is one that the
// kernel of the given release and architecture (as in uname -m) could load: a whole ELF
// relocatable file for that machine, with a vermagic for that release. The module has
// size bytes and is not compressed. Without the signature at its end, which the kernel
// cuts off first, it must be whole. The error says what was found and what was expected.
// Of a large module Check reads a few kilobytes.
//
// For an architecture that this package does not know, the machine is not checked: the
// kernel's own headers chose it, and the kernel looks again when it loads the module.
func Check(module io.ReaderAt, size int64, arch, release string) (Info, error) {
	if size > MaxSize {
		return Info{}, fmt.Errorf("it has %d bytes, a module may have %d at most", size, MaxSize)
	}
	info, err := parseInfo(io.NewSectionReader(module, 0, size))
	if err != nil {
		return Info{}, err
	}
	if info.Type != elf.ET_REL {
		return Info{}, fmt.Errorf("is an ELF file of type %v, a kernel module has %v", info.Type, elf.ET_REL)
	}
	if want := targets(arch); len(want) > 0 {
		found := target{info.Machine, info.Class, info.Data}
		ok := false
		for _, t := range want {
			ok = ok || t.matches(found)
		}
		if !ok {
			return Info{}, fmt.Errorf("is for the machine %v, a module for %s has %v", found, arch, want[0])
		}
	}
	if info.VerMagic == "" {
		return Info{}, errors.New("has no vermagic: the build did not get as far as modpost's last step")
	}
	if info.Release() != release {
		return Info{}, &ReleaseError{info.Release(), release}
	}
	return info, nil
}

// ReleaseError is that of a module for another kernel.
type ReleaseError struct{ Release, Expected string }

func (e *ReleaseError) Error() string {
	return fmt.Sprintf("is built for the kernel %q, expected %q", e.Release, e.Expected)
}

// target is what the kernel compares in a module's ELF header.
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

// targets returns what modules for arch may be, the usual one first; nil for an
// architecture that is not known.
//
// The name of a 32-bit architecture stands for its 64-bit kernel too: under the
// 32-bit personality, as in containers, uname -m prints the 32-bit name, but modules
// are built for the kernel that runs.
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
	case "mips64": // either byte order has this name
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

// parseInfo reads the Info of a module that is not compressed, as the kernel sees it:
// without a signature at its end.
func parseInfo(data *io.SectionReader) (Info, error) {
	size, err := unsignedSize(data, data.Size())
	if err != nil {
		return Info{}, err
	}
	f, err := readELF(io.NewSectionReader(data, 0, size))
	if err != nil {
		return Info{}, err
	}
	modinfo, err := f.loaded(".modinfo")
	if err != nil {
		return Info{}, err
	}
	info := Info{Class: f.class, Data: f.encoding, Type: f.typ, Machine: f.machine}
	info.setFields(modinfo)
	return info, nil
}

// setFields sets the fields of i from a .modinfo section: "key=value" strings, each
// followed by one or more zero bytes.
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
