package draft

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

// makeTree writes the files of a txtar archive and opens their folder.
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
	return openTree(t, dir)
}

func openTree(t testing.TB, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// summary is the modules as FOLDER/NAME, and the folders.
func summary(tree Tree) string {
	var list []string
	for _, m := range tree.Modules {
		name := m.Name
		if m.Dir != "." {
			name = m.Dir + "/" + name
		}
		list = append(list, name)
	}
	return strings.Join(list, " ") + " | " + strings.Join(tree.Folders, " ")
}

func TestFind(t *testing.T) {
	for _, test := range []struct {
		name, files, args, want string
		notes                   string // a text that the notes have; "" means that there are none
	}{
		{"plain", "-- Kbuild --\nobj-m := a.o\n", "", "a | .", ""},
		{"recursive", "-- Makefile --\nobj-m = a.o b.o\n", "", "a b | .", ""},
		{"no blanks", "-- Makefile --\nobj-m:=a.o\nobj-m+=b.o\n", "", "a b | .", ""},
		{"Kbuild wins", "-- Kbuild --\nobj-m := a.o\n-- Makefile --\nobj-m := b.o\n", "", "a | .", ""},
		{"last one counts", "-- Kbuild --\nobj-m := a.o\nobj-m := b.o\n", "", "b | .", ""},
		{"added", "-- Kbuild --\nobj-m := a.o\nobj-m += b.o c.o \nobj-m += a.o\n", "", "a b c | .", ""},
		{"continued", "-- Kbuild --\nobj-m := a.o \\\n\tb.o\\\n c.o # d.o \\\n e.o\nobj-m += f.o\n", "", "a b c f | .", ""},
		{"comments", "-- Kbuild --\n# obj-m := x.o\nobj-m := a.o# b.o\n#\\\nobj-m := c.o\n", "", "a | .", ""},
		{"CR LF", "-- Kbuild --\nobj-m := a.o \\\r\n b.o\r\nX := y\r\n", "", "a b | .", ""},
		{"empty", "-- Kbuild --\nobj-m :=\n", "", " | ", ""},
		{"obj-y is no module", "-- Kbuild --\nobj-y += a.o\nobj-m += b.o\n", "", "b | .", ""},
		{"obj- is not built", "-- Kbuild --\nobj-$(NOT_SET) += a.o\nobj-n += c.o\nobj-m += b.o\n", "", "b | .", ""},
		{"composed", "-- Kbuild --\nobj-m := a.o\na-objs := x.o y.o\na-y += z.o\n", "", "a | .", ""},
		{"below", "-- Kbuild --\nobj-m := core/a.o\n", "", "core/a | .", ""},

		// Variables.
		{"config m", "-- Kbuild --\nCONFIG_A := m\nobj-$(CONFIG_A) += a.o\n", "", "a | .", ""},
		{"config m, by default", "-- Kbuild --\nCONFIG_A ?= m\nobj-${CONFIG_A} += a.o\n", "", "a | .", ""},
		{"config n", "-- Kbuild --\nCONFIG_A = n\nobj-$(CONFIG_A) += a.o\nobj-m += b.o\n", "", "b | .", ""},
		{"config of the kernel", "-- Kbuild --\nobj-$(CONFIG_A) += a.o\nobj-m += b.o\n", "", "b | .", "Kbuild:1: obj-$(CONFIG_A) += a.o: CONFIG_A is not set here; where it is to be built, give --make-arg CONFIG_A=m"},
		{"config of an argument", "-- Kbuild --\nCONFIG_A := n\nobj-$(CONFIG_A) += a.o\n", "CONFIG_A=m", "a | .", ""},
		{"exported config", "-- Kbuild --\nexport CONFIG_A := m\nCONFIG_B := m\nobj-y += sub/\n-- sub/Kbuild --\nobj-$(CONFIG_A) += a.o\nobj-$(CONFIG_B) += b.o\n", "", "sub/a | .", "CONFIG_B=m"},
		{"variable", "-- Kbuild --\nNAME = a\nobj-m := $(NAME).o\n", "", "a | .", ""},
		{"variable that comes later", "-- Kbuild --\nobj-m = $(NAME).o\nNAME := a\n", "", "a | .", ""},
		{"variable that comes too late", "-- Kbuild --\nobj-m := $(NAME).o x.o\nNAME := a\n", "", "x | .", "no name"},
		{"braces", "-- Kbuild --\nDriver=a\nobj-m := ${Driver}.o\n${Driver}-objs :=x.o\n", "", "a | .", ""},
		{"one letter", "-- Kbuild --\nN := a\nobj-m := $N.o\n", "", "a | .", ""},
		{"computed name", "-- Kbuild --\nA_m := a.o\nX := m\nobj-m := $(A_$(X))\n", "", "a | .", ""},
		{"override", "-- Kbuild --\noverride N := b\nobj-m := $(N).o\n", "N=a", "b | .", ""},
		{"argument wins", "-- Kbuild --\nN := b\nobj-m := $(N).o\n", "N=a", "a | .", ""},
		{"obj-m of an argument", "-- Kbuild --\nobj-m := a.o\n", "obj-m=b.o", "b | .", ""},
		{"by default", "-- Kbuild --\nN := b\nN ?= a\nobj-m := $(N).o\n", "", "b | .", ""},
		{"undefine", "-- Kbuild --\nN := b\nundefine N\nobj-m := a$(N).o\n", "", "a | .", ""},
		{"shell", "-- Kbuild --\nobj-m := $(shell ls *.o) a.o\n", "", "a | .", "Kbuild:1: … in obj-m: it cannot be evaluated without running make"},
		{"shell assignment", "-- Kbuild --\nX != echo b\nobj-m := $(X).o a.o\n", "", "a | .", "Kbuild:2: ….o in obj-m"},
		{"wildcard outside", "-- Kbuild --\nobj-m := $(patsubst %.c,%.o,$(wildcard *.c)) a.o\n", "", "a | .", "cannot be evaluated"},
		{"wildcard", "-- Kbuild --\nobj-m := $(patsubst $(src)/%.c,%.o,$(wildcard $(src)/*.c))\n-- b.c --\n-- a.c --\n-- a.h --\n", "", "a b | .", ""},
		{"endless", "-- Kbuild --\nA = $(B)\nB = $(A)\nobj-m := $(A) a.o\n", "", "a | .", "cannot be evaluated"},
		{"define", "-- Kbuild --\ndefine X\nobj-m := b.o\nendef\nobj-m := a.o $(X)\n", "", "a | .", "cannot be evaluated"},
		{"eval", "-- Kbuild --\n$(eval CONFIG_A := m)\nobj-m := a.o\nobj-$(build_b) += b.o\n", "", "a | .", "Kbuild:3: obj-$(build_b) += b.o: it cannot"},
		{"kernel's own", "-- Kbuild --\nobj-m := a.o a-$(ARCH).o\n", "", "a | .", "a-….o in obj-m"},
		{"absolute", "-- Kbuild --\nobj-m := a.o $(obj)/b.o\n", "", "a b | .", ""},

		// Functions.
		{"addsuffix", "-- Kbuild --\nM1 := a b\nobj-m := $(addsuffix .o,$(M1))\n", "", "a b | .", ""},
		{"addprefix", "-- Kbuild --\nobj-m := $(addprefix s/, a.o b.o)\n", "", "s/a s/b | .", ""},
		{"suffix", "-- Kbuild --\nM1 = a b\nobj-m := $(M1:=.o)\n", "", "a b | .", ""},
		{"substitution", "-- Kbuild --\nM1 = a.c b.c\nobj-m := $(M1:.c=.o)\n", "", "a b | .", ""},
		{"substitution of a pattern", "-- Kbuild --\nM1 = a b\nobj-m := $(M1:%=m-%.o)\n", "", "m-a m-b | .", ""},
		{"subst", "-- Kbuild --\nobj-m := $(subst .c,.o,a.c b.c)\n", "", "a b | .", ""},
		{"strip and notdir", "-- Kbuild --\nobj-m := $(notdir $(strip  x/a.o   b.o ))\n", "", "a b | .", ""},
		{"basename", "-- Kbuild --\nobj-m := $(addsuffix .o,$(basename a.c b.S))\n", "", "a b | .", ""},
		{"filter", "-- Kbuild --\nobj-m := $(filter %.o,a.o b.c) $(filter-out x%,x.o y.o)\n", "", "a y | .", ""},
		{"foreach", "-- Kbuild --\nobj-m := $(foreach x,a b,$(x).o) c.o\n", "", "c | .", "cannot be evaluated"},

		// Conditionals.
		{"KERNELRELEASE", "-- Makefile --\nifneq ($(KERNELRELEASE),)\n\tobj-m := a.o\nelse\nobj-m := b.o\nall:\n\tmake x\nendif\n", "", "a | .", ""},
		{"KERNELRELEASE, asked by ifdef", "-- Makefile --\nifndef KERNELRELEASE\nall:\n\tmake x\nelse\nobj-m := a.o\nendif\n", "", "a | .", ""},
		{"KERNELRELEASE with a default", "-- Makefile --\nKERNELRELEASE ?= $(shell uname -r)\nKERNELRELEASE :=\nifneq ($(KERNELRELEASE),)\nobj-m := a.o\nendif\n", "", "a | .", ""},
		{"KERNELRELEASE, empty first", "-- Makefile --\nifeq (,$(KERNELRELEASE))\nobj-m := b.o\nelse\nobj-m := a.o\nendif\n", "", "a | .", ""},
		{"equal", "-- Kbuild --\nX = 1\nifeq ($(X),1)\nobj-m := a.o\nelse\nobj-m := b.o\nendif\n", "", "a | .", ""},
		{"equal, quoted", "-- Kbuild --\nX = 1\nifeq \"$(X)\" '2'\nobj-m := a.o\nelse\nobj-m := b.o\nendif\n", "", "b | .", ""},
		{"else if", "-- Kbuild --\nX = 2\nifeq ($(X),1)\nobj-m := a.o\nelse ifeq ($(X),2)\nobj-m := b.o\nelse ifdef X\nobj-m := c.o\nelse\nobj-m := d.o\nendif\n", "", "b | .", ""},
		{"nested", "-- Kbuild --\nifdef X\nifdef Y\nobj-m += a.o\nelse\nobj-m += b.o\nendif\nelse\nifndef Y\nobj-m += c.o\nendif\nendif # X\n", "", "c | .", ""},
		{"argument decides", "-- Kbuild --\nobj-m := a.o\nifeq ($(HDAPS),1)\nobj-m += b.o\nendif\n", "HDAPS=1", "a b | .", ""},
		{"unset decides", "-- Kbuild --\nobj-m := a.o\nifeq ($(HDAPS),1)\nobj-m += b.o\nendif\n", "", "a | .", ""},
		{"unknown adds", "-- Kbuild --\nobj-m := a.o\nifeq ($(CONFIG_NET),y)\nobj-m += b.o\nendif\nobj-m += c.o\n", "", "a c | .", "Kbuild:3: obj-m += b.o: whether the condition of Kbuild:2 (ifeq ($(CONFIG_NET),y)) holds is not known here"},
		{"unknown replaces", "-- Kbuild --\nobj-m := a.o\nifeq ($(CONFIG_NET),y)\nobj-m := b.o\nendif\nobj-m += c.o\n", "", "c | .", "still counts"},
		{"unknown decides of a variable", "-- Kbuild --\nL := a.o\nifdef CONFIG_NET\nL += b.o\nendif\nobj-m := $(L)\n", "", "a | .", "cannot be evaluated"},
		{"unknown else", "-- Kbuild --\nifdef CONFIG_NET\nelse\nobj-m := b.o\nendif\nobj-m += c.o\n", "", "c | .", "Kbuild:1"},
		{"bad condition", "-- Kbuild --\nifeq $(X) 1\nobj-m := b.o\nendif\nobj-m += c.o\n", "", "c | .", "Kbuild:1"},
		{"open if", "-- Kbuild --\nobj-m += c.o\nifdef X\nobj-m := b.o\n", "", "c | .", ""},
		{"stray else and endif", "-- Kbuild --\nelse\nendif\nobj-m += c.o\n", "", "c | .", ""},

		// Rules and recipes.
		{"recipe", "-- Makefile --\nall: x\n\tobj-m := x.o\n\nobj-m := a.o\n\tobj-m += b.o\nclean:\n\trm \\\n\tobj-m := y.o\n", "", "a b | .", ""},
		{"target's variable", "-- Makefile --\nobj-m := a.o\nall: obj-m := b.o\n", "", "a | .", ""},
		{"double colon", "-- Makefile --\nall::\n\tobj-m := b.o\nobj-m ::= a.o\n", "", "a | .", ""},

		// Includes.
		{"include", "-- Makefile --\ninclude $(src)/Kbuild.in\nobj-m += b.o\n-- Kbuild.in --\nobj-m := a.o\n", "", "a b | .", ""},
		{"include from the top", "-- sub/Kbuild --\ninclude $(M)/x.mk\n-- sub/x.mk --\nobj-m := a.o\n", "", "sub/a | sub", ""},
		{"include of an argument", "-- sub/Kbuild --\ninclude $(TOP)/x.mk\nobj-$(build_a) := a.o\n-- x.mk --\nbuild_a := m\n", "TOP=$PWD", "sub/a | sub", ""},
		{"include of what is not there", "-- Kbuild --\n-include $(src)/x.mk\nobj-m := a.o\nobj-$(X) += b.o\n", "", "a | .", ""},
		{"include of what ought to be there", "-- Kbuild --\ninclude $(src)/x.mk\nobj-m := a.o\nobj-$(X) += b.o\n", "", "a | .", "Kbuild:3: obj-$(X) += b.o"},
		{"include of what is elsewhere", "-- Kbuild --\n-include $(KERNEL)/x.mk\nobj-m := a.o\nobj-$(X) += b.o\n", "", "a | .", "Kbuild:3: obj-$(X) += b.o"},
		{"include by pattern", "-- Kbuild --\n-include ${M}/Kbuild.*\n-- Kbuild.x --\nobj-m += x.o\n-- Kbuild.y --\nobj-m += y.o\n", "", "x y | .", ""},
		{"include of itself", "-- Kbuild --\nobj-m += a.o\ninclude $(src)/Kbuild\n", "", "a | .", "include each other"},
		{"include that leads out", "-- Kbuild --\nobj-m += a.o\ninclude $(src)/../x\n", "", "a | .", "not looked at"},

		// Folders.
		{"folder", "-- Kbuild --\nobj-m += sub/ b.o\n-- sub/Makefile --\nobj-m := a.o\n", "", "sub/a b | .", ""},
		{"folder by obj-y", "-- Kbuild --\nobj-y += sub/\n-- sub/Makefile --\nobj-m := a.o deep/\n-- sub/deep/Kbuild --\nobj-m := c.o\n", "", "sub/a sub/deep/c | .", ""},
		{"folder by subdir-m", "-- Kbuild --\nsubdir-m := sub\n-- sub/Makefile --\nobj-m := a.o\n", "", "sub/a | .", ""},
		{"folder without modules", "-- Kbuild --\nobj-m := sub/ a.o\n", "", "a | .", "no module was found in sub"},
		{"folder into itself", "-- Kbuild --\nobj-m := ./ a.o\n", "", "a | .", "too many folders"},
		{"same name twice", "-- Kbuild --\nobj-m := x/ y/\n-- x/Kbuild --\nobj-m := a.o\n-- y/Kbuild --\nobj-m := a.o\n", "", "x/a | .", "y/a.ko: left out"},
		{"out of the folder", "-- Kbuild --\nobj-m := a.o ../b.o /c.o x/../../d.o ../\n", "", "a | .", "../b.o in obj-m: it leads out of the folder"},
		{"odd names", "-- Kbuild --\nobj-m := a.o b.c d@e.o 'f'.o -g.o h.ko.o\n", "", "a | .", "b.c in obj-m is no object"},

		// Trees without a Kbuild file at their top.
		{"deep", "-- src/mod/common/Kbuild --\nobj-m += c.o\n-- src/mod/a/Makefile --\nobj-m += a.o\n-- src/mod/Makefile --\nall:\n\tmake -C common\n", "", "src/mod/a/a src/mod/common/c | src/mod/a src/mod/common", ""},
		{"not below a Kbuild file", "-- x/Kbuild --\nobj-m := a.o\n-- x/y/Kbuild --\nobj-m := b.o\n", "", "x/a | x", ""},
		{"hidden", "-- .x/Kbuild --\nobj-m := a.o\n", "", " | ", ""},
		{"left out as a whole", "-- x/Kbuild --\nobj-m := a.o\n-- y/Kbuild --\nobj-m := a.o\n", "", "x/a | x", "left out"},
		{"top says nothing certain", "-- Kbuild --\nobj-$(CONFIG_A) := x/\n-- x/Kbuild --\nobj-m := a.o\n", "", " | ", "CONFIG_A"},

		{"binary", "-- Kbuild --\nobj-m := a.o\x01\n", "", " | ", "not a text file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree := Find(makeTree(t, test.files), strings.Fields(test.args))
			if got := summary(tree); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			notes := strings.Join(tree.Notes, "\n")
			if test.notes == "" && notes != "" || !strings.Contains(notes, test.notes) {
				t.Errorf("notes:\n%s\nwant %q", notes, test.notes)
			}
		})
	}
}

// TestFindStaysInside shows that neither a symbolic link nor a FIFO leads
// anywhere.
func TestFindStaysInside(t *testing.T) {
	outside := t.TempDir()
	for name, text := range map[string]string{"Kbuild": "obj-m := evil.o\n", "x.mk": "obj-m += evil.o\n"} {
		if err := os.WriteFile(filepath.Join(outside, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link(outside, "out")
	link(filepath.Join(outside, "x.mk"), "x.mk")
	link("../"+filepath.Base(outside)+"/x.mk", "y.mk")
	link(".", "loop")
	link("inside", "in")
	if err := os.Mkdir(filepath.Join(dir, "inside"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, fifo := range []string{"inside/Makefile", "z.mk"} {
		if err := unix.Mkfifo(filepath.Join(dir, fifo), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kbuild := "obj-m := a.o out/ in/ loop/loop/b.o\n-include $(src)/x.mk $(src)/y.mk $(src)/z.mk\n"
	if err := os.WriteFile(filepath.Join(dir, "Kbuild"), []byte(kbuild), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := Find(openTree(t, dir), nil)
	if got, want := summary(tree), "a loop/loop/b | ."; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := strings.Join(tree.Notes, "\n"); !strings.Contains(got, "escapes") || !strings.Contains(got, "z.mk: it is not a file") {
		t.Errorf("notes:\n%s", got)
	}
}

// TestFindEnds shows that evaluation ends soon and takes little, whatever a file
// says.
func TestFindEnds(t *testing.T) {
	var double strings.Builder
	double.WriteString("A0 = xxxxxxxxxx\n")
	for i := range 60 {
		double.WriteString(strings.NewReplacer("#", string(rune('A'+i/26))+string(rune('a'+i%26))).Replace("V# := $(L)$(L)\nL = $(V#) $(V#)\n"))
	}
	double.WriteString("obj-m := $(L)\n")
	for name, file := range map[string]string{
		"doubling":      double.String(),
		"simple":        "L := xxxxxxxxxxxxxxxx\n" + strings.Repeat("L := $(L) $(L)\n", 100) + "obj-m := $(L)\n",
		"suffixes":      "L := " + strings.Repeat("x ", 100000) + "\nobj-m := $(addsuffix " + strings.Repeat("y", 100000) + ",$(L))\n",
		"subst":         "L := " + strings.Repeat("x", 100000) + "\nobj-m := $(subst x," + strings.Repeat("y", 100000) + ",$(L))\n",
		"filter":        "L := " + strings.Repeat("x ", 100000) + "\nobj-m := $(filter " + strings.Repeat("y ", 100000) + ",$(L))\n",
		"parentheses":   strings.Repeat("$(", 400000),
		"closed":        strings.Repeat("$(", 200000) + strings.Repeat(")", 200000),
		"conditions":    strings.Repeat("ifdef CONFIG_X\n", 60000) + strings.Repeat("obj-m := a.o\n", 10000),
		"conditions, 2": strings.Repeat("ifdef CONFIG_X\nobj-m := a.o\nendif\n", 20000),
		"includes":      strings.Repeat("include $(src)/Kbuild\n", 1000),
		"folders":       "obj-m := " + strings.Repeat("./ ", 1000),
		"modules":       "obj-m := " + strings.Repeat("a", 100) + strings.Repeat(" $(words x)b.o", 60000),
		"additions":     strings.Repeat("L += $(L)\n", 50000) + "obj-m := $(L)\n",
		"recursion":     strings.Repeat("L += x\n", 100000) + strings.Repeat("X := $(L)\n", 100) + "obj-m := a.o\n",
	} {
		t.Run(name, func(t *testing.T) {
			root := makeTree(t, "-- Kbuild --\n"+file)
			done := make(chan struct{})
			go func() { Find(root, nil); close(done) }()
			select {
			case <-done:
			case <-time.After(time.Minute): // it takes milliseconds
				t.Fatal("it does not end")
			}
		})
	}
}

// FuzzFind checks on arbitrary files that what is found could be built: names,
// folders and destinations that conf takes, inside the tree.
func FuzzFind(f *testing.F) {
	f.Add("obj-m := a.o\n", "obj-m += sub/\n")
	f.Add("ifneq ($(KERNELRELEASE),)\n\tobj-m := $(N).o\nelse\nall:\n\tmake\nendif\n", "include $(src)/../Kbuild\n")
	f.Add("define X\nendef\nexport A := $(patsubst %.c,%.o,$(wildcard $(src)/*.c))\nobj-$(A) = $(A:.o=.x)\n", "obj-m = $(A)")
	f.Add("L += $(L)\nobj-y += ./ sub/\n-include ${M}/*\n", "obj-m := ../a.o $(obj)/b.o\\\n")
	f.Add("ifeq \"$(X)\" '1'\nelse ifdef Y\nelse\nendif", "$(eval $(call x))$(error x)")
	f.Fuzz(func(t *testing.T, top, sub string) {
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, "sub"), 0o755)
		os.WriteFile(filepath.Join(dir, "Kbuild"), []byte(top), 0o644)
		os.WriteFile(filepath.Join(dir, "sub/Makefile"), []byte(sub), 0o644)
		tree := Find(openTree(t, dir), []string{"N=x", "P=$PWD/sub"})
		seen := map[string]bool{}
		for _, m := range tree.Modules {
			if checkModule(m.Name) != nil || checkPath(m.Dir) != nil || !filepath.IsLocal(m.Dir) || m.Dest != "/extra" || seen[m.Name] {
				t.Errorf("module %+v", m)
			}
			seen[m.Name] = true
			for _, s := range m.sources {
				if !filepath.IsLocal(s) {
					t.Errorf("module %+v", m)
				}
			}
		}
		for _, d := range tree.Folders {
			if checkPath(d) != nil || !filepath.IsLocal(d) {
				t.Errorf("folder %q", d)
			}
		}
		for _, n := range tree.Notes {
			if strings.ContainsAny(n, "\n"+marks+inTree) {
				t.Errorf("note %q", n)
			}
		}
	})
}
