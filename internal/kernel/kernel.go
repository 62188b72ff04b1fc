// SPDX-License-Identifier: GPL-2.0-or-later

// Package kernel looks at an installed kernel: its headers, configuration and
// compiler, and how its modules are signed and compressed.
package kernel

import (
	"bufio"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/version"
)

// Kernel is one kernel. It need not exist; see [Kernel.Exists].
type Kernel struct {
	Release   string // as uname -r prints it
	Arch      string // as uname -m prints it
	Dir       string // directory of its modules, /lib/modules/RELEASE
	SourceDir string // directory of its headers

	configFile string // [Dirs].Config
	boot       string // [Dirs].Boot
	// Each looks once and remembers.
	findConfig func() string
	config     func() (map[string]string, error)
	compiler   func() Compiler
}

// Dirs are where a machine keeps its kernels.
type Dirs struct {
	Modules string // usually /lib/modules
	Boot    string // usually /boot
	// Source and Config, if they are not empty, replace the directory of every
	// kernel's headers and the file of its configuration.
	Source, Config string
	// Trees are sources of kernels. Those with the release of a kernel that brings no
	// headers are its headers.
	Trees []string
}

// Kernel returns the kernel called release, which need not exist. It does not look at
// it yet.
func (d Dirs) Kernel(release, arch string) *Kernel {
	k := &Kernel{
		Release:    release,
		Arch:       arch,
		Dir:        filepath.Join(d.Modules, release),
		SourceDir:  d.Source,
		configFile: d.Config,
		boot:       d.Boot,
	}
	if k.SourceDir == "" {
		k.SourceDir = d.findSource(k)
	}
	k.findConfig = sync.OnceValue(k.findConfigFile)
	k.config = sync.OnceValues(k.readConfig)
	k.compiler = sync.OnceValue(k.findCompiler)
	return k
}

func (d Dirs) findSource(k *Kernel) string {
	build := filepath.Join(k.Dir, "build")
	if _, err := os.Stat(build); err == nil {
		return build
	}
	for _, dir := range d.Trees {
		if release(dir) == k.Release {
			return dir
		}
	}
	return build
}

// release returns the release of the kernel whose headers are in dir; "" if they do not
// say.
func release(dir string) string {
	text, _ := os.ReadFile(filepath.Join(dir, "include/config/kernel.release"))
	return strings.TrimSpace(string(text))
}

// HeadersRelease returns the release that the kernel's headers are of, by what they say;
// "" if they do not.
func (k *Kernel) HeadersRelease() string { return release(k.SourceDir) }

// List returns the releases of the kernels that have a directory of modules, oldest
// first. If there is no directory for those, the list is empty.
func (d Dirs) List() ([]string, error) {
	entries, err := os.ReadDir(d.Modules)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var releases []string
	for _, e := range entries {
		if e.IsDir() && conf.CheckName(e.Name()) == nil {
			releases = append(releases, e.Name())
		}
	}
	slices.SortFunc(releases, version.Compare)
	return releases, nil
}

// Uname returns the release and the architecture of the kernel that runs; "" if it does
// not say.
func Uname() (release, arch string) {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return "", ""
	}
	return unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Machine[:])
}

// ArchOf returns the architecture of the program at path, as uname -m prints it where that
// runs; "" if it is not known. See elf(5).
func ArchOf(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	little := f.ByteOrder == binary.LittleEndian
	switch f.Machine {
	case elf.EM_X86_64:
		return "x86_64"
	case elf.EM_386:
		return "i686"
	case elf.EM_AARCH64:
		return "aarch64"
	case elf.EM_ARM:
		return "armv7l"
	case elf.EM_RISCV:
		return "riscv64"
	case elf.EM_LOONGARCH:
		return "loongarch64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_PPC64:
		if little {
			return "ppc64le"
		}
		return "ppc64"
	}
	return ""
}

// Exists reports whether the kernel has a directory of modules.
func (k *Kernel) Exists() bool {
	fi, err := os.Stat(k.Dir)
	return k.Release != "" && err == nil && fi.IsDir()
}

// Installed reports whether the kernel itself is there, and not only its headers, or
// modules that were built for it: its image, or a file of its own; see [Kernel.HasFiles].
// If it has no modules, their list tells. A list of modules that are not there does not
// count: Debian's headers of Linux 7 and later come with it.
func (k *Kernel) Installed(ours func(path string) bool) bool {
	for _, file := range []string{
		filepath.Join(k.Dir, "vmlinuz"),
		filepath.Join(k.boot, "vmlinuz-"+k.Release),
		filepath.Join(k.boot, "vmlinux-"+k.Release),
	} {
		if _, err := os.Stat(file); err == nil {
			return true
		}
	}
	if fi, err := os.Stat(filepath.Join(k.Dir, "modules.order")); err == nil && fi.Size() == 0 {
		return true
	}
	return k.HasFiles(ours)
}

// HasFiles reports whether a file below the directory kernel of the kernel's came with
// it, which ours denies for what was built for it.
func (k *Kernel) HasFiles(ours func(path string) bool) bool {
	errFound := errors.New("found")
	return errFound == filepath.WalkDir(filepath.Join(k.Dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || ours(path) {
			return nil
		}
		return errFound
	})
}

// Linked reports whether the kernel's directory names its headers, by the link build, as many
// Makefiles expect.
func (k *Kernel) Linked() bool {
	_, err := os.Stat(filepath.Join(k.Dir, "build"))
	return err == nil
}

// Common returns the directory of the headers that the kernel's share with those of others; it
// need not exist. The link source of the kernel's directory leads there, or else the first line
// of their Makefile includes another one there.
func (k *Kernel) Common() string {
	dir := filepath.Join(k.Dir, "source")
	if k.Linked() {
		return dir
	}
	text, _ := os.ReadFile(filepath.Join(k.SourceDir, "Makefile"))
	line, _, _ := strings.Cut(string(text), "\n")
	if file, ok := strings.CutPrefix(line, "include /"); ok {
		return filepath.Dir("/" + strings.TrimSpace(file))
	}
	return dir
}

// Symbols returns the versions of the symbols that the kernel and its own modules have, their
// checksums by name, by Module.symvers in its headers. Without CONFIG_MODVERSIONS all are 0.
func (k *Kernel) Symbols() (map[string]uint32, error) {
	f, err := os.Open(filepath.Join(k.SourceDir, "Module.symvers"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	crcs := map[string]uint32{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), "\t") // CRC, name, module, kind of export, namespace
		if len(fields) < 3 {
			continue
		}
		if crc, err := strconv.ParseUint(fields[0], 0, 32); err == nil {
			crcs[fields[1]] = uint32(crc)
		}
	}
	return crcs, lines.Err()
}

// OtherArch returns how the names of the architectures begin that the kernel's configuration says
// it is for, if Arch is none of them; else "", also if nobody knows.
func (k *Kernel) OtherArch() string {
	for prefix, option := range map[string]string{
		"x86_64": "CONFIG_X86_64", "i": "CONFIG_X86_32", "aarch64": "CONFIG_ARM64", "armv": "CONFIG_ARM", "riscv": "CONFIG_RISCV",
		"loongarch": "CONFIG_LOONGARCH", "s390": "CONFIG_S390", "ppc64": "CONFIG_PPC64",
	} {
		if k.Option(option) == "y" && !strings.HasPrefix(k.Arch, prefix) {
			return prefix
		}
	}
	return ""
}

// HasHeaders reports whether the kernel's headers are installed, with which modules
// are built.
func (k *Kernel) HasHeaders() bool { return k.LacksHeaders() == "" }

// LacksHeaders returns a path that headers have and those of the kernel do not, or the
// one that a link to them leads to; "" if they have all that is looked for.
func (k *Kernel) LacksHeaders() string {
	if _, err := os.Stat(k.SourceDir); errors.Is(err, fs.ErrNotExist) {
		if to, err := os.Readlink(k.SourceDir); err == nil {
			if dir, err := filepath.EvalSymlinks(filepath.Dir(k.SourceDir)); err == nil && !filepath.IsAbs(to) {
				to = filepath.Join(dir, to) // of /usr/lib, if /lib is a link to it
			}
			return to + ", where " + k.SourceDir + " leads,"
		}
	}
	for _, name := range []string{"include", "Makefile"} {
		path := filepath.Join(k.SourceDir, name)
		if _, err := os.Stat(path); err != nil {
			return path
		}
	}
	return ""
}

// ConfigFile returns the file with the kernel's configuration: the one that kbuild
// uses, else the one beside the kernel's image. It returns "" if there is none. It
// looks once.
func (k *Kernel) ConfigFile() string { return k.findConfig() }

func (k *Kernel) findConfigFile() string {
	if k.configFile != "" {
		return k.configFile
	}
	for _, file := range []string{
		filepath.Join(k.SourceDir, "include/config/auto.conf"),
		filepath.Join(k.SourceDir, ".config"),
		filepath.Join(k.Dir, "config"),
		filepath.Join(k.boot, "config-"+k.Release),
	} {
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() {
			return file
		}
	}
	return ""
}

func (k *Kernel) readConfig() (map[string]string, error) {
	file := k.ConfigFile()
	if file == "" {
		return nil, fmt.Errorf("kernel %s has no configuration: neither %s/include/config/auto.conf nor %s/config-%[1]s exists", k.Release, k.SourceDir, k.boot)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	config := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if ok && strings.HasPrefix(name, "CONFIG_") {
			config[name] = strings.Trim(value, `"`)
		}
	}
	return config, lines.Err()
}

// Option returns the value of a configuration option such as CONFIG_MODULES, without
// quotes. It returns "" if the option is not set, or the configuration cannot be read.
func (k *Kernel) Option(name string) string {
	config, _ := k.config()
	return config[name]
}

// Enabled reports whether option, such as CONFIG_MODULES, is y or m. It returns an
// error if the configuration cannot be read. It is a [conf.KernelConfig].
func (k *Kernel) Enabled(option string) (bool, error) {
	config, err := k.config()
	return config[option] == "y" || config[option] == "m", err
}

// Compression returns how the kernel's own modules are compressed: as the first that
// came with it is, or, if there is none, as the configuration says.
func (k *Kernel) Compression() codec.Compression {
	found := codec.None
	errFound := errors.New("found")
	err := filepath.WalkDir(filepath.Join(k.Dir, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		if _, c, ok := kmod.SplitName(d.Name()); ok {
			found = c
			return errFound
		}
		return nil
	})
	if err == errFound {
		return found
	}
	for _, c := range []struct {
		option      string
		compression codec.Compression
	}{
		{"CONFIG_MODULE_COMPRESS_GZIP", codec.Gzip},
		{"CONFIG_MODULE_COMPRESS_XZ", codec.XZ},
		{"CONFIG_MODULE_COMPRESS_ZSTD", codec.Zstd},
	} {
		if k.Option(c.option) == "y" {
			return c.compression
		}
	}
	return codec.None
}

// Compiler is what the kernel was built with, as far as modules must match it.
type Compiler struct {
	CC    string   // program in PATH; "" if the kernel's compiler is not installed
	Strip string   // program that strips what CC makes
	Args  []string // arguments for make
}

var gccWord = lazy.Regexp(`^\S*gcc\S*$`)
var clangVersion = lazy.Regexp(`clang version (\d+)`)

// Compiler returns the kernel's compiler. It looks once.
func (k *Kernel) Compiler() Compiler { return k.compiler() }

func (k *Kernel) findCompiler() Compiler {
	c := Compiler{Strip: "strip"}
	text := k.Option("CONFIG_CC_VERSION_TEXT")
	clang := k.Option("CONFIG_CC_IS_CLANG") == "y"
	lld := k.Option("CONFIG_LD_IS_LLD") == "y"
	if !clang {
		first, _, _ := strings.Cut(text, " ")
		if gccWord().MatchString(first) && inPath(first) {
			c.CC = first
		}
	}
	if clang || lld {
		suffix := ""
		if m := clangVersion().FindStringSubmatch(text); m != nil && !inPath("clang") && inPath("clang-"+m[1]) {
			suffix = "-" + m[1]
		}
		llvm := "1"
		if suffix != "" {
			llvm = suffix
		}
		c.Strip = "llvm-strip" + suffix
		c.Args = append(c.Args, "LLVM="+llvm)
		if clang {
			c.CC = "clang" + suffix
			c.Args = append(c.Args, "CC="+c.CC)
		}
		if lld {
			c.Args = append(c.Args, "LD=ld.lld"+suffix)
		}
	}
	return c
}

func inPath(program string) bool {
	_, err := exec.LookPath(program)
	return err == nil
}

// SignHash returns the hash that modules are signed with for the kernel, such as
// sha256. It returns "" if the kernel checks no signatures.
func (k *Kernel) SignHash() string { return k.Option("CONFIG_MODULE_SIG_HASH") }

// SignFile returns the path of the kernel's own program that signs a module, or "" if
// it is not installed.
func (k *Kernel) SignFile() string {
	for _, file := range []string{
		filepath.Join(k.SourceDir, "scripts/sign-file"),
		filepath.Join(k.Dir, "source/scripts/sign-file"),
	} {
		if _, err := exec.LookPath(file); err == nil {
			return file
		}
	}
	return ""
}
