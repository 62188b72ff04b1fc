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
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"dkms-kernel-install/internal/child"
)

// Cache remembers hashes, so that nothing is read again that looks as it did:
// same size, times and inode. It may be lost at any time. What a Cache has
// answered once it answers again, without another look: one is for one run. It
// may be used by several goroutines at once.
type Cache struct {
	file    string
	load    sync.Once // most runs that only look ask for no hash
	mu      sync.Mutex
	entries map[string]entry
	changed bool
	run     map[string]string // answers of this run
	asked   sync.Map          // answers of this run, by [Cache.once]'s questions
}

type entry struct{ Stamp, Value string }

// OpenCache returns the cache in file; one that is missing or damaged is empty.
// An empty name is a cache that lasts as long as the process.
func OpenCache(file string) *Cache {
	return &Cache{file: file, run: map[string]string{}}
}

// read reads the cache from its file.
func (c *Cache) read() {
	if b, err := os.ReadFile(c.file); err != nil || json.Unmarshal(b, &c.entries) != nil || c.entries == nil {
		c.entries = map[string]entry{}
	}
}

// Save writes the cache if it changed. What is about things that are gone is
// left out.
func (c *Cache) Save() error {
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
	b, err := json.Marshal(c.entries)
	if err != nil {
		return err
	}
	return errors.Join(os.MkdirAll(filepath.Dir(c.file), 0o755), renameio.WriteFile(c.file, b, 0o644))
}

// value returns what make makes for the things that key names, the first of them
// a path; from memory while stamp, which stamps writes, is what it was.
func (c *Cache) value(key []string, stamps func(io.Writer) error, make func() (string, error)) (string, error) {
	c.load.Do(c.read)
	k := strings.Join(key, "\x00")
	c.mu.Lock()
	e, known := c.entries[k]
	value, answered := c.run[k]
	c.mu.Unlock()
	if answered {
		return value, nil
	}
	h := sha256.New()
	if err := stamps(h); err != nil {
		return "", err
	}
	stamp := sum(h)
	if !known || e.Stamp != stamp {
		value, err := make()
		if err != nil {
			return "", err
		}
		e = entry{stamp, value}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = c.changed || c.entries[k] != e
	c.entries[k], c.run[k] = e, e.Value
	return e.Value, nil
}

// Source returns the hash of everything in the folders and files that paths name,
// of which those count that exist.
func (c *Cache) Source(paths ...string) (string, error) {
	if len(paths) == 0 {
		return "", nil
	}
	return c.value(paths, func(w io.Writer) error {
		var err error
		for _, path := range paths {
			err = errors.Join(err, visit(path, func(rel, path string, fi fs.FileInfo) error {
				fmt.Fprintln(w, rel)
				stampOf(w, fi)
				return nil
			}))
		}
		return err
	}, func() (string, error) {
		h := sha256.New()
		for i, path := range paths {
			fmt.Fprintln(h, i)
			if err := visit(path, func(rel, path string, fi fs.FileInfo) error {
				return content(h, rel, path, fi)
			}); err != nil {
				return "", err
			}
		}
		return sum(h), nil
	})
}

// visit is walk for a folder or file that need not exist.
func visit(path string, do func(rel, path string, fi fs.FileInfo) error) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return walk(path, do)
}

// Headers returns the hash of a kernel's headers: of what builds of modules read
// in the folders dirs, usually /lib/modules/K/build and source. It is "" where
// none of them is there.
func (c *Cache) Headers(dirs ...string) (string, error) {
	return c.once(append(slices.Clone(dirs), "headers"), func() (string, error) { return c.headers(dirs) })
}

// once returns what answer returned when it was first asked for the question.
func (c *Cache) once(question []string, answer func() (string, error)) (string, error) {
	known, _ := c.asked.LoadOrStore(strings.Join(question, "\x00"), sync.OnceValues(answer))
	return known.(func() (string, error))()
}

func (c *Cache) headers(dirs []string) (string, error) {
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
				if fi, err := os.Stat(filepath.Join(dir, name)); err == nil {
					fmt.Fprintln(w, name)
					stampOf(w, fi)
				}
			}
		}
		return nil
	}
	return c.value(real, stamps, func() (string, error) {
		h := sha256.New()
		for i, dir := range real {
			fmt.Fprintln(h, i)
			if err := writeHeaders(h, dir); err != nil {
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
func writeHeaders(h hash.Hash, dir string) error {
	for _, name := range []string{"Makefile", "Kbuild", ".config", ".kernelvariables", "Module.symvers", "include", "arch", "scripts"} {
		path, err := filepath.EvalSymlinks(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if err := walk(path, func(rel, path string, fi fs.FileInfo) error {
			if slices.Contains([]string{".c", ".S", ".o", ".a", ".cmd", ".ko", ".mod"}, filepath.Ext(rel)) {
				return nil
			}
			return content(h, filepath.Join(name, rel), path, fi)
		}); err != nil {
			return err
		}
	}
	return nil
}

// Compiler returns what the program calls itself when asked for its version: the
// first line. It is "" where there is no such program.
func (c *Cache) Compiler(ctx context.Context, program string) (string, error) {
	return c.once([]string{program, "compiler"}, func() (string, error) { return c.compiler(ctx, program) })
}

func (c *Cache) compiler(ctx context.Context, program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", nil
	}
	stamps := func(w io.Writer) error {
		fi, err := os.Stat(path)
		if err == nil {
			stampOf(w, fi)
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

// stampOf writes what changes with a file.
func stampOf(w io.Writer, fi fs.FileInfo) {
	st := fi.Sys().(*syscall.Stat_t)
	fmt.Fprintln(w, st.Dev, st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim)
}

// content writes a file's name and content: whether it may be executed counts,
// the rest of its mode and its times do not.
func content(h hash.Hash, rel, path string, fi fs.FileInfo) error {
	if fi.Mode().Type() == fs.ModeSymlink {
		target, err := os.Readlink(path)
		fmt.Fprintf(h, "%q -> %q\n", rel, target)
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	each := sha256.New()
	if _, err := io.Copy(each, f); err != nil {
		return err
	}
	fmt.Fprintf(h, "%q %t %s\n", rel, fi.Mode()&0o111 != 0, sum(each))
	return nil
}

func sum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }
