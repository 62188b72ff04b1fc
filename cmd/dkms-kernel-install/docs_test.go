// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/testskip"
)

// Completions, and the parts of manual pages that describe commands and options, are
// made from the structs that kong parses command lines into. The generator is a test,
// so that the program does not contain it.

var update = flag.Bool("update", false, "write what TestDocs and TestSecurityTable make")

const installDir = "../../install.d"

// docs returns the generated files by their paths below install.d. The completions
// look for kernels and packages below root.
func docs(t *testing.T, root string) map[string]string {
	t.Helper()
	dkms, own := classicCommand(t), nativeCommand(t)
	files := map[string]string{}
	for _, c := range []command{dkms, own} {
		page, err := os.ReadFile(filepath.Join(installDir, "man", c.name+".8.in"))
		if err != nil {
			t.Fatal(err)
		}
		files["man/"+c.name+".8"] = manPage(string(page), c)
		files["completions/"+c.name+".bash"] = bashCompletion(c, root)
		files["completions/_"+c.name] = zshCompletion(c, root)
		files["completions/"+c.name+".fish"] = fishCompletion(c, root)
	}
	return files
}

// TestDocs compares the generated files with those that are checked in.
func TestDocs(t *testing.T) {
	for name, want := range docs(t, "") {
		file := filepath.Join(installDir, name)
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("install.d/%s is out of date; run: make docs\n%s", name, diff)
		}
	}
}

// TestProvides checks that the packages provide the version of dkms that the program
// names.
func TestProvides(t *testing.T) {
	for _, c := range []struct{ file, want string }{
		{"nfpm.yaml", "- dkms (= " + classicVersion + ")\n"},
		{"nfpm.yaml", "- dkms=" + classicVersion + "\n"},
		{"rpm.spec", "Provides: dkms = " + classicVersion + "\n"},
	} {
		text, err := os.ReadFile(filepath.Join(installDir, "package", c.file))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), c.want) {
			t.Errorf("%s does not have %q", c.file, c.want)
		}
	}
}

// TestManVerbs checks that dkms(8), the completions and the help have all actions, and
// no others.
func TestManVerbs(t *testing.T) {
	c := classicCommand(t)
	var names []string
	for _, sub := range c.subs {
		names = append(names, sub.name)
		if sub.help == "" {
			t.Errorf("%s: completions have no text for it: add one to actionHelp", sub.name)
		}
	}
	page, err := os.ReadFile(filepath.Join(installDir, "man/dkms.8.in"))
	if err != nil {
		t.Fatal(err)
	}
	_, actions, _ := strings.Cut(string(page), ".SH ACTIONS\n")
	actions, _, _ = strings.Cut(actions, ".SH OPTIONS\n")
	var told []string
	for part := range strings.SplitSeq(actions, ".TP\n.B ") {
		if verb, _, ok := strings.Cut(part, "\n"); ok && verb != "" {
			told = append(told, verb)
		}
	}
	if diff := cmp.Diff(names, told); diff != "" {
		t.Errorf("dkms.8.in (+) has other actions than dkms --help (-): %s", diff)
	}
	for verb := range verbs {
		if !slices.Contains(names, verb) {
			t.Errorf("dkms --help does not list %s", verb)
		}
	}
}

// TestManPages checks that mandoc and man format the pages without warnings.
func TestManPages(t *testing.T) {
	pages, err := filepath.Glob(installDir + "/man/*.[58]")
	if err != nil || len(pages) < 4 {
		t.Fatalf("pages: %q, %v", pages, err)
	}
	t.Run("mandoc", func(t *testing.T) {
		testskip.Without(t, "mandoc")
		if out, err := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("man", func(t *testing.T) {
		testskip.Without(t, "man")
		for _, page := range pages {
			cmd := exec.Command("man", "--local-file", "--warnings", "-Tutf8", page)
			cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "MANWIDTH=80")
			var warnings strings.Builder
			cmd.Stderr = &warnings
			out, err := cmd.Output()
			if err != nil || warnings.Len() > 0 {
				t.Errorf("%s: %v\n%s", page, err, warnings.String())
			}
			if len(out) < 1000 {
				t.Errorf("%s shows little: %s", page, out)
			}
		}
	})
}

// command is a program, or one of the commands that it takes.
type command struct {
	name, help, detail string
	args               []argument
	options            []option
	subs               []command
}

// kind is what a value names, for completion.
type kind string

const (
	anything    kind = ""
	aKernel     kind = "kernel"
	aPackage    kind = "package" // NAME/VERSION
	aName       kind = "name"    // of a package
	aVersion    kind = "version" // of a package
	anArch      kind = "arch"
	aFile       kind = "file"
	aDirectory  kind = "directory"
	sourceOrRef kind = "source" // NAME/VERSION, a directory or an archive
)

type argument struct {
	name               string // in capitals
	optional, repeated bool
	kind               kind
}

type option struct {
	short, long string // without dashes; short may be empty
	help        string
	value       string // in capitals; empty for a switch
	repeated    bool
	kind        kind
}

// forms returns the ways to write an option.
func (o option) forms() []string {
	if o.short == "" {
		return []string{"--" + o.long}
	}
	return []string{"-" + o.short, "--" + o.long}
}

// actionHelp has a line for each action of dkms, for completions.
var actionHelp = map[string]string{
	"add":             "register a package",
	"build":           "compile a package and keep its modules in the tree",
	"install":         "put the modules of a package into a kernel's directory",
	"uninstall":       "take modules out of a kernel's directory",
	"unbuild":         "uninstall, and delete the build",
	"remove":          "delete builds, and unregister the package with the last one",
	"status":          "show what is registered, built and installed",
	"match":           "install what another kernel has",
	"autoinstall":     "install all packages that want automatic installation",
	"mktarball":       "write a package and its builds to an archive",
	"ldtarball":       "load a package and its builds from an archive",
	"generate_mok":    "make the signing key",
	"kernel_preinst":  "for hooks: before a kernel is unpacked",
	"kernel_postinst": "for hooks: after a kernel is installed",
	"kernel_prerm":    "for hooks: before a kernel is removed",
}

// classicCommand describes the command line of dkms. Its actions, which for kong are an
// argument, become commands without options of their own.
func classicCommand(t *testing.T) command {
	t.Helper()
	c := describe(t, &classic{}, "dkms")
	model := model(t, &classic{}, "dkms")
	_, list, ok := strings.Cut(model.Positional[0].Help, ": ")
	if !ok {
		t.Fatalf("the help of the action does not list actions: %s", model.Positional[0].Help)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(list, "."), ", ") {
		c.subs = append(c.subs, command{name: name, help: actionHelp[name], args: c.args[1:]})
	}
	c.args = nil
	return c
}

func nativeCommand(t *testing.T) command {
	t.Helper()
	return describe(t, &native{}, "dkms-kernel-install")
}

func model(t *testing.T, cli any, name string) *kong.Application {
	t.Helper()
	parser, err := kong.New(cli, kong.Name(name), kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	return parser.Model
}

func describe(t *testing.T, cli any, name string) command {
	t.Helper()
	return fromNode(model(t, cli, name).Node)
}

func fromNode(n *kong.Node) command {
	c := command{name: n.Name, help: n.Help, detail: n.Detail}
	for _, p := range n.Positional {
		c.args = append(c.args, argument{
			name:     strings.ToUpper(p.Name),
			optional: !p.Required,
			repeated: p.IsCumulative(),
			kind:     kindOf(p.Name, ""),
		})
	}
	for _, f := range n.Flags {
		if f.Hidden {
			continue
		}
		o := option{long: f.Name, help: f.Help}
		if f.Short != 0 {
			o.short = string(f.Short)
		}
		if !f.IsBool() {
			o.value = f.PlaceHolder
			if o.value == "" {
				o.value = strings.ToUpper(f.Name)
			}
			o.repeated = f.IsCumulative()
			o.kind = kindOf(f.Name, o.value)
		}
		c.options = append(c.options, o)
	}
	for _, child := range n.Children {
		if !child.Hidden {
			c.subs = append(c.subs, fromNode(child))
		}
	}
	return c
}

// kindOf returns the kind of an argument, or of an option's value, by its name or by its
// placeholder in the help.
func kindOf(name, placeholder string) kind {
	switch name {
	case "kernel", "kernelver", "templatekernel":
		return aKernel
	case "module", "package", "name":
		return aName
	case "module/version":
		return sourceOrRef
	case "moduleversion", "version", "old-version":
		return aVersion
	case "arch":
		return anArch
	case "dir":
		return aDirectory
	}
	switch placeholder {
	case "FILE":
		return aFile
	case "DIR":
		return aDirectory
	}
	return anything
}
