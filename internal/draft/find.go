package draft

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what is looked at. No module package comes near any of them; a
// kernel's whole source does.
const (
	maxFile    = 1 << 20 // bytes of one file
	maxBudget  = 8 << 20 // characters that all evaluation handles
	maxFolders = 500     // that Kbuild files lead into
	maxNesting = 16      // of these
	maxWalk    = 20000   // files and folders that are searched
	maxNotes   = 40
	maxModules = 1000
)

// A Tree is what a source tree has to build.
type Tree struct {
	Modules []Module
	// Folders are those that kbuild must be pointed at, relative to the tree, in
	// order.
	Folders []string
	// Notes say what could not be evaluated and is left out, a line each.
	Notes []string
}

// tree is the tree while it is being looked at. All files are opened through
// root, so that no symbolic link leads out.
type tree struct {
	root  *os.Root
	given map[string]string
	entry string // the folder that kbuild is pointed at

	notes   []string
	dropped int // notes that were too many
	budget  int
	folders int
}

func newTree(root *os.Root, args []string) *tree {
	t := &tree{root: root, budget: maxBudget, given: map[string]string{}}
	for _, a := range args {
		if name, value, ok := strings.Cut(a, "="); ok && !strings.HasPrefix(a, "-") {
			t.given[name] = evaluated(value)
		}
	}
	return t
}

func (t *tree) note(format string, args ...any) {
	if len(t.notes) >= maxNotes {
		t.dropped++
		return
	}
	line := strings.ToValidUTF8(show(fmt.Sprintf(format, args...)), "?")
	if len(line) > 300 {
		line = strings.ToValidUTF8(line[:300], "") + "…"
	}
	if !slices.Contains(t.notes, line) {
		t.notes = append(t.notes, line)
	}
}

// spend takes n from the budget and tells whether there was as much.
func (t *tree) spend(n int) bool {
	t.budget -= n
	return t.budget > 0
}

func (t *tree) spent() bool { return t.budget <= 0 }

var errNotText = errors.New("it is not a text file")

// file returns the content of a regular text file.
func (t *tree) file(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", fs.ErrNotExist
	}
	// Whoever opens a FIFO otherwise waits for its writer.
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", plain(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", plain(err)
	}
	switch {
	case !fi.Mode().IsRegular():
		return "", errors.New("it is not a file")
	case fi.Size() > maxFile:
		return "", fmt.Errorf("it is larger than %d MiB", maxFile>>20)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return "", plain(err)
	}
	if strings.ContainsAny(string(text), "\x00"+marks+inTree) {
		return "", errNotText
	}
	return string(text), nil
}

// glob returns the files that a path or a pattern stands for, and whether that
// can be known: outside of the tree it cannot.
func (t *tree) glob(name string) (files []string, known bool) {
	rel, ok := strings.CutPrefix(name, inTree)
	if !ok || strings.ContainsAny(rel, marks) || strings.ContainsAny(path.Dir(rel), "*?[") || !t.spend(1000) {
		return nil, false
	}
	rel = path.Join(".", rel)
	if !fs.ValidPath(rel) {
		return nil, false
	}
	if !strings.ContainsAny(rel, `*?[`) {
		if _, err := t.root.Stat(rel); err != nil {
			return nil, errors.Is(err, fs.ErrNotExist)
		}
		return []string{rel}, true
	}
	entries, err := fs.ReadDir(t.root.FS(), path.Dir(rel))
	if err != nil {
		return nil, errors.Is(err, fs.ErrNotExist)
	}
	for _, e := range entries {
		if !t.spend(len(rel) + len(e.Name())) {
			return nil, false
		}
		if ok, err := path.Match(path.Base(rel), e.Name()); err != nil {
			return nil, false
		} else if ok {
			files = append(files, path.Join(path.Dir(rel), e.Name()))
		}
	}
	return files, true
}

// plain takes the path off an error: messages name the file already.
func plain(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// Find looks for modules in a tree: where its top has a Kbuild file or a
// Makefile that names any, in that and in the folders that it leads into, and
// else in all folders. Of args, which make gets, those of the form NAME=VALUE
// set variables.
func Find(root *os.Root, args []string) Tree {
	t := newTree(root, args)
	var out Tree
	try := func(dir string) (stop bool) {
		t.entry = dir
		modules, objects := t.folder(dir, nil, 0)
		if len(modules) > 0 {
			out.Folders = append(out.Folders, dir)
			out.Modules = append(out.Modules, modules...)
		}
		return objects
	}
	if !try(".") {
		seen := 0
		fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if seen++; seen > maxWalk || t.spent() || len(out.Modules) > maxModules {
				t.note("the tree is too large: only a part of it was searched")
				return fs.SkipAll
			}
			switch {
			case err != nil:
				t.note("%s: %v", name, plain(err))
			case !d.IsDir() || name == ".":
				return nil
			case strings.HasPrefix(d.Name(), "."):
			case !try(name):
				return nil
			}
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
	}
	out.Modules = t.unique(out.Modules)
	// A folder of which no module is left needs no visit.
	out.Folders = slices.DeleteFunc(out.Folders, func(dir string) bool {
		return !slices.ContainsFunc(out.Modules, func(m Module) bool { return within(m.Dir, dir) })
	})
	if t.spent() {
		t.note("the files are too large or too tangled: only a part was evaluated")
	}
	out.Notes = t.allNotes()
	return out
}

func (t *tree) allNotes() []string {
	if t.dropped > 0 {
		return append(t.notes, fmt.Sprintf("… and %d more", t.dropped))
	}
	return t.notes
}

func within(dir, top string) bool {
	return top == "." || dir == top || strings.HasPrefix(dir, top+"/")
}

// unique drops all but the first of the modules of one name: only one can be
// installed.
func (t *tree) unique(modules []Module) (out []Module) {
	where := map[string]string{}
	for _, m := range modules {
		if dir, ok := where[m.Name]; ok {
			if dir != m.Dir {
				t.note("%s: left out, since %s is installed by that name", path.Join(m.Dir, m.Name+".ko"), path.Join(dir, m.Name+".ko"))
			}
			continue
		}
		if len(out) >= maxModules {
			t.note("there are more than %d modules", maxModules)
			break
		}
		where[m.Name] = m.Dir
		out = append(out, m)
	}
	return out
}

// folder evaluates the Kbuild file of a folder, which is Kbuild or else
// Makefile, and returns its modules and those below, and whether it is a Kbuild
// file at all. env is what the folder above exports.
func (t *tree) folder(dir string, env map[string]*variable, depth int) (modules []Module, objects bool) {
	if depth > 0 {
		t.folders++
	}
	if t.spent() {
		return nil, false
	}
	m := t.makefile(dir, true)
	for name, v := range env {
		m.vars[name] = &variable{slices.Clone(v.pieces)}
	}
	if !m.load("Kbuild", "Makefile") {
		return nil, false
	}
	below := m.exports()
	for _, list := range []string{"obj-m", "obj-y", "subdir-m", "subdir-y"} {
		v := m.vars[list]
		if v == nil {
			if given, ok := t.given[list]; ok {
				v = &variable{[]piece{{given, true, "--make-arg"}}}
			} else {
				continue
			}
		}
		for _, p := range v.pieces {
			text := p.text
			if !p.simple {
				text = m.expand(text, 0)
			}
			for word := range strings.FieldsSeq(text) {
				isDir := strings.HasSuffix(word, "/") || strings.HasPrefix(list, "subdir")
				rel, err := member(dir, word)
				switch {
				case list == "obj-y" && !isDir:
					// Part of the kernel itself; no external module's business.
				case strings.ContainsAny(word, marks):
					t.note("%s: %s in %s: %s", p.at, word, list, m.undecided(p.text))
				case err != nil:
					t.note("%s: %s in %s: %v", p.at, word, list, err)
				case isDir && (depth >= maxNesting || t.folders >= maxFolders):
					t.note("%s: %s: too many folders", p.at, rel)
				case isDir:
					inner, _ := t.folder(rel, below, depth+1)
					if len(inner) == 0 {
						t.note("%s: no module was found in %s", p.at, rel)
					}
					modules = append(modules, inner...)
				case !strings.HasSuffix(rel, ".o"):
					t.note("%s: %s in %s is no object", p.at, word, list)
				default:
					name := strings.TrimSuffix(path.Base(rel), ".o")
					if err := checkModule(name); err != nil {
						t.note("%s: %v", p.at, err)
						continue
					}
					modules = append(modules, m.module(name, path.Dir(rel), strings.TrimSuffix(word, ".o")))
				}
				if len(modules) > maxModules {
					return modules, m.objects
				}
			}
		}
	}
	return modules, m.objects
}

// member is a word of a list, relative to the tree.
func member(dir, word string) (string, error) {
	if rest, ok := strings.CutPrefix(word, inTree); ok {
		dir, word = ".", strings.TrimPrefix(rest, "/")
	}
	if path.IsAbs(word) || word == "" || !within(path.Join(dir, word), dir) || !fs.ValidPath(path.Join(dir, word)) {
		return "", errors.New("it leads out of the folder")
	}
	rel := path.Join(dir, word)
	return rel, checkPath(rel)
}

// module fills in what a module is made of.
func (m *makefile) module(name, dir, stem string) Module {
	out := Module{Name: name, Dir: dir, Dest: "/extra"}
	add := func(object string) {
		if rel, err := member(m.dir, object); err == nil && strings.HasSuffix(rel, ".o") && len(out.sources) < 200 {
			out.sources = append(out.sources, strings.TrimSuffix(rel, ".o")+".c")
		}
	}
	composed := false
	for _, suffix := range []string{"-objs", "-y", "-m"} {
		if m.vars[stem+suffix] == nil {
			continue
		}
		composed = true
		for object := range strings.FieldsSeq(m.value(stem+suffix, 0)) {
			add(object)
		}
	}
	if !composed {
		add(stem + ".o")
	}
	return out
}

// exports returns what make passes to the makes of folders below.
func (m *makefile) exports() map[string]*variable {
	env := map[string]*variable{}
	for name := range m.vars {
		if m.exported[name] || m.exportAll && !isObjects(name) {
			env[name] = &variable{[]piece{{m.value(name, 0), true, "export"}}}
		}
	}
	return env
}

// makefile returns one of a folder, with nothing read yet.
func (t *tree) makefile(dir string, kbuild bool) *makefile {
	return &makefile{t: t, dir: dir, kbuild: kbuild, given: t.given, vars: map[string]*variable{},
		exported: map[string]bool{}, targets: map[string]bool{}}
}

// load reads the first of the files that there is, and tells whether there is
// any.
func (m *makefile) load(names ...string) bool {
	for _, name := range names {
		file := path.Join(m.dir, name)
		text, err := m.t.file(file)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			m.t.note("%s: %v", file, err)
			return false
		}
		m.read(file, text)
		return true
	}
	return false
}
