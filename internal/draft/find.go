// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/sandbox"
)

// Bounds of what is looked at. No module package comes near any of them; a kernel's
// whole source does.
const (
	askTime    = 10 * time.Second // for one Kbuild file
	allTime    = 2 * time.Minute
	maxText    = 1 << 20 // bytes of a file, or that make says of one
	maxWords   = 1000    // that Kbuild files list
	maxSources = 500
	maxNotes   = 40
)

// Tree is a source tree of modules, about whose Kbuild files make is asked: by root in
// a sandbox or not at all, by another user in as much of one as the machine allows,
// since that user could run make without.
type Tree struct {
	Notes []string // what could not be found out and is left out, a line each

	root  *os.Root // through which files are opened, so that no link leads out
	top   string   // its absolute path, free of symbolic links
	world *sandbox.World
	end   time.Time // of asking
	args  []string  // of every make
	given []string  // those that set variables, with values as they are here
	entry string    // the directory that kbuild is pointed at
	words int       // that were looked at
}

// Open returns the tree in root, for args of make. The error is [exec.ErrNotFound] if
// there is no make.
func Open(root *os.Root, args []string) (*Tree, error) {
	if _, err := exec.LookPath("make"); err != nil {
		return nil, fmt.Errorf("make, which reads Kbuild files: %w", err)
	}
	top, err := filepath.EvalSymlinks(root.Name())
	if err != nil {
		return nil, err
	}
	world, err := sandbox.ReadOnly(top)
	if err != nil {
		return nil, err
	}
	world.Output = maxText
	if os.Geteuid() == 0 { // the limit of another user counts all that the user runs
		world.Processes = 512
	}
	t := &Tree{root: root, top: top, world: world, end: time.Now().Add(allTime), args: args}
	// What each kernel's build gives make is not empty here, either.
	here := strings.NewReplacer(buildDir, top, "${", "/nonexistent/", "}", "")
	for _, a := range args {
		if strings.Contains(a, "=") && !strings.HasPrefix(a, "-") {
			t.given = append(t.given, rewrite(a, strings.Clone, here.Replace))
		}
	}
	return t, nil
}

func (t *Tree) note(format string, args ...any) {
	text := strings.ToValidUTF8(fmt.Sprintf(format, args...), "?")
	text = fmt.Sprintf("%.300s", strings.Join(strings.FieldsFunc(text, unicode.IsControl), "?"))
	if len(t.Notes) < maxNotes && !slices.Contains(t.Notes, text) {
		t.Notes = append(t.Notes, text)
	}
}

// read returns the first of these files of a directory that there is, and its text. The
// error is [fs.ErrNotExist] if there is none.
func read(root *os.Root, dir string, names ...string) (name, text string, err error) {
	for _, n := range names {
		name = path.Join(dir, n)
		f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO would wait for its writer
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return name, "", err
		}
		defer f.Close()
		if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxText {
			return name, "", cmp.Or(err, errors.New("it is not a file, or too large"))
		}
		text, err := io.ReadAll(io.LimitReader(f, maxText))
		return name, string(text), err
	}
	return "", "", fs.ErrNotExist
}

// Find looks for modules in the tree: if its top has a Kbuild file or a Makefile that
// lists anything for kbuild, in that and in the directories that it leads into, and else
// in all directories but hidden ones. Kbuild is to build them.
func (t *Tree) Find() *Conf {
	c := &Conf{Args: t.args}
	err := fs.WalkDir(t.root.FS(), ".", func(dir string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			t.note("%v", err)
			return nil
		case time.Now().After(t.end):
			return fmt.Errorf("it takes longer than %v", allTime)
		case !d.IsDir():
			return nil
		case dir != "." && d.Name()[0] == '.':
			return fs.SkipDir
		}
		t.entry = dir
		modules, lists := t.dir(dir, nil)
		before := len(c.Modules)
		for _, m := range modules {
			other := slices.IndexFunc(c.Modules, func(o Module) bool { return kmod.Normal(o.Name) == kmod.Normal(m.Name) })
			if other < 0 {
				c.Modules = append(c.Modules, m)
			} else if o := c.Modules[other]; o.Dir != m.Dir || o.Name != m.Name {
				t.note("%s/%s.ko: left out, since %s/%s.ko is installed by that name", m.Dir, m.Name, o.Dir, o.Name)
			}
		}
		if len(c.Modules) > before {
			c.Steps = append(c.Steps, Step{Dir: dir, Target: "modules", Kbuild: true})
		}
		if lists {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.note("only a part of the tree was searched: %v", err)
	}
	return c
}

// dir returns the modules of a directory and of those below that its Kbuild file leads
// into, and reports whether that file lists anything for kbuild. Env is what the
// directory above exports.
func (t *Tree) dir(dir string, env []string) (modules []Module, lists bool) {
	name, a, err := t.ask(dir, env)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if err != nil {
		t.note("%s: %v", name, err)
		return nil, false
	}
	for _, text := range a["note"] {
		t.note("%s: %s", name, text)
	}
	env = slices.Concat(env, a["export"])
	for _, line := range a["builds"] {
		if t.words++; t.words > maxWords {
			t.note("%s: the tree has too many modules and directories", name)
			break
		}
		words := strings.Fields(line)
		found, err := t.builds(dir, words[0], words[1:], env)
		if err != nil {
			t.note("%s: %s: %v", name, words[0], err)
			continue
		}
		modules = append(modules, found...)
	}
	return modules, a["lists"] != nil
}

// builds returns the modules that a word of a list of dir stands for: those of a
// directory, or one that is made of objects.
func (t *Tree) builds(dir, word string, objects, env []string) ([]Module, error) {
	rel, err := t.member(dir, word)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(word, "/") {
		modules, _ := t.dir(rel, env)
		if len(modules) == 0 {
			err = errors.New("no module was found there")
		}
		return modules, err
	}
	if !strings.HasSuffix(word, ".o") {
		return nil, errors.New("it is not an object")
	}
	m := Module{Name: strings.TrimSuffix(path.Base(rel), ".o"), Dir: path.Dir(rel), Dest: "/extra"}
	for _, o := range objects {
		if rel, err := t.member(dir, o); err == nil && len(m.sources) < maxSources {
			m.sources = append(m.sources, strings.TrimSuffix(rel, ".o")+".c")
		}
	}
	if err := checkModule(m.Name); err != nil {
		return nil, err
	}
	return []Module{m}, nil
}

// member returns a word of a list of dir relative to the tree.
func (t *Tree) member(dir, word string) (string, error) {
	rel := path.Join(dir, word)
	if path.IsAbs(word) {
		rel, _ = filepath.Rel(t.top, word)
	}
	if !fs.ValidPath(rel) || dir != "." && !files.Below(dir, rel) {
		return "", errors.New("it leads out of the directory")
	}
	return rel, checkPath(rel)
}

//go:embed ask.mk
var askMakefile string

// answer is what make says of a Kbuild file, none of it empty, by what it is:
//
//	lists   the variables that list something for kbuild
//	builds  an object, and those that it is made of; or a directory and a slash
//	export  NAME=VALUE, for the directories below
//	note    what a user is to know
//	end     the answer is whole
type answer map[string][]string

// ask has make read the Kbuild file of a directory, which is Kbuild or else Makefile, in
// a world in which nothing can be written and there is no network: whatever the file has
// make run, it changes nothing. Env is what the directory above exports.
func (t *Tree) ask(dir string, env []string) (file string, a answer, err error) {
	if file, _, err = read(t.root, dir, "Kbuild", "Makefile"); err != nil {
		return file, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), min(askTime, time.Until(t.end)), errors.New("it takes too long"))
	defer cancel()
	entry := path.Join(t.top, t.entry)
	cmd := exec.Command("make", append([]string{"-rR", "--no-print-directory", "--eval=" + askMakefile, "KERNELRELEASE=$(shell uname -r)", "M=" + entry,
		"ask_file=./" + strings.TrimPrefix(file, t.entry+"/"), "ask_dir=" + path.Join(t.top, dir)}, t.given...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}, env...)
	var out strings.Builder
	cmd.Dir, cmd.Stdout = entry, &out
	err = t.world.Run(ctx, cmd)
	if a = parseAnswer(out.String()); a["end"] != nil {
		return file, a, nil // the error is how ask.mk ends
	}
	said := strings.TrimSpace(out.String())
	return file, nil, fmt.Errorf("make cannot read it (%w): %s", err, said[strings.LastIndexByte(said, '\n')+1:])
}

// parseAnswer reads the lines of an answer; all others are of what make has read.
func parseAnswer(text string) answer {
	a := answer{}
	for line := range strings.Lines(text) {
		if f := strings.SplitN(strings.TrimSpace(line), " ", 3); len(f) == 3 && f[0] == "ask:" {
			a[f[1]] = append(a[f[1]], f[2])
		}
	}
	return a
}
