// SPDX-License-Identifier: GPL-2.0-or-later

package fingerprint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/files"
)

// Cache remembers hashes, so that nothing is read again that looks as it did:
// same size, times and inode. It may be lost at any time. What a Cache has
// answered once it answers again, without another look: one is for one run. It
// may be used by several goroutines at once.
type Hashes struct {
	*store
	mu  sync.Mutex
	run map[string]*answer // of this run
	// asked are answers of this run, by [Hashes.once]'s questions.
	asked sync.Map
}

// store is what is kept in files.
type store struct {
	file        string
	load        sync.Once // most runs that only look ask for no hash
	mu          sync.Mutex
	entries     map[string]entry
	changed     bool
	directories map[string]*sync.Mutex // of those whose digests somebody works on
}

type entry struct{ Stamp, Value string }

// answer is one of a run. Who comes second waits for it.
type answer struct {
	mu    sync.Mutex
	known bool
	value string
}

// OpenHashes returns the cache in file; one that is missing or damaged is empty.
// An empty name is a cache that lasts as long as the process.
func OpenHashes(file string) *Hashes {
	return (&Hashes{store: &store{file: file, directories: map[string]*sync.Mutex{}}}).Again()
}

// Anew returns the same cache without the answers of this run: it looks again
// whether things are as they were.
func (c *Hashes) Again() *Hashes {
	return &Hashes{store: c.store, run: map[string]*answer{}}
}

// read reads the cache from its file.
func (c *store) read() {
	if c.entries, _ = files.ReadState[map[string]entry](c.file); c.entries == nil {
		c.entries = map[string]entry{}
	}
}

// Save writes the cache if it changed. What is about things that are gone is
// left out.
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

// value returns what make makes for the things that key names, the first of them
// a path; from memory while stamp, which stamps writes, is what it was.
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
		return a.value, nil
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
	a.known, a.value = true, e.Value
	return e.Value, nil
}

// Source returns the hash of everything in the directories and files that paths name or,
// as symbolic links, lead to, of which those count that exist.
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

// Headers returns the hash of a kernel's headers: of what builds of modules read
// in the directories dirs, usually /lib/modules/K/build and source. It is "" where
// none of them is there.
func (c *Hashes) Headers(dirs ...string) (string, error) {
	return c.once(append(slices.Clone(dirs), "headers"), func() (string, error) { return c.headers(dirs) })
}

// once returns what answer returned when it was first asked for the question.
func (c *Hashes) once(question []string, answer func() (string, error)) (string, error) {
	known, _ := c.asked.LoadOrStore(strings.Join(question, "\x00"), sync.OnceValues(answer))
	return known.(func() (string, error))()
}

func (c *Hashes) headers(dirs []string) (string, error) {
	var real []string
	for _, dir := range dirs {
		if path, err := filepath.EvalSymlinks(dir); err == nil && !slices.Contains(real, path) {
			real = append(real, path)
		}
	}
	if len(real) == 0 {
		return "", nil
	}
	// A package manager replaces all files when it replaces any: these few
	// tell whether it did, which all of them would take too long for.
	stamps := func(w io.Writer) error {
		for _, dir := range real {
			for _, name := range telling {
				var st unix.Stat_t
				if unix.Stat(filepath.Join(dir, name), &st) == nil {
					stampOf(w, name, &st)
				}
			}
		}
		return nil
	}
	return c.value(real, stamps, func() (string, error) {
		h := sha256.New()
		for i, dir := range real {
			fmt.Fprintln(h, i)
			if err := c.writeHeaders(h, dir); err != nil {
				return "", err
			}
		}
		return sum(h), nil
	})
}

var telling = strings.Fields(`. Makefile Module.symvers .config include include/config include/config/auto.conf
	include/generated include/generated/autoconf.h include/generated/utsrelease.h include/generated/compile.h
	include/linux include/linux/module.h include/linux/kernel.h arch scripts scripts/Makefile.build scripts/mod/modpost`)

// writeHeaders writes to h what a module's build reads in a tree of headers. The tree
// may be a whole kernel's source, whose C files and objects do not count.
func (c *store) writeHeaders(h hash.Hash, dir string) error {
	for _, name := range []string{"Makefile", "Kbuild", ".config", ".kernelvariables", "Module.symvers", "include", "arch", "scripts"} {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		d := c.digests(path)
		err = walk(path, func(rel, path string, st *unix.Stat_t) error {
			if slices.Contains([]string{".c", ".S", ".o", ".a", ".cmd", ".ko", ".mod"}, filepath.Ext(rel)) {
				return nil
			}
			return d.content(h, filepath.Join(name, rel), rel, path, st)
		})
		d.close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Compiler returns what the program calls itself when asked for its version: the
// first line. It is "" where there is no such program.
func (c *Hashes) Compiler(ctx context.Context, program string) (string, error) {
	return c.once([]string{program, "compiler"}, func() (string, error) { return c.compiler(ctx, program) })
}

func (c *Hashes) compiler(ctx context.Context, program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", nil
	}
	stamps := func(w io.Writer) error {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		if err == nil {
			stampOf(w, path, &st)
		}
		return err
	}
	return c.value([]string{path, "version"}, stamps, func() (string, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		var out strings.Builder
		cmd := exec.Command(path, "--version")
		cmd.Stdout = &out
		if err := child.Run(ctx, cmd); err != nil {
			return "", fmt.Errorf("%s --version: %w", path, err)
		}
		line, _, _ := strings.Cut(out.String(), "\n")
		return line, nil
	})
}

// stampOf writes what changes with the file called name.
func stampOf(w io.Writer, name string, st *unix.Stat_t) {
	_, _ = w.Write(files.AppendStamp(nil, name, st)) // a hash's never fails
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
