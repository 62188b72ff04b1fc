// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"cmp"
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

	"dkms-kernel-install/internal/sandbox"
)

// Bounds of what is looked at. No module package comes near any of them; a kernel's
// whole source does.
const (
	askTime    = 10 * time.Second // for one Kbuild file
	allTime    = 2 * time.Minute
	askOutput  = 1 << 20 // bytes that make says of one
	maxFile    = 1 << 20 // bytes of a file
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
	world.Processes, world.Output = 512, askOutput
	t := &Tree{root: root, top: top, world: world, end: time.Now().Add(allTime), args: args}
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok && name[0] != '-' {
			t.given = append(t.given, name+"="+rewrite(value, func(s string) string { return s }, t.resolve))
		}
	}
	return t, nil
}

// resolve returns what make gets here in place of what each kernel's build gives it:
// something that is not empty.
func (t *Tree) resolve(ref string) string {
	if ref == buildDir {
		return t.top
	}
	return "/nonexistent/" + strings.Trim(ref, "${}")
}

func (t *Tree) note(format string, args ...any) {
	line := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, fmt.Sprintf("%.300s", fmt.Sprintf(format, args...)))
	if len(t.Notes) < maxNotes && !slices.Contains(t.Notes, line) {
		t.Notes = append(t.Notes, line)
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
		if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() || fi.Size() > maxFile {
			return name, "", cmp.Or(err, errors.New("it is not a file, or too large"))
		}
		text, err := io.ReadAll(io.LimitReader(f, maxFile))
		return name, string(text), err
	}
	return "", "", fs.ErrNotExist
}

// Find looks for modules in the tree: if its top has a Kbuild file or a Makefile that
// lists anything for kbuild, in that and in the directories that it leads into, and else
// in all directories but hidden ones. Kbuild is to build them.
func (t *Tree) Find() *Conf {
	c := &Conf{Args: t.args}
	where := map[string]string{} // by name: one alone can be installed
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
			if other, ok := where[m.Name]; !ok {
				where[m.Name] = m.Dir
				c.Modules = append(c.Modules, m)
			} else if other != m.Dir {
				t.note("%s/%s.ko: left out, since %s/%[2]s.ko is installed by that name", m.Dir, m.Name, other)
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
	name, _, err := read(t.root, dir, "Kbuild", "Makefile")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	var a answer
	if err == nil {
		a, err = t.ask(name, env)
	}
	if err != nil {
		t.note("%s: %v", name, err)
		return nil, false
	}
	if a["unset"] != nil {
		t.note("%s: options that are not set here may decide what is built; to set one, give --make-arg %s=m, or y: %s",
			name, a["unset"][0][0], strings.Join(a["unset"][0], " "))
	} else if a["left"] != nil {
		t.note("%s: nothing is set that decides to build %s", name, strings.Join(a["left"][0], " "))
	}
	env = slices.Clip(env)
	for _, words := range a["export"] {
		env = append(env, strings.Join(words, " "))
	}
	for _, words := range a["builds"] {
		if t.words++; t.words > maxWords {
			t.note("%s: the tree has too many modules and directories", name)
			break
		}
		found, err := t.builds(dir, words[0], words[1:], env)
		if err != nil {
			t.note("%s: %s: %v", name, words[0], err)
		}
		modules = append(modules, found...)
	}
	return modules, a["lists"] != nil
}

// builds returns the modules that a word of a list of dir stands for: those of a
// directory, or one that is made of objects or, if there are none, of itself.
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
	if len(objects) == 0 {
		objects = []string{word}
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
	if !fs.ValidPath(rel) || dir != "." && rel != dir && !strings.HasPrefix(rel, dir+"/") {
		return "", errors.New("it leads out of the directory")
	}
	return rel, checkPath(rel)
}
