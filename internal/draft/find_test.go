// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/testskip"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

// makeTree writes the files of a txtar archive and opens their directory.
func makeTree(t testing.TB, archive string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		file := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return openRoot(t, dir)
}

func openRoot(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// openTree opens the tree in root, for args, with spaces between.
func openTree(t testing.TB, root *os.Root, args string) *Tree {
	t.Helper()
	testskip.Without(t, "make")
	tree, err := Open(root, strings.Fields(args))
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// summary is the modules as DIR/NAME, and the directories that kbuild is pointed at.
func summary(c *Conf) string {
	var list, dirs []string
	for _, m := range c.Modules {
		name := m.Name
		if m.Dir != "." {
			name = m.Dir + "/" + name
		}
		list = append(list, name)
	}
	for _, s := range c.Steps {
		dirs = append(dirs, s.Dir)
	}
	return strings.Join(list, " ") + " | " + strings.Join(dirs, " ")
}

func TestFind(t *testing.T) {
	for _, test := range []struct {
		name, files, args, want string
		notes                   string // a text that the notes have; "" means that there are none
	}{
		{"plain", "-- Kbuild --\nobj-m := a.o\n", "", "a | .", ""},
		{"no blanks", "-- Makefile --\nobj-m:=a.o\nobj-m+=b.o\n", "", "a b | .", ""},
		{"Kbuild wins", "-- Kbuild --\nobj-m := a.o\n-- Makefile --\nobj-m := b.o\n", "", "a | .", ""},
		{"added", "-- Kbuild --\nobj-m := a.o\nobj-m += b.o c.o \nobj-m += a.o\n", "", "a b c | .", ""},
		{"continued", "-- Kbuild --\nobj-m := a.o \\\n\tb.o\\\n c.o # d.o \\\n e.o\nobj-m += f.o\n", "", "a b c f | .", ""},
		{"empty", "-- Kbuild --\nobj-m :=\n", "", " | ", ""},
		{"obj-y is no module", "-- Kbuild --\nobj-y += a.o\nobj-m += b.o\n", "", "b | .", ""},
		{"obj- is not built", "-- Kbuild --\nobj-$(NOT_SET) += a.o\nobj-n += c.o\nobj-m += b.o\n", "", "b | .", "Kbuild: nothing is set that decides to build a.o"},
		{"composed", "-- Kbuild --\nobj-m := a.o\na-objs := x.o y.o\na-y += z.o\n", "", "a | .", ""},
		{"below", "-- Kbuild --\nobj-m := core/a.o\n", "", "core/a | .", ""},

		// What decides is make.
		{"config m", "-- Kbuild --\nCONFIG_A := m\nobj-$(CONFIG_A) += a.o\n", "", "a | .", ""},
		{"config m, by default", "-- Kbuild --\nCONFIG_A ?= m\nobj-${CONFIG_A} += a.o\n", "", "a | .", ""},
		{"config of the kernel", "-- Kbuild --\nobj-$(CONFIG_A) += a.o\nobj-m += b.o\n", "", "b | .",
			"Kbuild: options that are not set here may decide what is built; to set one, give --make-arg CONFIG_A=m, or y: CONFIG_A"},
		{"config in a condition", "-- Kbuild --\nobj-m := a.o\nifeq ($(CONFIG_NET),y)\nobj-m += b.o\nendif\n", "", "a | .", "or y: CONFIG_NET"},
		{"config elsewhere", "-- Kbuild --\nobj-m := a.o\nccflags-$(CONFIG_X) := -DX\n", "", "a | .", ""},
		{"config of an argument", "-- Kbuild --\nCONFIG_A := n\nobj-$(CONFIG_A) += a.o\n", "CONFIG_A=m", "a | .", ""},
		{"exported config", "-- Kbuild --\nexport CONFIG_A := m\nCONFIG_B := m\nobj-y += sub/\n-- sub/Kbuild --\nobj-$(CONFIG_A) += a.o\nobj-$(CONFIG_B) += b.o\n", "", "sub/a | .", "CONFIG_B=m"},
		{"argument wins", "-- Kbuild --\nN := b\nobj-m := $(N).o\n", "N=a", "a | .", ""},
		{"override", "-- Kbuild --\noverride N := b\nobj-m := $(N).o\n", "N=a", "b | .", ""},
		{"shell", "-- Kbuild --\nobj-m := $(shell echo b.o) a.o\n", "", "b a | .", ""},
		{"wildcard", "-- Kbuild --\nobj-m := $(patsubst $(src)/%.c,%.o,$(wildcard $(src)/*.c))\n-- b.c --\n-- a.c --\n-- a.h --\n", "", "a b | .", ""},
		{"wildcard below", "-- Kbuild --\nobj-m := x/\n-- x/Kbuild --\nobj-m := $(notdir $(patsubst %.c,%.o,$(wildcard $(obj)/*.c)))\n-- x/b.c --\n", "", "x/b | .", ""},
		{"foreach and eval", "-- Kbuild --\n$(foreach x,a b,$(eval obj-m += $(x).o))\n", "", "a b | .", ""},
		{"absolute", "-- Kbuild --\nobj-m := a.o $(obj)/b.o\n", "", "a b | .", ""},
		{"KERNELRELEASE", "-- Makefile --\nifneq ($(KERNELRELEASE),)\n\tobj-m := a.o\nelse\nobj-m := b.o\nall:\n\tmake x\nendif\n", "", "a | .", ""},
		{"KERNELRELEASE with a default", "-- Makefile --\nKERNELRELEASE ?= $(shell uname -r)\nKERNELRELEASE :=\nifneq ($(KERNELRELEASE),)\nobj-m := a.o\nendif\n", "", "a | .", ""},
		{"argument decides", "-- Kbuild --\nobj-m := a.o\nifeq ($(HDAPS),1)\nobj-m += b.o\nendif\n", "HDAPS=1", "a b | .", ""},
		{"target's variable", "-- Makefile --\nobj-m := a.o\nall: obj-m := b.o\n", "", "a | .", ""},
		{"include", "-- Makefile --\ninclude $(src)/Kbuild.in\nobj-m += b.o\n-- Kbuild.in --\nobj-m := a.o\n", "", "a b | .", ""},
		{"include of an argument", "-- sub/Kbuild --\ninclude $(TOP)/x.mk\nobj-$(build_a) := a.o\n-- x.mk --\nbuild_a := m\n", "TOP=$PWD", "sub/a | sub", ""},
		{"says much", "-- Kbuild --\n$(info obj-m is x)\n$(warning here)\nobj-m := a.o\n", "", "a | .", ""},

		{"last one counts", "-- Kbuild --\nobj-m := a.o\nobj-m := b.o\n", "", "b | .", ""},
		{"CR LF", "-- Kbuild --\nobj-m := a.o\r\nX := y\r\n", "", "a | .", ""},
		{"obj-m of an argument", "-- Kbuild --\nobj-m := a.o\n", "obj-m=b.o", "b | .", ""},
		{"exported, several", "-- Kbuild --\nA := m\nB := m\n\texport A  B\nobj-y += sub/\n-- sub/Kbuild --\nobj-$(A) += a.o\nobj-$(B) += b.o\n", "", "sub/a sub/b | .", ""},
		{"exported, a list", "-- Kbuild --\nexport obj-m := sub/\n-- sub/Kbuild --\nobj-m += a.o\n", "", "sub/a | .", ""},
		{"included config", "-- Kbuild --\ninclude $(src)/x.mk\ninclude $(M)/y.mk\nobj-m := a.o\n-- x.mk --\nobj-$(CONFIG_A) += a.o\n-- y.mk --\nifdef CONFIG_B\nobj-m += b.o\nendif\n", "", "a | .", "CONFIG_A CONFIG_B"},
		{"kbuild's own", "-- sub/Kbuild --\nobj-m := $(if $(and $(VERSION),$(PATCHLEVEL),$(ARCH),$(SRCARCH),$(srctree),$(objtree),$(KBUILD_MODULES)),a.o)\ninclude $(KBUILD_EXTMOD)/x.mk\n-- sub/x.mk --\nobj-m += b.o\n", "", "sub/a sub/b | sub", ""},
		{"include of what is not there", "-- Kbuild --\ninclude $(srctree)/gone.mk $(src)/gone.mk\nobj-m := a.o\n", "", "a | .", ""},
		{"shell that makes", "-- Kbuild --\nobj-m := $(shell $(MAKE) -s -f $(src)/x.mk)\n-- x.mk --\nall: ; @echo a.o\n", "", "a | .", ""},
		{"references", "-- Kbuild --\nobj-m := $(if $(filter-out $$%,$(K)),a.o) $(if $(findstring $$,$(S)),,b.o)\n", "K=${kernelver} S=$kernel_source_dir/x", "a b | .", ""},
		{"forged answer", "-- Kbuild --\n$(info ask: builds)$(info ask: builds ../../x.o y)$(info ask: unset)$(info ask: builds b.o)\nobj-m := a.o\n", "", "b a | .", "../../x.o: it leads out"},
		{"colors", "-- Kbuild --\nobj-m := \x1b[31m\n", "", " | ", "Kbuild: ?[31m: "},

		// What make cannot read.
		{"syntax", "-- Kbuild --\nobj-m := a.o\nno rule\n", "", " | ", "missing separator"},
		{"error", "-- Kbuild --\nobj-m := a.o\n$(error it will not do)\n", "", " | ", "it will not do"},
		{"endless", "-- Kbuild --\nA = $(B)\nB = $(A)\nobj-m := $(A) a.o\n", "", " | ", "Recursive variable"},

		// No rule runs, neither of what make has read nor of the first target.
		{"made by a rule", "-- Kbuild --\nall:\n\ttouch $(src)/ran\n-include $(src)/x.mk\n$(src)/x.mk $(src)/Kbuild: FORCE\n\techo 'obj-m := b.o' >$@\nFORCE:\nobj-m := a.o\n", "", "a | .", ""},

		// Directories.
		{"directory", "-- Kbuild --\nobj-m += sub/ b.o\n-- sub/Makefile --\nobj-m := a.o\n", "", "sub/a b | .", ""},
		{"directory by obj-y", "-- Kbuild --\nobj-y += sub/\n-- sub/Makefile --\nobj-m := a.o deep/\n-- sub/deep/Kbuild --\nobj-m := c.o\n", "", "sub/a sub/deep/c | .", ""},
		{"directory by subdir-m", "-- Kbuild --\nsubdir-m := sub\n-- sub/Makefile --\nobj-m := a.o\n", "", "sub/a | .", ""},
		{"directory without modules", "-- Kbuild --\nobj-m := sub/ a.o\n", "", "a | .", "sub/: no module was found there"},
		{"names alike", "-- Kbuild --\nobj-m := a-b.o a_b.o\n", "", "a-b | .", "./a_b.ko: left out, since ./a-b.ko is installed by that name"},
		{"same name twice", "-- Kbuild --\nobj-m := x/ y/\n-- x/Kbuild --\nobj-m := a.o\n-- y/Kbuild --\nobj-m := a.o\n", "", "x/a | .", "y/a.ko: left out"},
		{"out of the directory", "-- Kbuild --\nobj-m := a.o ../b.o /c.o x/../../d.o ../\n", "", "a | .", "../b.o: it leads out of the directory"},
		{"odd names", "-- Kbuild --\nobj-m := a.o b.c d@e.o 'f'.o -g.o h.ko.o\n", "", "a | .", "b.c: it is not an object"},

		// Trees without a Kbuild file at their top.
		{"deep", "-- src/mod/common/Kbuild --\nobj-m += c.o\n-- src/mod/a/Makefile --\nobj-m += a.o\n-- src/mod/Makefile --\nall:\n\tmake -C common\n", "", "src/mod/a/a src/mod/common/c | src/mod/a src/mod/common", ""},
		{"not below a Kbuild file", "-- x/Kbuild --\nobj-m := a.o\n-- x/y/Kbuild --\nobj-m := b.o\n", "", "x/a | x", ""},
		{"hidden", "-- .x/Kbuild --\nobj-m := a.o\n", "", " | ", ""},
		{"left out as a whole", "-- x/Kbuild --\nobj-m := a.o\n-- y/Kbuild --\nobj-m := a.o\n", "", "x/a | x", "left out"},
		{"top says nothing certain", "-- Kbuild --\nobj-$(CONFIG_A) := x/\n-- x/Kbuild --\nobj-m := a.o\n", "", " | ", "CONFIG_A"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			root := makeTree(t, test.files)
			tree := openTree(t, root, test.args)
			if got := summary(tree.Find()); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			notes := strings.Join(tree.Notes, "\n")
			if test.notes == "" && notes != "" || !strings.Contains(notes, test.notes) {
				t.Errorf("notes:\n%s\nwant %q", notes, test.notes)
			}
			if _, err := root.Stat("ran"); err == nil {
				t.Error("a rule ran")
			}
		})
	}
}

// Neither a symbolic link nor a FIFO leads anywhere, as far as Find follows them; make
// may read what is outside, and has nothing to write to.
func TestFindStaysInside(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "Kbuild"), []byte("obj-m := evil.o\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, to := range map[string]string{"out": outside, "loop": ".", "in": "inside"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "inside/Makefile"), 0o644); err != nil {
		t.Fatal(err)
	}
	kbuild := "X := $(shell touch $(src)/written " + outside + "/written)\nobj-m := a.o out/ in/ loop/loop/b.o\n"
	if err := os.WriteFile(filepath.Join(dir, "Kbuild"), []byte(kbuild), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := openTree(t, openRoot(t, dir), "")
	if got, want := summary(tree.Find()), "a loop/loop/b | ."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := strings.Join(tree.Notes, "\n"); !strings.Contains(got, "escapes") || !strings.Contains(got, "it is not a file") {
		t.Errorf("notes:\n%s", got)
	}
	for _, d := range []string{dir, outside} {
		if _, err := os.Stat(filepath.Join(d, "written")); err == nil {
			t.Errorf("make wrote to %s", d)
		}
	}
}

// What does not end is ended.
func TestFindEnds(t *testing.T) {
	for name, test := range map[string]struct{ file, note string }{
		"sleeps":    {"X := $(shell sleep 1000)\nobj-m := a.o\n", "takes too long"},
		"waits":     {"X := $(shell cat)\nobj-m := a.o\n", ""},
		"doubles":   {"L := xxxxxxxxxxxxxxxx\n" + strings.Repeat("L := $(L) $(L)\n", 100) + "obj-m := $(L)\n", "Kbuild: "},
		"prints":    {"$(info $(shell yes | head -c 100000000))\nobj-m := a.o\n", "Kbuild: "},
		"itself":    {"obj-m := a.o ./\n", "too many modules and directories"},
		"processes": {"X := $(shell :(){ :|:& };:)\nobj-m := a.o\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "sleeps" {
				t.Skip("it takes long; make test runs it without -short")
			}
			if name == "processes" && os.Geteuid() != 0 {
				testskip.For(t, "it fills the limit of a user who needs it: run it as root")
			}
			t.Parallel()
			start := time.Now()
			tree := openTree(t, makeTree(t, "-- Kbuild --\n"+test.file), "")
			tree.Find()
			if took := time.Since(start); took > allTime+time.Minute {
				t.Errorf("it took %v", took)
			}
			if got := strings.Join(tree.Notes, "\n"); !strings.Contains(got, test.note) {
				t.Errorf("notes:\n%s\nwant %q", got, test.note)
			}
		})
	}
}

func FuzzParseAnswer(f *testing.F) {
	root := makeTree(f, "") // with no directory to look at
	f.Add("ask: builds a.o x.o\nask: builds /top/sub/b/\nnoise\nask: end here\n")
	f.Add("ask: export A=x\nask: unset CONFIG_A\nask:\nask: builds\n\xff")
	f.Fuzz(func(t *testing.T, text string) {
		a := parseAnswer(text)
		if a["end"] != nil && !strings.Contains(text, "end") {
			t.Error("whole without its end")
		}
		for _, said := range a {
			if slices.ContainsFunc(said, func(s string) bool { return strings.TrimSpace(s) == "" }) {
				t.Errorf("something is empty: %q", a)
			}
		}
		tree := &Tree{root: root, top: "/top"}
		for _, line := range a["builds"] {
			words := strings.Fields(line)
			rel, err := tree.member("sub", words[0])
			if err == nil && (!filepath.IsLocal(rel) || rel != "sub" && !strings.HasPrefix(rel, "sub/")) {
				t.Errorf("%s is %q", words[0], rel)
			}
			modules, err := tree.builds("sub", words[0], words[1:], nil)
			if err == nil && len(modules) != 1 {
				t.Errorf("%v are the modules %v", words, modules)
			}
			for _, m := range modules {
				if checkModule(m.Name) != nil || checkPath(m.Dir) != nil || err != nil {
					t.Errorf("module %+v, %v", m, err)
				}
			}
		}
	})
}
