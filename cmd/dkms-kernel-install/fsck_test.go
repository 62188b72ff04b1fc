// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdFlip is
//
//	flip FILE [OFFSET]
//
// It flips a bit of a file, in its middle or at the offset, which counts from the end if it is
// negative, and leaves the file's times as they are.
func cmdFlip(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 || len(args) > 2 {
		ts.Fatalf("usage: flip file [offset]")
	}
	file := ts.MkAbs(args[0])
	fi, err := os.Stat(file)
	ts.Check(err)
	at := fi.Size() / 2
	if len(args) == 2 {
		offset, err := strconv.Atoi(args[1])
		ts.Check(err)
		at = (fi.Size() + int64(offset)) % fi.Size()
	}
	ts.Check(flip(file, int(at)))
}

// flip flips the lowest bit of the byte at an offset in the file at path. The offset may be
// larger than the file: it starts again.
func flip(path string, at int) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return err
	}
	b[at%len(b)] ^= 1
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return os.Chtimes(path, time.Time{}, fi.ModTime())
}

// harms are the ways to damage what is at a path. Each reports whether it fits.
var harms = []struct {
	name string
	do   func(random *rand.Rand, path string, fi os.FileInfo) (bool, error)
}{
	{"remove", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) { return true, os.RemoveAll(path) }},
	{"flip", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) {
		return fi.Mode().IsRegular() && fi.Size() > 0, flip(path, random.IntN(1<<20))
	}},
	{"truncate", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) {
		return fi.Mode().IsRegular() && fi.Size() > 0, os.Truncate(path, random.Int64N(max(fi.Size(), 1)))
	}},
	{"overwrite", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) {
		return fi.Mode().IsRegular(), os.WriteFile(path, []byte("junk"), 0o644)
	}},
	{"lead elsewhere", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) {
		if fi.Mode()&os.ModeSymlink == 0 {
			return false, nil
		}
		if err := os.Remove(path); err != nil {
			return true, err
		}
		return true, os.Symlink([]string{"nowhere", "/", "../..", "9.9/6.1/x86_64"}[random.IntN(4)], path)
	}},
	{"make a directory of", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) {
		if fi.IsDir() {
			return false, nil
		}
		if err := os.Remove(path); err != nil {
			return true, err
		}
		return true, os.Mkdir(path, 0o755)
	}},
	{"make a file of", func(random *rand.Rand, path string, fi os.FileInfo) (bool, error) {
		if fi.Mode().IsRegular() {
			return false, nil
		}
		if err := os.RemoveAll(path); err != nil {
			return true, err
		}
		return true, os.WriteFile(path, []byte("junk"), 0o644)
	}},
}

// cmdDamages is
//
//	damages N
//
// N times it damages the machine at random: something in the tree, a module that is placed, an
// index, or a cache; but not the whole directory of a package's name, without which nobody
// knows that there was one. After fsck --repair all must be as before, or its path told. With
// DKMS_TEST_ALL there are 500, other ones each time. DKMS_DAMAGE_SEED has the seed of a single
// one to repeat.
func cmdDamages(ts *testscript.TestScript, neg bool, args []string) {
	w, n, seed := newWalker(ts, neg, args, "DKMS_DAMAGE_SEED", 5)
	defer os.RemoveAll(w.saved)
	w.verbose = true
	want := w.state()
	for range n {
		w.log = fmt.Sprintf("DKMS_DAMAGE_SEED=%d\n", seed)
		copyMachine(ts, w.saved, w.work)
		w.damage(rand.New(rand.NewPCG(seed, 0)), want)
		seed++
	}
}

// damage damages the machine, has it repaired, and compares it with what is wanted.
func (w *walker) damage(random *rand.Rand, want map[string]string) {
	out, err := exec.Command("bash", "-c", "cd "+w.work+` && find var/lib/dkms/*/* var/lib/dkms/mok.* var/cache/dkms-kernel-install lib/modules/*/modules.dep lib/modules/*/kernel/extra`).Output()
	w.ts.Check(err)
	paths := slices.DeleteFunc(strings.Fields(string(out)), func(path string) bool { return strings.Contains(path, "/log/") || strings.HasSuffix(path, "/log") })
	for {
		path := filepath.Clean(paths[random.IntN(len(paths))])
		harm := harms[random.IntN(len(harms))]
		fi, err := os.Lstat(filepath.Join(w.work, path))
		w.ts.Check(err)
		if did, err := harm.do(random, filepath.Join(w.work, path), fi); did {
			w.ts.Check(err)
			w.log += harm.name + " " + path + "\n"
			break
		}
	}
	damaged := w.state()
	if !maps.Equal(damaged, want) {
		if _, err := w.output("dkms-kernel-install fsck"); err == nil {
			w.fail("fsck finds nothing")
		}
	}
	told, _ := w.output("dkms-kernel-install fsck --repair")
	is := w.state()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if is[path] != want[path] && !mentions(told, path) {
			w.fail("%s is %q, was %q", path, is[path], want[path])
		}
	}
	for _, path := range slices.Sorted(maps.Keys(is)) {
		if _, ok := want[path]; !ok && !mentions(told, path) {
			w.fail("%s is new", path)
		}
	}
}

// mentions reports whether a line of text is about path, about a directory above it, or about
// something below it.
func mentions(text, path string) bool {
	path = strings.TrimSuffix(path, ".origin") // of the module beside it
	if strings.Contains(text, "/"+path+"/") {
		return true
	}
	for ; strings.Count(path, "/") > 2; path = filepath.Dir(path) {
		if strings.Contains(text, "/"+path+": ") {
			return true
		}
	}
	return false
}
