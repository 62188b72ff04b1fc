// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/tree"
)

func TestDecisive(t *testing.T) {
	for _, tt := range []struct{ name, log, want, hint string }{
		{"nothing", "", "", ""},
		{"only commands", "# command: make\n\n", "", ""},
		{"last line", "a\nb\n\n", "b", ""},
		{"compiler error before make's", "  CC [M]  toy.o\ntoy.c:3:1: warning: unused\ntoy.c:5:2: error: unknown type name 'u9'\nmake[2]: *** [toy.o] Error 1\nmake: *** [all] Error 2\n",
			"toy.c:5:2: error: unknown type name 'u9'", ""},
		{"the first of several", "a.c:1:1: fatal error: x.h: No such file or directory\nb.c:1:1: error: y\n", "a.c:1:1: fatal error: x.h: No such file or directory", ""},
		{"modpost", "ERROR: modpost: \"f\" [toy.ko] undefined!\nmake: *** [modules] Error 2\n", "ERROR: modpost: \"f\" [toy.ko] undefined!", ""},
		{"no compiler", "make: gcc: No such file or directory\nmake: *** [all] Error 127\n", "make: gcc: No such file or directory", ""},
		{"no program", "/bin/sh: 1: flex: not found\nmake: *** [all] Error 127\n", "/bin/sh: 1: flex: not found", "install the program flex"},
		{"no make", "dkms: line 4: make: command not found\n", "dkms: line 4: make: command not found", "install the program make"},
		{"another ABI", "make: *** [Makefile:2: all] Bad system call\n", "make: *** [Makefile:2: all] Bad system call", "build_sandbox"},
		{"disk full", "cc1: error writing: No space left on device\nmake: *** [all] Error 1\n", "cc1: error writing: No space left on device", "make room"},
		{"no rule", "make: *** No rule to make target 'modules'.  Stop.\nbye\n", "make: *** No rule to make target 'modules'.  Stop.", ""},
		{"configure", "checking for x... no\nconfigure: error: \n\t*** Unable to build\n", "configure: error:", ""},
		{"control characters stay for the report to clean", "x: error: \x1b[31mred\n", "x: error: \x1b[31mred", ""},
		{"not UTF-8", "x: error: \xff\n", "x: error: ?", ""},
		{"a long line", "x: error: " + strings.Repeat("a", 5000) + "\n", "x: error: " + strings.Repeat("a", 290) + "…", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := decisive(strings.NewReader(tt.log))
			if got != tt.want {
				t.Errorf("decisive line is %q, want %q", got, tt.want)
			}
			if h := hint(got); tt.hint == "" && h != "" || !strings.Contains(h, tt.hint) {
				t.Errorf("hint is %q, want %q", h, tt.hint)
			}
		})
	}
}

func FuzzDecisive(f *testing.F) {
	f.Add("a: error: b\n")
	f.Fuzz(func(t *testing.T, log string) {
		if got := decisive(strings.NewReader(log)); len(got) > 310 || strings.Contains(got, "\n") {
			t.Errorf("%q", got)
		}
	})
}

func TestQuote(t *testing.T) {
	for _, s := range []string{"", "a", "a b", "it's", "$(x)", "~", "/usr/src/a-1.0+b", "ü", "a\nb", "-n", "*", "`x`", "#"} {
		out, err := exec.Command("bash", "-c", "printf %s "+quote(s)).Output()
		if err != nil || string(out) != s && s != "-n" {
			t.Errorf("quote(%q) = %s, which bash takes for %q (%v)", s, quote(s), out, err)
		}
	}
}

func TestMakeCommand(t *testing.T) {
	dir := t.TempDir()
	auto := filepath.Join(dir, "6.1/build/include/config/auto.conf")
	if err := os.MkdirAll(filepath.Dir(auto), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		make, config string
		jobs         int
		want         string
	}{
		{"", "", 0, "make KERNELRELEASE=6.1 -C " + dir + "/6.1/build M=/tree/toy/1.0/build"},
		{"make", "", 0, "make KERNELRELEASE=6.1"},
		{"make all", "", 3, "make -j3 KERNELRELEASE=6.1 all"},
		{"make all", "", -1, "make -j KERNELRELEASE=6.1 all"},
		{"make all X='a b'", "", 0, "make KERNELRELEASE=6.1 all X='a b'"},
		{"'make' all", "", 0, "'make' all"},
		{"makefile.sh", "", 0, "makefile.sh"},
		{"cd src && make", "", 0, "cd src && make"},
		{"make\tall && make more", "", 0, "make KERNELRELEASE=6.1\tall && make more"},
		{"make all", "CONFIG_LD_IS_LLD=y\n", 0, "make KERNELRELEASE=6.1 LLVM=1 LD=ld.lld all"},
	} {
		if err := os.WriteFile(auto, []byte(tt.config), 0o644); err != nil {
			t.Fatal(err)
		}
		d := Description{
			Environment: Environment{ID: tree.ID{Name: "toy", Version: "1.0"}, Kernel: kernel.Dirs{Modules: dir}.Kernel("6.1", "x86_64")},
			Tree:        tree.Tree{Dir: "/tree"}, Jobs: tt.jobs, Conf: conf.Conf{Make: tt.make},
		}
		if got := d.makeCommand(); got != tt.want {
			t.Errorf("MAKE=%q: %q, want %q", tt.make, got, tt.want)
		}
	}
}
