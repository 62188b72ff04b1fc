// SPDX-License-Identifier: GPL-2.0-or-later

package fingerprint

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"dkms-kernel-install/internal/files"
)

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	get := func(paths ...string) string {
		t.Helper()
		h, err := OpenHashes("").Source(paths...)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	source := func(dir string) {
		t.Helper()
		write(t, dir+"/Makefile", "all:\n")
		write(t, dir+"/src/toy.c", "int toy;\n")
		write(t, dir+"/empty", "")
		if err := os.Symlink("src/toy.c", dir+"/link"); err != nil {
			t.Fatal(err)
		}
	}
	source(a)
	first := get(a)
	old := time.Unix(1, 0)
	if err := os.Chtimes(a+"/Makefile", old, old); err != nil {
		t.Fatal(err)
	}
	write(t, a+"/.git/index", "x")
	if get(a) != first || get(a, filepath.Join(dir, "none")) == get(a, a) {
		t.Error("times and version control do not count, further directories do")
	}
	for name, change := range map[string]func() error{
		"content":  func() error { return os.WriteFile(b+"/Makefile", []byte("any:\n"), 0o644) },
		"mode":     func() error { return os.Chmod(b+"/Makefile", 0o755) },
		"new file": func() error { return os.WriteFile(b+"/new", nil, 0o644) },
		"renamed":  func() error { return os.Rename(b+"/empty", b+"/void") },
		"link":     func() error { return os.Rename(b+"/empty", b+"/link") },
		"gone":     func() error { return os.Remove(b + "/src/toy.c") },
	} {
		if err := os.RemoveAll(b); err != nil {
			t.Fatal(err)
		}
		source(b)
		if get(b) != first {
			t.Error("the same content in another directory has another hash")
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		if get(b) == first {
			t.Errorf("%s: the same hash", name)
		}
	}
}

func TestHeaders(t *testing.T) {
	dir := t.TempDir()
	build, common := dir+"/build", dir+"/common"
	write(t, build+"/include/config/auto.conf", "CONFIG_X=y\n")
	write(t, build+"/Makefile", "include "+common+"/Makefile\n")
	write(t, common+"/include/linux/module.h", "#define X\n")
	write(t, common+"/drivers/a.h", "not read by modules\n")
	write(t, dir+"/kbuild/scripts/mod/modpost", "1\n")
	if err := os.Symlink(dir+"/kbuild/scripts", build+"/scripts"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("build", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	get := func() string {
		t.Helper()
		h, err := OpenHashes("").Headers(dir+"/link", common, build, dir+"/none")
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	was := get()
	for _, file := range []string{build + "/include/config/auto.conf", common + "/include/linux/module.h", dir + "/kbuild/scripts/mod/modpost"} {
		write(t, file, "other\n")
		now := get()
		if now == was {
			t.Errorf("%s changed, the hash did not", file)
		}
		was = now
	}
	write(t, common+"/drivers/a.h", "other\n")
	write(t, common+"/arch/x86/a.o", "other\n")
	if get() != was {
		t.Error("the hash changed with files that builds of modules do not read")
	}
	if h, err := OpenHashes("").Headers(dir + "/none"); h != "" || err != nil {
		t.Errorf("no headers have hash %q, error %v", h, err)
	}
}

// A header that changes in its place is seen by those who look at all, and then by all.
func TestEveryHeader(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/k/include/linux/a.h", "1")
	write(t, dir+"/elsewhere/b.h", "1")
	if err := os.Symlink("../../elsewhere", dir+"/k/include/b"); err != nil {
		t.Fatal(err)
	}
	c := OpenHashes("")
	look := func() (string, Headers) {
		t.Helper()
		c = c.Again()
		some, err := c.Headers(dir + "/k")
		if err != nil {
			t.Fatal(err)
		}
		every, err := c.EveryHeader(dir + "/k")
		if err != nil {
			t.Fatal(err)
		}
		return some, every
	}
	some, every := look()
	if some != every.Sum {
		t.Errorf("some: %s, every: %s", some, every.Sum)
	}
	if told, err := c.SomeHeaders(dir + "/k"); err != nil || told.Sum != every.Sum || told.Linked != every.Linked {
		t.Errorf("some tell %+v, %v; every: %+v", told, err, every)
	}
	before := c
	write(t, dir+"/k/include/linux/a.h", "2")
	if now, _ := c.EveryHeader(dir + "/k"); now.Sum != every.Sum {
		t.Error("another answer in the same run")
	}
	someNow, everyNow := look()
	if someNow != some || everyNow.Sum == some || everyNow.Linked != every.Linked {
		t.Errorf("a change in place: %s, %+v", someNow, everyNow)
	}
	if someNow, _ = look(); someNow != everyNow.Sum {
		t.Error("the next run does not know of a change that the one before found")
	}
	write(t, dir+"/k/include/linux/a.h", "1")
	if _, again := look(); again.Sum != every.Sum || len(c.Moved(before)) != 1 {
		t.Errorf("as it was before: %+v, which moved: %q", again, c.Moved(before))
	}
	before = c
	if look(); len(c.Moved(before)) != 0 {
		t.Errorf("nothing changed, and %q moved", c.Moved(before))
	}
	write(t, dir+"/elsewhere/b.h", "2")
	if _, now := look(); now.Sum != every.Sum || now.Linked == every.Linked {
		t.Errorf("what a link leads to changed: %+v", now)
	}
	if none, err := c.EveryHeader(dir + "/none"); err != nil || none.Sum != "" {
		t.Errorf("no headers: %+v, %v", none, err)
	}
}

// Files whose hashes are known are not read again while they look the same.
func TestCache(t *testing.T) {
	dir := t.TempDir()
	src, file := dir+"/src", dir+"/cache/hashes.json"
	write(t, src+"/a", "1")
	c := OpenHashes(file)
	h, err := c.Source(src)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	c = OpenHashes(file)
	c.load.Do(c.read)
	for key, e := range c.entries {
		e.Value = "remembered"
		c.entries[key] = e
	}
	if got, err := c.Source(src); got != "remembered" || err != nil {
		t.Errorf("%q, %v: read again", got, err)
	}
	if err := os.WriteFile(src+"/b", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(src+"/b", src+"/a"); err != nil {
		t.Fatal(err)
	}
	write(t, src+"/a", "1")
	if got, err := c.Source(src); got != "remembered" || err != nil {
		t.Errorf("%q, %v: another answer in the same run", got, err)
	}
	c = OpenHashes(file)
	if got, err := c.Source(src); got != h || err != nil {
		t.Errorf("%q, %v after a change and back; want %q", got, err, h)
	}
	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	if err := c.Save(); err != nil {
		t.Fatal(err)
	}
	c = OpenHashes(file)
	c.load.Do(c.read)
	if n := len(c.entries); n != 0 {
		t.Errorf("%d entries are left of a directory that is gone", n)
	}
	write(t, file, "{{{")
	c = OpenHashes(file)
	c.load.Do(c.read)
	if len(c.entries) != 0 {
		t.Error("a damaged cache is not empty")
	}
}

func TestCompiler(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	for _, version := range []string{"toycc 1.0", "toycc 1.1"} {
		c := OpenHashes("")
		write(t, dir+"/toycc.new", "#!/bin/sh\necho "+version+"\necho more\n")
		if err := os.Chmod(dir+"/toycc.new", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/toycc.new", dir+"/toycc"); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got, err := c.Compiler(t.Context(), "toycc"); got != version || err != nil {
				t.Errorf("%q, %v; want %q", got, err, version)
			}
		}
	}
	if got, err := OpenHashes("").Compiler(t.Context(), "no-such-compiler"); got != "" || err != nil {
		t.Errorf("%q, %v for a compiler that is not there", got, err)
	}
}

// A compiler is what is found first, what that may call, what it consists of besides, and
// its headers.
func TestPrograms(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/lib/include/stddef.h", "")
	write(t, dir+"/exec/cc1", "1")
	write(t, dir+"/bin/toy-gcc", "#!/bin/sh\nexec toy\n")
	write(t, dir+"/local/toy-gcc", "#!/bin/sh\necho x >>"+dir+"/ran\necho install: "+dir+"/lib/\necho programs: ="+dir+"/none:"+dir+"/exec/\necho libraries: ="+dir+"\n")
	for _, file := range []string{"/bin/toy-gcc", "/local/toy-gcc"} {
		if err := os.Chmod(dir+file, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, dir+"/local/no-program", "")
	if err := os.Symlink("bin", dir+"/sbin"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+"/local:"+dir+"/bin:"+dir+"/sbin:"+os.Getenv("PATH"))
	c := OpenHashes("")
	for _, tt := range []struct {
		name     string
		compiler bool
		want     string
	}{
		{"toy-gcc", true, "/local/toy-gcc /bin/toy-gcc /exec/cc1 /lib/include"},
		{"toy-gcc", true, "/local/toy-gcc /bin/toy-gcc /exec/cc1 /lib/include"},
		{"toy-gcc", false, "/local/toy-gcc /bin/toy-gcc"},
		{dir + "/bin/toy-gcc", true, "/bin/toy-gcc"},
		{"no-program", true, ""}, {"no-such-program", false, ""}, {"../bin/toy-gcc", false, "/bin/toy-gcc"},
	} {
		c = c.Again()
		got, err := c.Programs(t.Context(), tt.name, tt.compiler)
		if list := strings.ReplaceAll(strings.Join(got, " "), dir, ""); list != tt.want || err != nil {
			t.Errorf("%s: %s, %v; want %s", tt.name, list, err, tt.want)
		}
	}
	if ran, _ := os.ReadFile(dir + "/ran"); string(ran) != "x\n" {
		t.Errorf("the compiler was asked other than once: %q", ran)
	}
}

func TestRecord(t *testing.T) {
	dir, names := t.TempDir(), []string{"toy.ko"}
	if _, ok := Read(dir, names); ok {
		t.Error("a record where there is none")
	}
	write(t, dir+"/module/toy.ko", "toy")
	b := Fingerprint{1, "s", "c", "h", "gcc 14", map[string]string{"dep": "1.0"}, "key"}
	if err := Write(dir, dir+"/module", b, names, false); err != nil {
		t.Fatal(err)
	}
	if got, ok := Read(dir, names); !ok || got.String() != b.String() {
		t.Errorf("%v, %v; want %v", got, ok, b)
	}
	want := files.Sum(dir + "/module/toy.ko")
	if sums, theirs := Sums(dir); sums["toy.ko"] != want || theirs || len(want) != 64 {
		t.Errorf("the sums are %v, %v; want %q", sums, theirs, want)
	}
	if _, ok := Read(dir, []string{"other.ko", "toy.ko"}); ok {
		t.Error("the record of other modules counts")
	}
	// A build that is made again has its record before its modules are in place.
	for _, next := range []string{"next", "then"} {
		write(t, dir+"/tmp/toy.ko", "another toy of "+next)
		again := b
		again.Source = next
		if err := Write(dir, dir+"/tmp", again, names, false); err != nil {
			t.Fatal(err)
		}
		if got, ok := Read(dir, names); !ok || got.String() != b.String() {
			t.Errorf("before %s, %v, %v; want %v", next, got, ok, b)
		}
		if err := errors.Join(os.RemoveAll(dir+"/module"), os.Rename(dir+"/tmp", dir+"/module")); err != nil {
			t.Fatal(err)
		}
		b = again
		if got, ok := Read(dir, names); !ok || got.String() != b.String() {
			t.Errorf("after %s, %v, %v; want %v", next, got, ok, b)
		}
	}
	write(t, dir+"/module/toy.ko", "toys")
	if _, ok := Read(dir, names); ok {
		t.Error("the record of other modules counts")
	}
	if sums, theirs := Sums(dir); !Whole(dir) || len(sums["toy.ko"]) != 64 || sums["toy.ko"] == files.Sum(dir+"/module/toy.ko") || !theirs {
		t.Errorf("whole: %v, sums %v, %v", Whole(dir), sums, theirs)
	}
	write(t, dir+"/"+file, "no json")
	if sums, _ := Sums(dir); Whole(dir) || len(sums) > 0 {
		t.Errorf("of a damaged record: whole: %v, sums %v", Whole(dir), sums)
	}
	if _, ok := Read(dir, names); ok {
		t.Error("a damaged record counts")
	}
}

func TestDiffers(t *testing.T) {
	b := Fingerprint{1, "s", "c", "h", "gcc 14", map[string]string{"dep": "1.0"}, ""}
	recorded := Fingerprint{1, "s", "c", "h", "gcc 14", map[string]string{"dep": "1.0 0123"}, ""}
	if got := recorded.Differs(b); got != "" {
		t.Errorf("a dependency that nobody recorded: %q", got)
	}
	for _, tt := range []struct {
		now  Fingerprint
		want string
	}{
		{b, ""},
		{Fingerprint{1, "t", "c", "h", "gcc 14", b.Depends, ""}, "its source changed since it was built"},
		{Fingerprint{1, "s", "c", "i", "gcc 15", b.Depends, ""}, "the kernel's headers and the compiler changed since it was built"},
		{Fingerprint{2, "s", "d", "h", "gcc 14", b.Depends, ""}, "its settings and this program changed since it was built"},
		{Fingerprint{1, "s", "c", "h", "gcc 14", map[string]string{"dep": "1.1"}, ""}, "dep changed since it was built"},
		{Fingerprint{1, "s", "c", "h", "gcc 14", nil, ""}, ""},
		{recorded, "dep changed since it was built"},
	} {
		if got := b.Differs(tt.now); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.now, got, tt.want)
		}
	}
}

// If one file in a directory changes, the others are not read again. Neither is a
// directory that the headers of two kernels share.
func TestDigests(t *testing.T) {
	dir := t.TempDir()
	src, file := dir+"/src", dir+"/cache/hashes.json"
	write(t, src+"/a", "1")
	write(t, src+"/b/c", "2")
	hash := func(c *Hashes) string {
		t.Helper()
		h, err := c.Source(src)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Save(); err != nil {
			t.Fatal(err)
		}
		return h
	}
	hash(OpenHashes(file))
	kept := OpenHashes(file).digests(src)
	kept.lock.Unlock()
	if len(kept.was) != 2 {
		t.Fatalf("%d digests are kept: %v", len(kept.was), kept)
	}
	// Reading b/c again would give another hash.
	c := kept.was["b/c"]
	c.Sum = "remembered"
	kept.now = map[string]digest{"a": kept.was["a"], "b/c": c}
	kept.changed = true
	kept.lock.Lock()
	kept.close()

	write(t, src+"/a", "other")
	got := hash(OpenHashes(file))
	write(t, src+"/b/c", "3")
	write(t, src+"/b/c", "2")
	want := hash(OpenHashes(""))
	if got == want {
		t.Error("b/c was read again, though only a changed")
	}
	if got := hash(OpenHashes(file)); got != want {
		t.Error("b/c was not read again, though it was written")
	}

	for _, name := range []string{"one", "two"} {
		if err := os.MkdirAll(dir+"/"+name, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(src, dir+"/"+name+"/scripts"); err != nil {
			t.Fatal(err)
		}
	}
	first, err := OpenHashes(file).Headers(dir + "/one")
	if err != nil {
		t.Fatal(err)
	}
	kept = OpenHashes(file).digests(src)
	for name, d := range kept.was {
		kept.now[name] = digest{d.Stamp, "remembered"}
	}
	kept.changed = true
	kept.close()
	if second, err := OpenHashes(file).Headers(dir + "/two"); err != nil || second == first {
		t.Errorf("%v: what the second kernel shares with the first was read again", err)
	}

	if err := os.RemoveAll(src); err != nil {
		t.Fatal(err)
	}
	hash(OpenHashes(file))
	if left, err := os.ReadDir(dir + "/cache/files"); err != nil || len(left) != 0 {
		t.Errorf("%v, %v: digests of a directory that is gone", left, err)
	}
}

// If two goroutines ask the same at once, one waits for the other's answer.
func TestOnce(t *testing.T) {
	c := OpenHashes("")
	made := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := c.value([]string{"/key"}, func(io.Writer) error { return nil }, func() (string, error) {
				time.Sleep(10 * time.Millisecond)
				made++ // if two did this at once, it would be a race
				return "value", nil
			})
			if got != "value" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

// Again looks again.
func TestAnew(t *testing.T) {
	src := t.TempDir()
	write(t, src+"/a", "1")
	c := OpenHashes("")
	was, err := c.Source(src)
	if err != nil {
		t.Fatal(err)
	}
	write(t, src+"/a", "other")
	if now, err := c.Again().Source(src); err != nil || now == was {
		t.Errorf("%v: the change was not seen", err)
	}
	if now, err := c.Source(src); err != nil || now != was {
		t.Errorf("%v: another answer in the same run", err)
	}
}

func TestKey(t *testing.T) {
	b := Fingerprint{1, "s", "c", "h", "gcc 14", map[string]string{"a": "1", "b": "2"}, ""}
	get := func(b Fingerprint, effective ...any) string {
		t.Helper()
		key, err := Key(b, effective...)
		if err != nil || len(key) != 64 {
			t.Fatalf("%q, %v", key, err)
		}
		return key
	}
	seen := map[string]bool{}
	other := b
	other.Rules++
	for _, key := range []string{get(b), get(other), get(Fingerprint{}), get(b, "x"), get(b, "x", ""), get(b, []string{"x"}), get(b, map[string]string{"x": ""})} {
		if seen[key] {
			t.Error("two builds have the same key")
		}
		seen[key] = true
	}
	if get(b, map[string]int{"y": 1, "x": 2}) != get(b, map[string]int{"x": 2, "y": 1}) {
		t.Error("the same build has two keys")
	}
	if _, err := Key(b, func() {}); err == nil {
		t.Error("what cannot be written has a key")
	}
}

func TestOutside(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	top := dir + "/src"
	write(t, top+"/a/file", "")
	write(t, dir+"/other/file", "")
	links := func(pairs ...string) {
		t.Helper()
		for i := 0; i < len(pairs); i += 2 {
			if err := os.Symlink(pairs[i+1], top+"/"+pairs[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	links("in", "a/file", "a/up", "../a", "nowhere", "a/none", "abs", top+"/a")
	if files, whole := Outside(top, dir+"/none"); len(files) != 0 || !whole {
		t.Errorf("%q, %v: nothing leads out", files, whole)
	}
	links("out", dir+"/other/file", "again", dir+"/other/file")
	links("third", top+"/a/../../other/file")
	if files, whole := Outside(top); len(files) != 1 || files[0] != dir+"/other/file" || !whole {
		t.Errorf("%q, %v", files, whole)
	}
	// Cleaned, all but the first three lead to something below top.
	links("a/top", "..")
	for name, to := range map[string]string{
		"a directory": dir + "/other", "a relative link": "../other/file", "a link to nowhere": dir + "/none",
		"a directory by an absolute path": top + "/../other", "nothing by an absolute path": top + "/a/../none/../x",
		"a relative link through a link": "a/top/../a/file", "and one that ends there": "a/top/..",
	} {
		links("x", to)
		if _, whole := Outside(top); whole {
			t.Errorf("%s: it is read by nobody", name)
		}
		if err := os.Remove(top + "/x"); err != nil {
			t.Fatal(err)
		}
	}
	write(t, top+"/.git/HEAD", "")
	if _, whole := Outside(top); whole {
		t.Error("the records of version control are read by nobody")
	}
}
