// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/files"
)

func key(n int) string { return fmt.Sprintf("%x", sha256.Sum256([]byte{byte(n)})) }

func newCache(t *testing.T) *Dir {
	t.Helper()
	return &Dir{Path: filepath.Join(t.TempDir(), "var/builds"), MaxSize: 1 << 20}
}

// write makes files with these contents; those that end in ! may be executed.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		file, mode := filepath.Join(dir, strings.TrimSuffix(name, "!")), os.FileMode(0o644)
		if strings.HasSuffix(name, "!") {
			mode = 0o755
		}
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
}

// read returns what write would make.
func read(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		name := strings.TrimPrefix(path, dir+"/")
		if fi.Mode()&0o111 != 0 {
			name += "!"
		}
		files[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

var content = map[string]string{
	"module/toy.ko":         strings.Repeat("some module ", 1000),
	"module/Module.symvers": "",
	"make.log":              "log",
	"out/a/b/tool!":         "#!/bin/sh\n",
}

// put keeps content under the key, each of its directories for itself.
func put(t *testing.T, c *Dir, key string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, content)
	if err := c.Put(key, map[string]string{"module": dir + "/module", "make.log": dir + "/make.log", "out": dir + "/out"}); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, c *Dir, key string) bool {
	t.Helper()
	to := filepath.Join(t.TempDir(), "parent", "to")
	ok, err := c.Get(key, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(to); (err == nil) != ok {
		t.Errorf("Get says %v, but of its directory: %v", ok, err)
	}
	if ok {
		if diff := cmp.Diff(content, read(t, to)); diff != "" {
			t.Error(diff)
		}
	}
	return ok
}

func TestPutGet(t *testing.T) {
	c := newCache(t)
	if has(t, c, key(1)) {
		t.Error("an empty cache has something")
	}
	put(t, c, key(1))
	put(t, c, key(1)) // again
	if !has(t, c, key(1)) || has(t, c, key(2)) {
		t.Error("it does not have what was put into it, or more")
	}
	for path, mode := range map[string]os.FileMode{c.Path: 0o700 | os.ModeDir, c.path(key(1)): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	if entries, _ := os.ReadDir(c.Path); len(entries) != 1 {
		t.Errorf("%v are in it", entries)
	}
	for _, bad := range []string{"", "short", "../" + key(1), strings.ToUpper(key(1)), files.TempName(key(1))} {
		if c.Put(bad, nil) == nil || has(t, c, bad) {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	c := newCache(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1", "large": ""})
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, c.MaxSize+1)
	for i := range noise {
		noise[i] = byte(rand.Int())
	}
	if err := os.WriteFile(dir+"/large", noise, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string]string{
		"a link":              {"x": dir + "/link"},
		"nothing":             {"x": dir + "/none"},
		"a bad name":          {"../x": dir + "/a"},
		"two of one name":     {"x": dir + "/a", "./x": dir + "/a"},
		"a file as directory": {"x": dir + "/a", "x/y": dir + "/a"},
		"too much":            {"x": dir + "/large"},
	} {
		if err := c.Put(key(1), files); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if entries, _ := os.ReadDir(c.Path); len(entries) != 0 {
		t.Errorf("%v is left of what was refused", entries)
	}
}

// Any byte of an entry that is not what it was makes it no entry.
func TestDamage(t *testing.T) {
	c := newCache(t)
	put(t, c, key(1))
	file := c.path(key(1))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if has(t, c, key(1)) {
			t.Errorf("%s: taken", name)
		}
		if _, err := os.Lstat(file); err == nil {
			t.Errorf("%s: it stays", name)
		}
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x20
		// Two bytes of a stream may be about nothing but how it was compressed:
		// then the contents are whole, which has checks.
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		head := bytes.Index(whole, []byte("\x28\xb5\x2f\xfd"))
		if has(t, c, key(1)) && i < head {
			t.Errorf("byte %d of %d, %q: taken", i, len(whole), whole[i])
		}
	}
	for n := range whole {
		if n < len(whole)-1 {
			try(fmt.Sprintf("the first %d bytes", n), whole[:n])
		}
	}
	try("empty", nil)
	try("two in one", append(bytes.Clone(whole), whole...))
	try("a tail", append(bytes.Clone(whole), "tail"...))
	if err := os.WriteFile(c.path(key(2)), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if has(t, c, key(2)) {
		t.Error("an entry under another key: taken")
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if !has(t, c, key(1)) {
		t.Error("the whole entry: not taken")
	}
}

// What others may write to is no entry, and no cache.
func TestOthers(t *testing.T) {
	c := newCache(t)
	put(t, c, key(1))
	for _, path := range []string{c.Path, c.path(key(1))} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if has(t, c, key(1)) {
			t.Errorf("%s: trusted", path)
		}
		if err := os.Chmod(c.Path, 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, c, key(1))
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(c.path(key(1)), 1, 1); err != nil {
			t.Fatal(err)
		}
		if has(t, c, key(1)) {
			t.Error("another user's entry: trusted")
		}
		if err := os.Chown(c.Path, 1, 1); err != nil {
			t.Fatal(err)
		}
		if c.Put(key(1), nil) == nil {
			t.Error("another user's directory: written to")
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(c.Path, link); err != nil {
		t.Fatal(err)
	}
	if (&Dir{Path: link, MaxSize: 1 << 20}).Put(key(2), nil) == nil {
		t.Error("a link for a directory: written to")
	}
}

// A directory that cannot be unpacked to is an error, and the entry stays.
func TestGetFails(t *testing.T) {
	c := newCache(t)
	put(t, c, key(1))
	to := t.TempDir()
	if ok, err := c.Get(key(1), to); ok || err == nil {
		t.Errorf("%v, %v: unpacked to a directory that is there", ok, err)
	}
	if !has(t, c, key(1)) {
		t.Error("the entry went")
	}
}

func TestTidy(t *testing.T) {
	c := newCache(t)
	put(t, c, key(0))
	fi, err := os.Stat(c.path(key(0)))
	if err != nil {
		t.Fatal(err)
	}
	left := func() (list []int) {
		for n := range 8 {
			if _, err := os.Stat(c.path(key(n))); err == nil {
				list = append(list, n)
			}
		}
		return list
	}
	used := func(n int, ago time.Duration) {
		t.Helper()
		if err := os.Chtimes(c.path(key(n)), time.Now().Add(-ago), time.Now().Add(-ago)); err != nil {
			t.Fatal(err)
		}
	}
	for n, hours := range []time.Duration{50, 10, 40, 20, 30, 1000} {
		put(t, c, key(n))
		used(n, hours*time.Hour)
	}
	write(t, c.Path, map[string]string{files.TempName(key(9)): "left", "README": "not ours"})
	has(t, c, key(0)) // used just now
	c.MaxAge = 999 * time.Hour
	c.Tidy()
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, left()); diff != "" {
		t.Error("by age: ", diff)
	}
	c.MaxSize = 3*fi.Size() + 1
	c.Tidy()
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, left()); diff != "" {
		t.Error("nothing was added since: ", diff)
	}
	put(t, c, key(6))
	c.Tidy()
	if diff := cmp.Diff([]int{0, 1, 6}, left()); diff != "" {
		t.Error("by size: ", diff)
	}
	if entries, _ := os.ReadDir(c.Path); len(entries) != 5 {
		t.Errorf("%v: want three entries, the stamp, and a file that is not the store's", entries)
	}
	// Age counts though nothing was added, once the last look is a day old.
	used(6, 2000*time.Hour)
	c.Tidy()
	if diff := cmp.Diff([]int{0, 1, 6}, left()); diff != "" {
		t.Error("tidied twice in a day: ", diff)
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(filepath.Join(c.Path, tidied), yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	c.Tidy()
	if diff := cmp.Diff([]int{0, 1}, left()); diff != "" {
		t.Error("by age, a day later: ", diff)
	}
	if err := os.Remove(filepath.Join(c.Path, "README")); err != nil {
		t.Fatal(err)
	}
	c.MaxSize = 0
	put(t, c, key(7))
	if has(t, c, key(0)) || has(t, c, key(7)) {
		t.Error("it is off, and has something")
	}
	c.Tidy()
	if _, err := os.Stat(c.Path); err == nil {
		t.Error("it is off, and there")
	}
	c.Tidy()
	(&Dir{}).Tidy()
}

// Many put, get and tidy at once: whoever gets something gets all of it.
func TestConcurrent(t *testing.T) {
	dir := newCache(t).Path
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c := &Dir{Path: dir, MaxSize: 1500} // a process of its own
			for n := range 10 {
				put(t, c, key(n%3))
				has(t, c, key((n+1)%3))
				c.Tidy()
			}
		})
	}
	wg.Wait()
	if entries, _ := os.ReadDir(dir); len(entries) > 3 {
		t.Errorf("%v", entries)
	}
}

// FuzzUnpack unpacks what is damaged but whose manifest has the right hash, as
// somebody could make it who knows the format.
func FuzzUnpack(f *testing.F) {
	c := &Dir{Path: filepath.Join(f.TempDir(), "builds"), MaxSize: 1 << 20}
	dir := f.TempDir()
	if err := os.WriteFile(dir+"/toy.ko", []byte("module"), 0o644); err != nil {
		f.Fatal(err)
	}
	if err := c.Put(key(1), map[string]string{"module": dir}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(c.path(key(1)))
	if err != nil {
		f.Fatal(err)
	}
	lines := bytes.SplitN(b, []byte("\n"), 4)
	f.Add(lines[2], lines[3])
	f.Add([]byte(`{"Key":"`+key(1)+`","Files":[{"Name":"../x","Size":1}]}`), lines[3])
	f.Add([]byte(`{"Key":"`+key(1)+`","Files":[{"Name":"x","Size":-1},{"Name":"x/y"}]}`), lines[3])
	f.Fuzz(func(t *testing.T, manifest, data []byte) {
		if m, err := readManifest(bufio.NewReader(bytes.NewReader(entryOf(manifest, data))), key(1)); err == nil {
			for _, f := range m.Files {
				if f.Size > 1<<20 {
					return // as large as it says, and no larger
				}
			}
		}
		work := t.TempDir()
		entry := filepath.Join(work, "entry")
		if err := os.WriteFile(entry, entryOf(manifest, data), 0o600); err != nil {
			t.Fatal(err)
		}
		in, err := os.Open(entry)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		to := filepath.Join(work, "to")
		if err := os.Mkdir(to, 0o755); err != nil {
			t.Fatal(err)
		}
		err = unpack(in, key(1), to)
		if outside, _ := os.ReadDir(work); len(outside) != 2 {
			t.Fatalf("%v: it wrote elsewhere", outside)
		}
		if err != nil {
			return
		}
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		m, err := readManifest(bufio.NewReader(in), key(1))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range m.Files {
			got, err := digest(filepath.Join(to, f.Name))
			if err != nil || got.SHA256 != f.SHA256 || got.Size != f.Size {
				t.Errorf("%+v is %+v, %v", f, got, err)
			}
		}
	})
}

func entryOf(manifest, data []byte) []byte {
	return fmt.Appendf(nil, "%s%x\n%s\n%s", format, sha256.Sum256(manifest), manifest, data)
}
