// SPDX-License-Identifier: GPL-2.0-or-later

package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/files"
)

// Hashes computes hashes and keeps them in a file, so that what looks as it did, with
// the same size, times and inode, is not read again. The file is a cache and may be
// removed at any time. Within one run, the same question gets the same answer without
// another look, until [Hashes.Again]. Hashes may be used by several goroutines at once.
type Hashes struct {
	*store
	mu    sync.Mutex         // guards run
	run   map[string]*answer // the answers of this run, by key
	asked sync.Map           // the functions of [Hashes.once], by question
}

// store is the part of Hashes that is kept in files.
type store struct {
	file        string     // "" if nothing is kept
	load        sync.Once  // for read: many runs need no hash
	mu          sync.Mutex // guards the fields below
	entries     map[string]entry
	changed     bool                   // entries are not as in the file
	directories map[string]*sync.Mutex // the locks of digests, by directory
}

// entry is a value, and the stamp of what it was made from.
type entry struct{ Stamp, Value string }

// answer is a value in this run, and the stamp of what it was made from. Its lock is held
// while the value is made.
type answer struct {
	mu    sync.Mutex
	known bool
	entry
}

// OpenHashes returns the Hashes kept in file, which is read when it is first needed. If
// it is missing or damaged, there are none. An empty name means that they are kept only
// as long as the process runs.
func OpenHashes(file string) *Hashes {
	return (&Hashes{store: &store{file: file, directories: map[string]*sync.Mutex{}}}).Again()
}

// Again returns Hashes with the same file that have answered nothing in this run yet,
// and so look again whether things are as they were.
func (c *Hashes) Again() *Hashes {
	return &Hashes{store: c.store, run: map[string]*answer{}}
}

// Moved returns the paths whose files look other to c than to was, in the order of their
// names, of those that both looked at: the first path of each question. That a file is
// again as it was does not count.
func (c *Hashes) Moved(was *Hashes) (paths []string) {
	before := was.stamps()
	for key, stamp := range c.stamps() {
		if old, ok := before[key]; ok && old != stamp {
			path, _, _ := strings.Cut(key, "\x00")
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// stamps returns what the answers so far were made from, by question.
func (c *Hashes) stamps() map[string]string {
	c.mu.Lock()
	run := maps.Clone(c.run)
	c.mu.Unlock()
	all := map[string]string{}
	for key, a := range run {
		a.mu.Lock()
		if a.known {
			all[key] = a.Stamp
		}
		a.mu.Unlock()
	}
	return all
}

// read reads the entries from their file.
func (c *store) read() {
	if c.entries, _ = files.ReadState[map[string]entry](c.file); c.entries == nil {
		c.entries = map[string]entry{}
	}
}

// Save writes the file if there are new hashes. It drops those of paths that no longer
// exist.
func (c *store) Save() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changed || c.file == "" {
		return nil
	}
	c.changed = false
	maps.DeleteFunc(c.entries, func(key string, _ entry) bool {
		path, _, _ := strings.Cut(key, "\x00")
		_, err := os.Lstat(path)
		return err != nil
	})
	c.tidyDigests()
	return files.WriteState(c.file, c.entries, files.Options{})
}

// Drop removes the file, and forgets what it had.
func (c *Hashes) Drop() error {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.entries, c.changed = map[string]entry{}, false
	return files.Remove(c.file)
}

// value returns the value that make returns for key, whose first element is a path. It
// calls make only if what stamps writes differs from what it wrote when the kept value
// was made.
func (c *Hashes) value(key []string, stamps func(io.Writer) error, make func() (string, error)) (string, error) {
	c.load.Do(c.read)
	k := strings.Join(key, "\x00")
	c.mu.Lock()
	a := c.run[k]
	if a == nil {
		a = &answer{}
		c.run[k] = a
	}
	c.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known {
		return a.Value, nil
	}
	h := sha256.New()
	if err := stamps(h); err != nil {
		return "", err
	}
	stamp := sum(h)
	c.store.mu.Lock()
	e, known := c.entries[k]
	c.store.mu.Unlock()
	if !known || e.Stamp != stamp {
		value, err := make()
		if err != nil {
			return "", err
		}
		e = entry{stamp, value}
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.changed = c.changed || c.entries[k] != e
	c.entries[k] = e
	a.known, a.entry = true, e
	return e.Value, nil
}

// Source returns the hash of the files and of all files in the directories that paths
// name or, as symbolic links, lead to. A path that does not exist counts as empty. The
// hash of no paths is "".
func (c *Hashes) Source(paths ...string) (string, error) {
	if len(paths) == 0 {
		return "", nil
	}
	return c.value(paths, func(w io.Writer) error {
		var err error
		for _, path := range paths {
			err = errors.Join(err, walk(path, func(rel, path string, st *unix.Stat_t) error {
				stampOf(w, rel, st)
				return nil
			}))
		}
		return err
	}, func() (string, error) {
		h := sha256.New()
		for i, path := range paths {
			fmt.Fprintln(h, i)
			d := c.digests(path)
			err := walk(path, func(rel, path string, st *unix.Stat_t) error {
				return d.content(h, rel, rel, path, st)
			})
			d.close()
			if err != nil {
				return "", err
			}
		}
		return sum(h), nil
	})
}

// Headers returns the hash of a kernel's headers: the files that builds of modules read
// in the directories dirs, usually /lib/modules/K/build and source. It is "" if none of
// the directories exists.
func (c *Hashes) Headers(dirs ...string) (string, error) {
	return c.once(append(slices.Clone(dirs), "headers"), func() (string, error) {
		h, err := c.SomeHeaders(dirs...)
		return h.Sum, err
	})
}

// once returns what answer returns, and calls it only for the first of equal questions.
func (c *Hashes) once(question []string, answer func() (string, error)) (string, error) {
	known, _ := c.asked.LoadOrStore(strings.Join(question, "\x00"), sync.OnceValues(answer))
	return known.(func() (string, error))()
}

func realDirs(dirs []string) (real []string) {
	for _, dir := range dirs {
		if path, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(real, path) {
			real = append(real, path)
		}
	}
	return real
}

func tellingStamps(dirs []string) func(io.Writer) error {
	return func(w io.Writer) error {
		for _, dir := range dirs {
			for _, name := range telling {
				var st unix.Stat_t
				if unix.Stat(filepath.Join(dir, name), &st) == nil {
					stampOf(w, name, &st)
				}
			}
		}
		return nil
	}
}

// Headers are a kernel's headers.
type Headers struct {
	// Sum is as from [Hashes.Headers]. Linked is the hash of what links in the headers
	// lead to elsewhere: Sum has such links as they are written.
	Sum, Linked string
	// Paths are the files and directories that these are the hashes of.
	Paths []string
}

// Name reports whether the hashes name the content of the file at path.
func (h Headers) Name(path string) bool {
	return !noHeader(path) && below(h.Paths, path)
}

// SomeHeaders is [Hashes.Headers] that returns more. A package manager that replaces any
// of the files replaces all. Looking at a few shows whether it did; looking at all takes
// too long where nothing is built.
func (c *Hashes) SomeHeaders(dirs ...string) (h Headers, err error) {
	real := realDirs(dirs)
	if len(real) == 0 {
		return h, nil
	}
	text, err := c.value(toldHeaders(real), tellingStamps(real), func() (string, error) { return c.everyHeader(real) })
	if err == nil {
		err = json.Unmarshal([]byte(text), &h)
	}
	return h, err
}

// toldHeaders is the question that [Hashes.SomeHeaders] asks.
func toldHeaders(dirs []string) []string { return append(slices.Clone(dirs), "headers as some tell") }

// EveryHeader is like [Hashes.SomeHeaders], but looks at every file. If it finds that one
// was changed in its place, so will SomeHeaders and Headers in the next run.
func (c *Hashes) EveryHeader(dirs ...string) (h Headers, err error) {
	real := realDirs(dirs)
	if len(real) == 0 {
		return h, nil
	}
	stamp := sha256.New()
	if err := tellingStamps(real)(stamp); err != nil {
		return h, err
	}
	text, err := c.everyHeader(real)
	if err != nil {
		return h, err
	}
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	k, e := strings.Join(toldHeaders(real), "\x00"), entry{sum(stamp), text}
	c.changed = c.changed || c.entries[k] != e
	c.entries[k] = e
	return h, json.Unmarshal([]byte(text), &h)
}

// everyHeader returns what EveryHeader does, as JSON, for directories without links.
func (c *Hashes) everyHeader(dirs []string) (string, error) {
	var trees, paths []string
	for _, dir := range dirs {
		for _, tree := range headerTrees(dir) {
			trees = append(trees, tree.path)
		}
	}
	return c.value(append(slices.Clone(dirs), "every header"), func(w io.Writer) (err error) {
		paths, err = stampHeaders(w, trees)
		return err
	}, func() (string, error) {
		own, linked := sha256.New(), sha256.New()
		for i, dir := range dirs {
			fmt.Fprintln(own, i)
			for _, tree := range headerTrees(dir) {
				if err := c.writeHeaders(own, tree); err != nil {
					return "", err
				}
			}
		}
		for _, path := range paths[len(trees):] {
			if err := c.writeHeaders(linked, headerTree{"linked", path}); err != nil {
				return "", err
			}
		}
		text, err := json.Marshal(Headers{sum(own), sum(linked), paths})
		return string(text), err
	})
}

// stampHeaders writes to w the stamps of all header files at paths, and of those
// elsewhere to which links in them lead. It returns paths with those others.
func stampHeaders(w io.Writer, paths []string) ([]string, error) {
	for i := 0; i < len(paths); i++ {
		err := walk(paths[i], func(_, path string, st *unix.Stat_t) error {
			if noHeader(path) {
				return nil
			}
			stampOf(w, path, st)
			if !isLink(st) {
				return nil
			}
			// A link to nowhere is one that nothing is read by.
			if to, err := filepath.EvalSymlinks(path); err == nil && !below(paths, to) {
				paths = append(paths, to)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return paths, nil
}

func below(dirs []string, path string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return files.Below(dir, path) })
}

// telling are the files and directories of headers that show whether the headers were
// replaced.
var telling = strings.Fields(`. Makefile Module.symvers .config include include/config include/config/auto.conf
	include/generated include/generated/autoconf.h include/generated/utsrelease.h include/generated/compile.h
	include/linux include/linux/module.h include/linux/kernel.h arch scripts scripts/Makefile.build scripts/mod/modpost`)

// headerTree is a file or directory of headers: its name in them, and its path without
// links.
type headerTree struct{ name, path string }

// headerTrees returns what builds of modules read in dir, a directory of headers. That
// may be the whole source of a kernel.
func headerTrees(dir string) (list []headerTree) {
	for _, name := range []string{"Makefile", "Kbuild", ".config", ".kernelvariables", "Module.symvers", "include", "arch", "scripts"} {
		if path, err := filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil {
			list = append(list, headerTree{name, path})
		}
	}
	return list
}

// noHeader reports whether the file called name is one that does not count: a C file, an
// object or the like.
func noHeader(name string) bool {
	return slices.Contains([]string{".c", ".S", ".o", ".a", ".cmd", ".ko", ".mod"}, filepath.Ext(name))
}

// writeHeaders writes to h what counts of tree.
func (c *store) writeHeaders(h hash.Hash, tree headerTree) error {
	d := c.digests(tree.path)
	defer d.close()
	return walk(tree.path, func(rel, path string, st *unix.Stat_t) error {
		if noHeader(rel) {
			return nil
		}
		return d.content(h, filepath.Join(tree.name, rel), rel, path, st)
	})
}

// Compiler returns the first line that the program prints with --version. It is "" if
// there is no such program.
func (c *Hashes) Compiler(ctx context.Context, program string) (string, error) {
	return c.once([]string{program, "compiler"}, func() (string, error) { return c.compiler(ctx, program) })
}

func (c *Hashes) compiler(ctx context.Context, program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", nil
	}
	stamps := func(w io.Writer) error { return stampFiles(w, []string{path}) }
	return c.value([]string{path, "version"}, stamps, func() (string, error) {
		text, err := ask(ctx, path, "--version")
		line, _, _ := strings.Cut(text, "\n")
		return line, err
	})
}

// Programs returns the paths of all programs called name in PATH, of which the first may
// be a wrapper that calls the next, or the one file if name is an absolute path. If it
// is a compiler in PATH, what it runs to compile C and its own headers are among them.
func (c *Hashes) Programs(ctx context.Context, name string, compiler bool) ([]string, error) {
	list, err := c.once([]string{name, strconv.FormatBool(compiler), "programs"}, func() (list string, err error) {
		paths, parts := programs(name), ""
		// What is not in PATH is not run: a build may have left it.
		if compiler && len(paths) > 0 && !filepath.IsAbs(name) {
			parts, err = c.compilerParts(ctx, paths)
		}
		return strings.Join(append(paths, filepath.SplitList(parts)...), "\x00"), err
	})
	return strings.FieldsFunc(list, func(r rune) bool { return r == 0 }), err
}

// programs returns the paths of the programs of that name in PATH.
func programs(name string) (paths []string) {
	dirs := filepath.SplitList(os.Getenv("PATH"))
	if filepath.IsAbs(name) {
		dirs = []string{"/"}
	}
	var seen []string // without links: /bin may be /usr/bin
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 || !filepath.IsAbs(path) {
			continue
		}
		if real, err := filepath.EvalSymlinks(path); err == nil && !slices.Contains(seen, real) {
			paths, seen = append(paths, path), append(seen, real)
		}
	}
	return paths
}

// compilerParts returns a list of paths; see [Hashes.Programs]. The first of paths
// is the compiler.
func (c *Hashes) compilerParts(ctx context.Context, paths []string) (string, error) {
	stamps := func(w io.Writer) error { return stampFiles(w, paths) }
	return c.value(append(slices.Clone(paths), "parts"), stamps, func() (string, error) {
		text, err := ask(ctx, paths[0], "-print-search-dirs")
		if err != nil {
			return "", nil // it is a program like any other
		}
		var parts []string
		for line := range strings.Lines(text) {
			kind, list, _ := strings.Cut(strings.TrimSpace(line), ": ")
			for _, dir := range filepath.SplitList(strings.TrimPrefix(list, "=")) {
				// The compiler's own headers are where gcc is installed, and in the
				// first of the directories that clang has libraries in.
				part, there := filepath.Join(dir, "include"), "stddef.h"
				if kind == "programs" {
					part, there = filepath.Join(dir, "cc1"), ""
				}
				if _, err := os.Stat(filepath.Join(part, there)); filepath.IsAbs(part) && err == nil {
					parts = append(parts, part)
				}
			}
		}
		slices.Sort(parts)
		return strings.Join(slices.Compact(parts), string(filepath.ListSeparator)), nil
	})
}

func stampFiles(w io.Writer, paths []string) error {
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		stampOf(w, path, &st)
	}
	return nil
}

// ask returns what a program prints for an option.
func ask(ctx context.Context, path, option string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var out strings.Builder
	cmd := exec.Command(path, option)
	cmd.Stdout = &out
	if err := child.Run(ctx, cmd); err != nil {
		return "", fmt.Errorf("%s %s: %w", path, option, err)
	}
	return out.String(), nil
}

// stampOf writes the stamp of the file called name; see [files.AppendStamp].
func stampOf(w io.Writer, name string, st *unix.Stat_t) {
	_, _ = w.Write(files.AppendStamp(nil, name, st)) // a hash's Write never fails
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
