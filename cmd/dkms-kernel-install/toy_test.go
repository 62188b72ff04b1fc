// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"crypto/md5"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/kmod/kmodtest"
)

// toyMakefile is the Makefile of a toy kernel, which looks like an installed kernel with
// its headers. The real make reads it, and it runs kbuild, below, instead of the
// kernel's kbuild and the compiler.
const toyMakefile = `# The build system of a toy kernel.
modules:
	@kbuild %s %s '$(M)'
`

// cmdKernel is
//
//	kernel RELEASE [OPTION=VALUE]...
//
// It makes a toy kernel with that configuration.
func cmdKernel(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: kernel release [CONFIG_OPTION=value]...")
	}
	release := args[0]
	dir := filepath.Join(ts.Getenv("MODULES"), release)
	for _, d := range []string{"kernel", "build/include/config"} {
		ts.Check(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for name, content := range map[string]string{
		"modules.dep":                    "",
		"kernel/builtin":                 "", // no kernel's directory is ever empty
		"build/include/config/auto.conf": strings.Join(append(args[1:], "CONFIG_MODULES=y"), "\n") + "\n",
		"build/Makefile":                 fmt.Sprintf(toyMakefile, release, ts.Getenv("ARCH")),
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
}

// cmdPackage is
//
//	package NAME VERSION [LINE]...
//
// It puts the source of a package with one module into the source tree, with the lines
// at the end of its dkms.conf. Files that are there already stay as they are.
func cmdPackage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: package name version [line]...")
	}
	name, version := args[0], args[1]
	dir := filepath.Join(ts.Getenv("SRC"), name+"-"+version)
	ts.Check(os.MkdirAll(dir, 0o755))
	conf := fmt.Sprintf("PACKAGE_NAME=%s\nPACKAGE_VERSION=%s\nDEST_MODULE_LOCATION=\"/kernel/extra\"\nAUTOINSTALL=\"yes\"\n%s\n",
		quote(name), quote(version), strings.Join(args[2:], "\n"))
	for file, content := range map[string]string{
		"dkms.conf": conf,
		"Kbuild":    "obj-m := " + name + ".o\n",
		name + ".c": fmt.Sprintf("MODULE_VERSION(%q);\n", version),
	} {
		file = filepath.Join(dir, file)
		if _, err := os.Stat(file); err == nil {
			continue
		}
		ts.Check(os.WriteFile(file, []byte(content), 0o644))
	}
}

// quote returns s quoted for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

var (
	objects = regexp.MustCompile(`(?m)^obj-m\s*[:+]?=(.*)$`)
	macro   = func(name string) *regexp.Regexp { return regexp.MustCompile(`(?m)^` + name + `\("(.*)"\);$`) }
)

// kbuild is the program
//
//	kbuild RELEASE ARCH DIR
//
// It makes the modules that obj-m in the directory's Kbuild or Makefile names. Lines of
// their sources may be
//
//	MODULE_VERSION("1.0");   the module's version
//	SRCVERSION("...");       its srcversion; the default depends on the source
//	RELEASE("...");          the kernel release that it is for; the default is RELEASE
//	ARCHITECTURE("...");     its architecture; the default is ARCH
//	NAME("...");             the name that it says; the default is that of the file
//	UNLOADED("...");         what a .modinfo says that the kernel does not load
//	#error TEXT              makes the compiler fail
//	#include "FILE"          the lines of FILE, which is beside the source, or in a
//	                         directory DIR of which the Makefile says -IDIR
//	#include <FILE>          the same, of the kernel's headers
//
// It leaves depfiles as the kernel's kbuild does.
//
// It exits by a system call: builds have no GORACE, and without that os.Exit takes a
// second with -race.
func kbuild() {
	release, arch, dir := os.Args[1], os.Args[2], os.Args[3]
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			unix.Exit(2)
		}
	}
	makefile, err := os.ReadFile(filepath.Join(dir, "Kbuild"))
	if err != nil {
		makefile, err = os.ReadFile(filepath.Join(dir, "Makefile"))
	}
	fail(err)
	symvers := ""
	for _, m := range objects.FindAllStringSubmatch(string(makefile), -1) {
		for object := range strings.FieldsSeq(m[1]) {
			base := strings.TrimSuffix(object, ".o")
			source, read, err := preprocess(filepath.Join(dir, base+".c"), includeDirs(string(makefile)))
			fail(err)
			fail(depfile(filepath.Join(dir, base), read))
			fmt.Printf("  CC [M]  %s.o\n", base)
			if why, ok := find(source, regexp.MustCompile(`(?m)^#error (.*)$`)); ok {
				fail(fmt.Errorf("%s.c:1:2: error: #error %s", filepath.Join(dir, base), why))
			}
			get := func(name, otherwise string) string {
				if value, ok := find(source, macro(name)); ok {
					return value
				}
				return otherwise
			}
			modinfo := []string{
				"name=" + get("NAME", strings.ReplaceAll(filepath.Base(base), "-", "_")),
				"srcversion=" + get("SRCVERSION", fmt.Sprintf("%X", md5.Sum(source))[:23]),
				"vermagic=" + get("RELEASE", release) + " SMP mod_unload ",
			}
			if v := get("MODULE_VERSION", ""); v != "" {
				modinfo = append(modinfo, "version="+v)
			}
			module, err := kmodtest.For(get("ARCHITECTURE", arch), modinfo...)
			fail(err)
			module.Text = source
			module.Debug = []byte("where everything comes from")
			if v := get("UNLOADED", ""); v != "" {
				module.Unloaded = []string{v}
			}
			fmt.Printf("  LD [M]  %s.ko\n", base)
			fail(os.WriteFile(filepath.Join(dir, base+".ko"), module.Build(), 0o644))
			symvers += "0x00000000\t" + base + "_symbol\t" + base + "\tEXPORT_SYMBOL_GPL\t\n"
		}
	}
	fail(os.WriteFile(filepath.Join(dir, "Module.symvers"), []byte(symvers), 0o644))
	unix.Exit(0)
}

// includeDirs returns the directories after -I in a Makefile.
func includeDirs(makefile string) (dirs []string) {
	for _, m := range regexp.MustCompile(`-I(\S+)`).FindAllStringSubmatch(makefile, -1) {
		dirs = append(dirs, m[1])
	}
	return dirs
}

// preprocess returns the source in file with what it includes, and which files these are:
// headers of the kernel by paths relative to its directory, which is where make runs.
func preprocess(file string, dirs []string) (text []byte, read []string, err error) {
	text, err = os.ReadFile(file)
	for _, m := range regexp.MustCompile(`(?m)^#include (["<])(.*)[">]$`).FindAllSubmatch(text, -1) {
		list, name := append([]string{filepath.Dir(file)}, dirs...), string(m[2])
		if string(m[1]) == "<" {
			list = []string{"include"}
		}
		for _, dir := range list {
			header := dir + "/" + name // a compiler does not clean paths, either
			if filepath.IsAbs(name) {
				header = name
			}
			var more []byte
			if more, err = os.ReadFile(header); err == nil {
				text, read = append(text, more...), append(read, header)
				break
			}
		}
	}
	return text, read, err
}

// depfile writes what kbuild and fixdep leave beside the object of that name: what was
// read for it, besides its source.
func depfile(object string, read []string) error {
	object, err := filepath.Abs(object)
	if err != nil {
		return err
	}
	text := fmt.Sprintf("savedcmd_%s.o := gcc -c -o %[1]s.o %[1]s.c\n\nsource_%[1]s.o := %[1]s.c\n\ndeps_%[1]s.o := \\\n", object)
	for _, header := range read {
		text += "    $(wildcard include/config/OPTION) \\\n  " + header + " \\\n"
	}
	text += fmt.Sprintf("\n%s.o: $(deps_%[1]s.o)\n\n$(deps_%[1]s.o):\n", object)
	return os.WriteFile(filepath.Join(filepath.Dir(object), "."+filepath.Base(object)+".o.cmd"), []byte(text), 0o644)
}

func find(source []byte, re *regexp.Regexp) (string, bool) {
	m := re.FindSubmatch(source)
	if m == nil {
		return "", false
	}
	return string(m[1]), true
}

// depmod is the program of that name. It logs its arguments in $TESTROOT/depmod.log and
// writes the modules that it finds to modules.dep, if the kernel has one. It fails if
// there is a file $TESTROOT/depmod.fails.
func depmod() {
	root := os.Getenv("TESTROOT")
	f, err := os.OpenFile(filepath.Join(root, "depmod.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = fmt.Fprintln(f, strings.ReplaceAll(strings.Join(os.Args[1:], " "), root, "$WORK"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if _, err := os.Stat(filepath.Join(root, "depmod.fails")); err == nil {
		fmt.Fprintln(os.Stderr, "depmod: ERROR: the toy was told to fail")
		os.Exit(1)
	}
	dir := filepath.Join(root, "lib/modules", os.Args[len(os.Args)-1])
	list := ""
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if _, _, ok := kmod.SplitName(filepath.Base(path)); ok {
			list += strings.TrimPrefix(path, dir+"/") + ":\n"
		}
		return nil
	})
	file := filepath.Join(dir, "modules.dep")
	if _, err := os.Stat(file); err != nil {
		return
	}
	err = os.WriteFile(file+".tmp", []byte(list), 0o644)
	if err == nil {
		err = os.Rename(file+".tmp", file)
	}
	if err != nil {
		os.Remove(file + ".tmp")
		fmt.Fprintln(os.Stderr, "depmod: ERROR:", err)
		os.Exit(1)
	}
}

// cmdKo is
//
//	ko FILE...
//
// It prints a line for each module: its name, version and kernel, and whether it is
// compressed, signed, or has debugging information.
func cmdKo(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: ko file...")
	}
	for _, file := range args {
		raw, err := os.ReadFile(ts.MkAbs(file))
		ts.Check(err)
		module, err := kmod.ReadFile(ts.MkAbs(file))
		ts.Check(err)
		info, err := kmod.ReadInfo(ts.MkAbs(file))
		ts.Check(err)
		facts := []string{"name=" + info.Name, "version=" + info.Version, "for=" + info.Release()}
		for name, magic := range map[string]string{"gzip": "\x1f\x8b", "xz": "\xfd7zXZ\x00", "zstd": "\x28\xb5\x2f\xfd"} {
			if strings.HasPrefix(string(raw), magic) {
				facts = append(facts, name)
			}
		}
		if kmod.HasSignature(module) {
			facts = append(facts, "signed")
		}
		if strings.Contains(string(module), ".debug_info") {
			facts = append(facts, "debug")
		}
		slices.Sort(facts[3:])
		fmt.Fprintln(ts.Stdout(), strings.Join(facts, " "))
	}
}

// cmdInitramfs is
//
//	initramfs IMAGE PATH...
//
// It makes an initramfs of empty files with those paths: a cpio archive as the kernel's
// Documentation/driver-api/early-userspace describes it.
func cmdInitramfs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: initramfs image path...")
	}
	var b strings.Builder
	for _, name := range append(args[1:], "TRAILER!!!") {
		fmt.Fprintf(&b, "070701%08x%08x%032x%08x%032x%08x%08x", 0, 0o100644, 0, 0, 0, len(name)+1, 0)
		b.WriteString(name + strings.Repeat("\x00", 4-(110+len(name))%4))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(b.String()), 0o644))
}

// cmdCrowd is
//
//	crowd PACKAGES KERNELS [OPTION=VALUE]...
//
// It makes toy kernels with that configuration, and packages, and registers those. With
// DKMS_TEST_ALL there are 50 packages and 20 kernels.
func cmdCrowd(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: crowd packages kernels [CONFIG_OPTION=value]...")
	}
	packages, err := strconv.Atoi(args[0])
	ts.Check(err)
	kernels, err := strconv.Atoi(args[1])
	ts.Check(err)
	if os.Getenv("DKMS_TEST_ALL") != "" {
		packages, kernels = 50, 20
	}
	for i := range kernels {
		cmdKernel(ts, false, append([]string{fmt.Sprintf("6.%d", i)}, args[2:]...))
	}
	for i := range packages {
		name := fmt.Sprintf("package%d", i)
		cmdPackage(ts, false, []string{name, "1.0"})
		ts.Check(ts.Exec("dkms", "add", name+"/1.0"))
	}
}
