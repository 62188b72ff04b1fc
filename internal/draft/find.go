// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/sandbox"
)

// Bounds of what is looked at. No module package comes near any of them; a kernel's
// whole source does.
const (
	maxFile  = 1 << 20 // bytes of one file
	maxAsked = 500     // directories that make is asked about
	maxNotes = 40
	maxTime  = 2 * time.Minute
)

// Tree is what a source tree has to build.
type Tree struct {
	Modules []Module
	Dirs    []string // that kbuild must be pointed at, relative to the tree, in order
	Notes   []string // what could not be found out and is left out, a line each
}

// tree is the tree while it is being looked at.
type tree struct {
	ctx     context.Context
	root    *os.Root // through which files are opened, so that no link leads out
	world   *sandbox.World
	given   []string // assignments for make's command line
	release string   // of a kernel, for make
	entry   string   // the directory that kbuild is pointed at
	asked   int
	notes   []string
}

// open returns the tree in root, and what is to be called at the end. Of args, which
// make gets, those of the form NAME=VALUE set variables.
func open(root *os.Root, args []string) (*tree, func(), error) {
	if _, err := exec.LookPath("make"); err != nil {
		return nil, nil, errors.New("make is not installed, which reads Kbuild files")
	}
	top, err := filepath.EvalSymlinks(root.Name())
	if err != nil {
		return nil, nil, err
	}
	t := &tree{root: root, release: "0"}
	if t.world, err = sandbox.ReadOnly(top); err != nil {
		return nil, nil, err
	}
	t.world.Processes, t.world.Output = 512, askOutput
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		t.release = unix.ByteSliceToString(u.Release[:])
	}
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok && !strings.HasPrefix(a, "-") {
			t.given = append(t.given, name+"="+t.resolve(value))
		}
	}
	var end func()
	t.ctx, end = context.WithTimeoutCause(context.Background(), maxTime, fmt.Errorf("all of it takes longer than %v", maxTime))
	return t, end, nil
}

// top is the absolute path of the tree, free of symbolic links.
func (t *tree) top() string { return t.world.Show[0] }

// resolve returns a value of an argument as make gets it here: in place of what each
// kernel's build gives it stands something that is not empty.
func (t *tree) resolve(value string) string {
	var b strings.Builder
	tokens(value, func(s string) { b.WriteString(s) }, func(ref string) {
		if ref == buildDir {
			b.WriteString(t.top())
		} else {
			b.WriteString("/nonexistent/" + strings.Trim(ref, "${}"))
		}
	})
	return b.String()
}

func (t *tree) note(format string, args ...any) {
	line := strings.ToValidUTF8(fmt.Sprintf("%.300s", fmt.Sprintf(format, args...)), "?")
	if len(t.notes) < maxNotes && !slices.Contains(t.notes, line) {
		t.notes = append(t.notes, line)
	}
}

// first returns the first of the files of a directory that there is, and its text. The
// error is [fs.ErrNotExist] if there is none.
func first(root *os.Root, dir string, names ...string) (name, text string, err error) {
	for _, n := range names {
		name = path.Join(dir, n)
		fi, err := root.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && (!fi.Mode().IsRegular() || fi.Size() > maxFile) {
			err = fmt.Errorf("it is not a file of at most %d MiB", maxFile>>20)
		}
		var b []byte
		if err == nil {
			b, err = root.ReadFile(name)
		}
		return name, string(b), err
	}
	return "", "", fs.ErrNotExist
}

// Find looks for modules in a tree: if its top has a Kbuild file or a Makefile that
// lists anything for kbuild, in that and in the directories that it leads into, and
// else in all directories but hidden ones. Args are those of every make.
func Find(root *os.Root, args []string) (out Tree, err error) {
	t, end, err := open(root, args)
	if err != nil {
		return out, err
	}
	defer end()
	where := map[string]string{} // by name: one alone can be installed
	err = fs.WalkDir(root.FS(), ".", func(dir string, d fs.DirEntry, err error) error {
		if err != nil {
			t.note("%v", err)
		}
		if d == nil || !d.IsDir() {
			return t.ctx.Err()
		}
		if dir != "." && d.Name()[0] == '.' {
			return fs.SkipDir
		}
		t.entry = dir
		modules, lists := t.dir(dir, nil)
		before := len(out.Modules)
		for _, m := range modules {
			if other, ok := where[m.Name]; !ok {
				where[m.Name] = m.Dir
				out.Modules = append(out.Modules, m)
			} else if other != m.Dir {
				t.note("%s/%s.ko: left out, since %s/%[2]s.ko is installed by that name", m.Dir, m.Name, other)
			}
		}
		if len(out.Modules) > before {
			out.Dirs = append(out.Dirs, dir)
		}
		if lists {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.note("only a part of the tree was searched: %v", err)
	}
	out.Notes = t.notes
	return out, nil
}

// dir returns the modules of a directory and of those below that its Kbuild file leads
// into, and reports whether that file lists anything for kbuild. Env is what the
// directory above exports.
func (t *tree) dir(dir string, env []string) (modules []Module, lists bool) {
	name, text, err := first(t.root, dir, "Kbuild", "Makefile")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false
	}
	if t.asked++; err == nil && t.asked > maxAsked {
		err = errors.New("the tree has too many directories")
	}
	var a answer
	if err == nil {
		a, err = t.ask(name, text, env)
	}
	if err != nil {
		t.note("%s: %v", name, err)
		return nil, false
	}
	for _, option := range a.unset {
		t.note("%s: %s is not set here, and decides what is built; to have that built, give --make-arg %[2]s=m, or y", name, option)
	}
	for _, list := range []string{"obj-m", "obj-y", "subdir-m", "subdir-y"} {
		for _, word := range a.lists[list] {
			rel, err := t.member(dir, word)
			isDir := strings.HasSuffix(word, "/") || strings.HasPrefix(list, "subdir")
			switch {
			case list == "obj-y" && !isDir: // part of the kernel itself
			case err != nil:
				t.note("%s: %s in %s: %v", name, word, list, err)
			case isDir:
				inner, _ := t.dir(rel, append(slices.Clip(env), a.exports...))
				if len(inner) == 0 {
					t.note("%s: no module was found in %s", name, rel)
				}
				modules = append(modules, inner...)
			default:
				m, err := t.module(dir, rel, a.of[strings.TrimSuffix(word, ".o")])
				if err != nil {
					t.note("%s: %s in %s: %v", name, word, list, err)
					continue
				}
				modules = append(modules, m)
			}
		}
	}
	return modules, len(a.lists) > 0
}

// member returns a word of a list relative to the tree.
func (t *tree) member(dir, word string) (string, error) {
	rel := path.Join(dir, word)
	if path.IsAbs(word) {
		rel, _ = filepath.Rel(t.top(), word)
	}
	if !fs.ValidPath(rel) || dir != "." && rel != dir && !strings.HasPrefix(rel, dir+"/") {
		return "", errors.New("it leads out of the directory")
	}
	return rel, checkPath(rel)
}

// module returns the module of an object, which is made of objects of dir, or of
// itself.
func (t *tree) module(dir, object string, objects []string) (Module, error) {
	stem, ok := strings.CutSuffix(object, ".o")
	if !ok {
		return Module{}, errors.New("it is not an object")
	}
	m := Module{Name: path.Base(stem), Dir: path.Dir(stem), Dest: "/extra"}
	if len(objects) == 0 {
		m.sources = []string{stem + ".c"}
	}
	for _, o := range objects {
		if rel, err := t.member(dir, o); err == nil {
			m.sources = append(m.sources, strings.TrimSuffix(rel, ".o")+".c")
		}
	}
	return m, checkModule(m.Name)
}
