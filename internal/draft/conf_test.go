// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/conf"
)

// readConf has bash read a dkms.conf, as every other part of the program does.
func readConf(t testing.TB, sh *conf.Shell, c *Conf) conf.Conf {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dkms.conf")
	if err := os.WriteFile(file, []byte(c.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := sh.Read(conf.Source{
		File: file, Module: c.Name, Version: c.Version, Release: "6.1", Arch: "x86_64", KernelSourceDir: "/k s", KernelConfigFile: "/k s/.config",
		Config: func(string) (bool, error) { return true, nil },
	}, conf.Settings{EtcDir: t.TempDir(), DkmsTree: "/tree", SourceTree: "/src", InstallTree: "/modules"})
	if err != nil {
		t.Fatalf("%v\n%s", err, c)
	}
	return got
}

// twice evaluates a value as the classic script does between reading a conf and
// running a command.
func twice(t testing.TB, value string) string {
	t.Helper()
	cmd := exec.Command("bash", "-c", `set -- $1; eval "printf %s \"$*\""`, "dkms", value)
	cmd.Dir = "/" // with files, for patterns to find
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, value, out)
	}
	return string(out)
}

// run runs a command of a conf in a directory as dkms does, with a make that writes
// down how it was called, and returns that: an argument a line.
func run(t testing.TB, command, dir string) string {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "make"), []byte("#!/bin/sh\nprintf '<%s>\\n' \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "-c", `eval "$1"`, "dkms", command)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + bin + ":/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, command, out)
	}
	return string(out)
}

func TestConf(t *testing.T) {
	sh := &conf.Shell{}
	defer sh.Close()
	kbuild := func(dir string) Step { return Step{Dir: dir, Target: "modules", Kbuild: true} }
	for _, test := range []struct {
		name  string
		steps []Step
		args  []string
		plain bool   // NoKernelRelease
		want  string // how make is called
	}{
		{"generic", []Step{kbuild(".")}, nil, false, ""},
		{"below", []Step{kbuild("a/b")}, nil, false, "-C|/k|s|M=/tree/m/1/build/a/b|modules"},
		{"with an argument", []Step{kbuild(".")}, []string{"A=1"}, false, "-C|/k|s|M=/tree/m/1/build|A=1|modules"},
		{"Makefile", []Step{{Dir: ".", Target: "x y"}}, []string{"KDIR=${KV_OUT_DIR}"}, false, "KDIR=/k s|x|y"},
		{"Makefile below", []Step{{Dir: "s"}}, []string{"-s", "V=1"}, false, "-C|s|-s|V=1"},
		{"without KERNELRELEASE", []Step{{Dir: "s", Target: "all"}}, []string{"KVER=$KV_FULL"}, true, "-C|s|KVER=6.1|all"},
		{"quotes", []Step{{Dir: "."}}, []string{`A=it's "a" \ $b ` + "`c` ${d} $(e) $$f *", "B=", "C=~", "-I/a b", "D='", "E=a  b", "F=/* [a-z]", "G=-O2 -g", "H= x "}, false,
			`A=it's "a" \ $b ` + "`c` ${d} $(e) $$f *|B=|C=~|-I/a b|D='|E=a  b|F=/* [a-z]|G=-O2 -g|H= x "},
		{"quotes without KERNELRELEASE", []Step{{Dir: "."}}, []string{`A='"\'"`}, true, `A='"\'"`},
		{"references", []Step{{Dir: "."}}, []string{"A=$PWD/x ${kernelver}$kernelver_ $$PWD ${PACKAGE_NAME}-$PACKAGE_VERSION"}, false,
			"A=/tree/m/1/build/x 6.1$kernelver_ $$PWD m-1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &Conf{Name: "m", Version: "1", Steps: test.steps, Args: test.args, NoKernelRelease: test.plain,
				Modules: []Module{{Name: "a", Dir: ".", Dest: "/extra"}, {Name: "b-c", Dir: "x/y", Dest: "/kernel/z"}}}
			for _, a := range test.args {
				if err := CheckArg(a); err != nil {
					t.Fatal(err)
				}
			}
			got := readConf(t, sh, c)
			want := conf.Conf{Name: "m", Version: "1", Make: got.Make, Autoinstall: true, Modules: []conf.Module{
				{BuiltName: "a", DestName: "a", BuiltLocation: ".", DestLocation: "/extra", Strip: true},
				{BuiltName: "b-c", DestName: "b-c", BuiltLocation: "x/y", DestLocation: "/kernel/z", Strip: true},
			}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if test.want == "" {
				if got.Make != "" {
					t.Errorf("MAKE is %q", got.Make)
				}
				return
			}
			if bare := strings.HasPrefix(got.Make, "make "); bare == test.plain || test.plain && !strings.HasPrefix(got.Make, "'make'") {
				t.Errorf("MAKE is %q", got.Make)
			}
			for _, command := range []string{got.Make, twice(t, got.Make)} {
				if got, want := run(t, command, t.TempDir()), "<"+strings.ReplaceAll(test.want, "|", ">\n<")+">\n"; got != want {
					t.Errorf("make was called with\n%s, not\n%s", got, want)
				}
			}
		})
	}
	c := &Conf{Name: "m", Version: "1", NoAutoinstall: true, Steps: []Step{kbuild(".")}, Modules: []Module{{Name: "a", Dir: ".", Dest: "/extra"}}}
	if readConf(t, sh, c).Autoinstall {
		t.Error("AUTOINSTALL is yes")
	}
}

// TestSteps shows that of several calls of make each gets what dkms and the
// arguments say, in order, and that the first that fails ends it. The makes are
// real.
func TestSteps(t *testing.T) {
	sh := &conf.Shell{}
	defer sh.Close()
	for _, plain := range []bool{false, true} {
		c := &Conf{Name: "m", Version: "1", NoKernelRelease: plain, Modules: []Module{{Name: "a", Dir: ".", Dest: "/extra"}},
			Steps: []Step{{Dir: "b"}, {Dir: "a", Target: "one two"}, {Dir: "c/d", Target: "modules", Kbuild: true}},
			Args:  []string{`A='x'  "y"`, "K=${kernel_source_dir}"}}
		command := twice(t, readConf(t, sh, c).Make)
		dir := t.TempDir()
		command = strings.NewReplacer("/k s", dir+"/kernel", "/tree/m/1/build", dir).Replace(command)
		makefile := "export\nall one two modules:\n\t@echo \"$@ $(notdir $(CURDIR)) <$$A> <$$K> <$$M> <$(KERNELRELEASE)> <$(LLVM)> $(MAKELEVEL)\"; test ! -e fail\ntwo: one\n"
		for _, d := range []string{"a", "b", "kernel"} {
			os.Mkdir(filepath.Join(dir, d), 0o755)
			if err := os.WriteFile(filepath.Join(dir, d, "Makefile"), []byte(makefile), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		release := ""
		if rest, ok := strings.CutPrefix(command, "make "); ok {
			command = "make -j2 KERNELRELEASE=6.1 " + rest
			release = "6.1"
		}
		build := func() (string, error) {
			cmd := exec.Command("bash", "-c", `eval "$1"`, "dkms", command+" LLVM=1")
			cmd.Dir = dir
			cmd.Env = []string{"PATH=/usr/bin:/bin", "MAKEFLAGS=--no-print-directory"}
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			var lines []string
			for line := range strings.Lines(string(out)) {
				if !strings.HasPrefix(line, "make") {
					lines = append(lines, line)
				}
			}
			return strings.Join(lines, ""), err
		}
		line := func(target, dir, m string) string {
			return fmt.Sprintf("%s %s <%s> <%s> <%s> <%s> <1> 1\n", target, filepath.Base(dir), `'x'  "y"`, filepath.Join(dir, "../kernel"), m, release)
		}
		want := line("all", filepath.Join(dir, "b"), "") + line("one", filepath.Join(dir, "a"), "") + line("two", filepath.Join(dir, "a"), "") +
			line("modules", filepath.Join(dir, "kernel"), filepath.Join(dir, "c/d"))
		if got, err := build(); err != nil || got != want {
			t.Errorf("got %v\n%s, want\n%s, of %s", err, got, want, command)
		}
		if err := os.WriteFile(filepath.Join(dir, "a/fail"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := build(); err == nil || strings.Contains(got, "modules") {
			t.Errorf("after a failure: %v\n%s", err, got)
		}
	}
}

func TestCheckArg(t *testing.T) {
	for arg, ok := range map[string]bool{
		"A=1": true, "A=": true, "A=b=c": true, "-j4": true, "-s": true, "A:=1": true, "KCFLAGS+=-O2 -g": true,
		"": false, "modules": false, "=x": false, "A=1\n": false, "A B=1": false, "$A=1": false, "--eval=x": false, "--eva=x": false, "-Ex": false, "A=\x7f": false,
	} {
		if err := CheckArg(arg); (err == nil) != ok {
			t.Errorf("%q: %v", arg, err)
		}
	}
}

// FuzzArg checks that bash hands every argument to make as it is, but for
// references.
func FuzzArg(f *testing.F) {
	for _, s := range []string{"A=b", "A='\"\\$`!*~#", "-I/a b", "A=$(x)${y}$z", "A=\xff\xc3", "A==", "A=\\", "A=$$", "A=$", "A={a,b}", "A=<(x)"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	sh := &conf.Shell{}
	f.Cleanup(sh.Close)
	f.Fuzz(func(t *testing.T, arg string, plain bool) {
		if CheckArg(arg) != nil {
			return
		}
		want := rewrite(arg, strings.Clone, func(string) string { return "REFERENCE" })
		if strings.Contains(want, "REFERENCE") || strings.ContainsAny(arg, "\r") {
			return
		}
		c := &Conf{Name: "m", Version: "1", NoKernelRelease: plain, Args: []string{arg}, Steps: []Step{{Dir: "."}},
			Modules: []Module{{Name: "a", Dir: ".", Dest: "/extra"}}}
		command := readConf(t, sh, c).Make
		if got := twice(t, command); got != command {
			t.Errorf("the classic script makes %q of %q", got, command)
		}
		if got := run(t, command, t.TempDir()); got != "<"+want+">\n" {
			t.Errorf("make gets %q, not %q", got, want)
		}
	})
}

func TestPlan(t *testing.T) {
	const files = `
-- Makefile --
obj-m := top.o
KDIR ?= /lib/modules/$(shell uname -r)/build
modules clean:
	make -C $(KDIR) M=$(PWD) $@
-- old/Makefile --
ifneq ($(KERNELRELEASE),)
obj-m := old.o
else
default:
	make -C $(KDIR) M=$(PWD)
all: default
endif
-- odd/Makefile --
odd.ko: odd.c
	cc
-- none/Makefile --
-- only/Kbuild --
obj-m := only.o $(shell x)
-- empty/x.c --
`
	for _, test := range []struct{ name, specs, args, want, notes, err string }{
		{"kbuild knows", "top", "", "make -C ${kernel_source_dir} M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build modules", "", ""},
		{"argument", "top", "KDIR=${kernel_source_dir}", "make KDIR='${kernel_source_dir}' modules", "", ""},
		{"argument that says nothing of the kernel", "top", "V=1", "make V=1 modules", "no argument of make says which kernel", ""},
		{"target", "top=:::clean", "", "make clean", "no argument of make says", ""},
		{"built elsewhere", "top=::obj", "K=$kernelver", `make K='${kernelver}' modules`, "", ""},
		{"asks for KERNELRELEASE", "old=:old", "KDIR=${kernel_source_dir}", "'make' -C old KDIR='${kernel_source_dir}' default", "depends on KERNELRELEASE", ""},
		{"NAME.ko", "odd=:odd", "K=$kernelver", `make -C odd K='${kernelver}' odd.ko`, "", ""},
		{"no rule", "none=:none", "K=$kernelver", `make -C none K='${kernelver}'`, "", ""},
		{"Kbuild alone", "only=:only", "", "make -C ${kernel_source_dir} M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build/only modules", "", ""},
		{"Kbuild alone, other module", "other=:only", "A=1", "make -C ${kernel_source_dir} M=${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build/only A=1 modules", "", ""},
		{"once for a directory", "top more", "KDIR=${kernel_source_dir}", "make KDIR='${kernel_source_dir}' modules", "", ""},
		{"no Makefile", "x=:empty", "", "", "", "module x: empty has no Makefile"},
		{"no directory", "x=:gone", "", "", "", "module x: gone has no Makefile"},
		{"twice", "top top=x", "", "", "", "module top is there twice"},
		{"alike", "to-p to_p=x", "", "", "", "module to_p is there twice"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := makeTree(t, files)
			var specs []Spec
			for text := range strings.FieldsSeq(test.specs) {
				s, err := ParseSpec(text, root.Name())
				if err != nil {
					t.Fatal(err)
				}
				specs = append(specs, s)
			}
			tree := openTree(t, root, test.args)
			c, err := tree.Plan(specs)
			if err != nil || test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			got := c.command()
			if test.name == "kbuild knows" && got == "" { // the generic command
				got = "make" + c.Steps[0].arguments("")
			}
			if got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
			if all := strings.Join(tree.Notes, "\n"); test.notes == "" && all != "" || !strings.Contains(all, test.notes) {
				t.Errorf("notes: %s", all)
			}
		})
	}
}
