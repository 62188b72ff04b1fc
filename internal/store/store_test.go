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

func newStore(t *testing.T) *Dir {
	t.Helper()
	return &Dir{Path: filepath.Join(t.TempDir(), "var/builds"), MaxSize: 1 << 20}
}

// write makes files with these contents. Those whose contents end in ! may be executed.
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

// read returns the contents of the files below a directory, as write takes them.
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

// put puts content under the key, each top directory as a part.
func put(t *testing.T, d *Dir, key string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, content)
	if err := d.Put(key, map[string]string{"module": dir + "/module", "make.log": dir + "/make.log", "out": dir + "/out"}); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, d *Dir, key string) bool {
	t.Helper()
	to := filepath.Join(t.TempDir(), "parent", "to")
	ok, err := d.Get(key, to)
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
	d := newStore(t)
	if has(t, d, key(1)) {
		t.Error("an empty cache has something")
	}
	put(t, d, key(1))
	put(t, d, key(1)) // again
	if !has(t, d, key(1)) || has(t, d, key(2)) {
		t.Error("it does not have what was put into it, or more")
	}
	for path, mode := range map[string]os.FileMode{d.Path: 0o700 | os.ModeDir, d.path(key(1)): 0o600} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
	if entries, _ := os.ReadDir(d.Path); len(entries) != 1 {
		t.Errorf("%v are in it", entries)
	}
	for _, bad := range []string{"", "short", "../" + key(1), strings.ToUpper(key(1)), files.TempName(key(1))} {
		if d.Put(bad, nil) == nil || has(t, d, bad) {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	d := newStore(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"a": "1", "large": ""})
	if err := os.Symlink("a", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, d.MaxSize+1)
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
		if err := d.Put(key(1), files); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if entries, _ := os.ReadDir(d.Path); len(entries) != 0 {
		t.Errorf("%v is left of what was refused", entries)
	}
}

// If any byte of an entry has changed, Get does not return it.
func TestDamage(t *testing.T) {
	d := newStore(t)
	put(t, d, key(1))
	file := d.path(key(1))
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	try := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if has(t, d, key(1)) {
			t.Errorf("%s: taken", name)
		}
		if _, err := os.Lstat(file); err == nil {
			t.Errorf("%s: it stays", name)
		}
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 0x20
		// A byte of the stream may only concern how it was compressed. Then the
		// contents are whole, which has checks.
		if err := os.WriteFile(file, b, 0o600); err != nil {
			t.Fatal(err)
		}
		head := bytes.Index(whole, []byte("\x28\xb5\x2f\xfd"))
		if has(t, d, key(1)) && i < head {
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
	if err := os.WriteFile(d.path(key(2)), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if has(t, d, key(2)) {
		t.Error("an entry under another key: taken")
	}
	if err := os.WriteFile(file, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if !has(t, d, key(1)) {
		t.Error("the whole entry: not taken")
	}
}

// An entry, or a directory, that others may write to is not used.
func TestOthers(t *testing.T) {
	d := newStore(t)
	put(t, d, key(1))
	for _, path := range []string{d.Path, d.path(key(1))} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
		if has(t, d, key(1)) {
			t.Errorf("%s: trusted", path)
		}
		if err := os.Chmod(d.Path, 0o700); err != nil {
			t.Fatal(err)
		}
		put(t, d, key(1))
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(d.path(key(1)), 1, 1); err != nil {
			t.Fatal(err)
		}
		if has(t, d, key(1)) {
			t.Error("another user's entry: trusted")
		}
		if err := os.Chown(d.Path, 1, 1); err != nil {
			t.Fatal(err)
		}
		if d.Put(key(1), nil) == nil {
			t.Error("another user's directory: written to")
		}
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(d.Path, link); err != nil {
		t.Fatal(err)
	}
	if (&Dir{Path: link, MaxSize: 1 << 20}).Put(key(2), nil) == nil {
		t.Error("a link for a directory: written to")
	}
}

// If the directory to unpack to cannot be written, that is an error, and the entry stays.
func TestGetFails(t *testing.T) {
	d := newStore(t)
	put(t, d, key(1))
	to := t.TempDir()
	if ok, err := d.Get(key(1), to); ok || err == nil {
		t.Errorf("%v, %v: unpacked to a directory that is there", ok, err)
	}
	if !has(t, d, key(1)) {
		t.Error("the entry went")
	}
}

func TestTidy(t *testing.T) {
	d := newStore(t)
	put(t, d, key(0))
	fi, err := os.Stat(d.path(key(0)))
	if err != nil {
		t.Fatal(err)
	}
	left := func() (list []int) {
		for n := range 8 {
			if _, err := os.Stat(d.path(key(n))); err == nil {
				list = append(list, n)
			}
		}
		return list
	}
	used := func(n int, ago time.Duration) {
		t.Helper()
		if err := os.Chtimes(d.path(key(n)), time.Now().Add(-ago), time.Now().Add(-ago)); err != nil {
			t.Fatal(err)
		}
	}
	for n, hours := range []time.Duration{50, 10, 40, 20, 30, 1000} {
		put(t, d, key(n))
		used(n, hours*time.Hour)
	}
	write(t, d.Path, map[string]string{files.TempName(key(9)): "left", "README": "not ours"})
	has(t, d, key(0)) // used just now
	d.MaxAge = 999 * time.Hour
	d.Tidy()
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, left()); diff != "" {
		t.Error("by age: ", diff)
	}
	d.MaxSize = 3*fi.Size() + 1
	d.Tidy()
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, left()); diff != "" {
		t.Error("nothing was added since: ", diff)
	}
	put(t, d, key(6))
	d.Tidy()
	if diff := cmp.Diff([]int{0, 1, 6}, left()); diff != "" {
		t.Error("by size: ", diff)
	}
	if entries, _ := os.ReadDir(d.Path); len(entries) != 5 {
		t.Errorf("%v: want three entries, the stamp, and a file that is not the store's", entries)
	}
	// Old entries are removed even if nothing was added, once a day.
	used(6, 2000*time.Hour)
	d.Tidy()
	if diff := cmp.Diff([]int{0, 1, 6}, left()); diff != "" {
		t.Error("tidied twice in a day: ", diff)
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(filepath.Join(d.Path, tidied), yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	d.Tidy()
	if diff := cmp.Diff([]int{0, 1}, left()); diff != "" {
		t.Error("by age, a day later: ", diff)
	}
	if err := os.Remove(filepath.Join(d.Path, "README")); err != nil {
		t.Fatal(err)
	}
	d.MaxSize = 0
	put(t, d, key(7))
	if has(t, d, key(0)) || has(t, d, key(7)) {
		t.Error("it is off, and has something")
	}
	d.Tidy()
	if _, err := os.Stat(d.Path); err == nil {
		t.Error("it is off, and there")
	}
	d.Tidy()
	(&Dir{}).Tidy()
}

// If many put, get and tidy at once, each Get returns a whole entry or none.
func TestConcurrent(t *testing.T) {
	dir := newStore(t).Path
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			d := &Dir{Path: dir, MaxSize: 1500} // as another process would
			for n := range 10 {
				put(t, d, key(n%3))
				has(t, d, key((n+1)%3))
				d.Tidy()
			}
		})
	}
	wg.Wait()
	if entries, _ := os.ReadDir(dir); len(entries) > 3 {
		t.Errorf("%v", entries)
	}
}

// FuzzUnpack unpacks damaged entries whose manifest has the right hash, as only somebody
// who knows the format can make them.
func FuzzUnpack(f *testing.F) {
	d := &Dir{Path: filepath.Join(f.TempDir(), "builds"), MaxSize: 1 << 20}
	dir := f.TempDir()
	if err := os.WriteFile(dir+"/toy.ko", []byte("module"), 0o644); err != nil {
		f.Fatal(err)
	}
	if err := d.Put(key(1), map[string]string{"module": dir}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(d.path(key(1)))
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
					return // it is no larger than its manifest says
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
