// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/tree"
)

// TestTemporaries checks that methods that only look leave temporaries alone: their
// callers do not hold the lock, and another run may be at work.
func TestTemporaries(t *testing.T) {
	dir := t.TempDir()
	target := tree.Target{Release: "6.1", Arch: "x86_64"}
	k := &Kernel{Tree: tree.Tree{Dir: filepath.Join(dir, "tree")}, Target: target, Dir: filepath.Join(dir, "6.1")}
	temp := filepath.Join(k.Dir, "updates", files.TempName("a.ko"))
	if err := os.MkdirAll(filepath.Dir(temp), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(temp, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p := Placement{ID: tree.ID{Name: "a", Version: "1"}, Modules: []Module{{"a.ko", "/updates"}}}
	if k.Current(p) {
		t.Error("what is not there is current")
	}
	if _, err := k.Files(p); err != nil || !files.Exists(temp) {
		t.Errorf("a look removed a temporary, or failed: %v", err)
	}
	if err := k.Tidy(); err != nil || files.Exists(temp) {
		t.Errorf("the temporary is still there: %v", err)
	}
}

func TestSame(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	write := func(t *testing.T, file, content string, modified time.Time) {
		t.Helper()
		// Long enough for the clock of the file system to advance.
		time.Sleep(20 * time.Millisecond)
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, modified, modified); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, placed, built string)
		want bool
	}{
		{"a copy", func(t *testing.T, placed, built string) {
			write(t, built, "module", old)
			if err := copyTo(built, placed); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"copied by another program", func(t *testing.T, placed, built string) {
			write(t, built, "module", old)
			write(t, placed, "module", time.Now())
		}, true},
		{"changed since", func(t *testing.T, placed, built string) {
			write(t, built, "module", old)
			if err := copyTo(built, placed); err != nil {
				t.Fatal(err)
			}
			write(t, placed, "mmmmmm", time.Now())
		}, false},
		{"another build of the same age and size", func(t *testing.T, placed, built string) {
			write(t, placed, "module", old)
			write(t, built, "MODULE", old)
		}, false},
		{"the same build again", func(t *testing.T, placed, built string) {
			write(t, placed, "module", old)
			write(t, built, "module", old)
		}, true},
		{"another size", func(t *testing.T, placed, built string) {
			write(t, built, "module", old)
			write(t, placed, "modules", old)
		}, false},
		{"nothing built", func(t *testing.T, placed, built string) { write(t, placed, "module", old) }, false},
		{"nothing placed", func(t *testing.T, placed, built string) { write(t, built, "module", old) }, false},
		{"a directory", func(t *testing.T, placed, built string) {
			write(t, built, "module", old)
			if err := os.Mkdir(placed, 0o755); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"a link", func(t *testing.T, placed, built string) {
			write(t, built, "module", old)
			if err := os.Symlink(built, placed); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"a link to what is gone", func(t *testing.T, placed, built string) {
			if err := os.Symlink(built, placed); err != nil {
				t.Fatal(err)
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			placed, built := filepath.Join(dir, "placed"), filepath.Join(dir, "built")
			c.make(t, placed, built)
			if got := same(placed, built); got != c.want {
				t.Errorf("same: %v", got)
			}
		})
	}
}

// TestCutShort checks that what was placed, and what was there before, stay the package's
// if a placement ends in the middle, whatever is built after that.
func TestCutShort(t *testing.T) {
	dir := t.TempDir()
	target := tree.Target{Release: "6.1", Arch: "x86_64"}
	id := tree.ID{Name: "a", Version: "1"}
	k := &Kernel{Tree: tree.Tree{Dir: filepath.Join(dir, "tree")}, Target: target, Dir: filepath.Join(dir, "6.1")}
	p := Placement{ID: id, Versions: []string{"1"}, Force: true, Modules: []Module{{"a.ko", "/extra"}, {"b.ko", "/extra"}, {"c.ko", "/updates"}}}
	build := func(content string) {
		t.Helper()
		for _, m := range p.Modules {
			file := filepath.Join(k.Tree.ModuleDir(id, target), m.File)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(m.File+content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	build("first")
	if _, err := k.Install(p); err != nil {
		t.Fatal(err)
	}
	p.Installed = true
	build("second")
	// There is no room for the second one.
	block := filepath.Join(k.Dir, "extra", files.TempName("b.ko"))
	if err := os.MkdirAll(filepath.Join(block, "full"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Install(p); err == nil {
		t.Fatal("the module was placed")
	}
	build("third")
	for _, m := range p.Modules {
		if !k.own(p, k.Path(m)) {
			t.Errorf("%s is not the package's", m.File)
		}
	}
}

// TestLeftDirectory checks that the directory of a displaced module goes, though a run was
// killed when it had moved the module away.
func TestLeftDirectory(t *testing.T) {
	dir := t.TempDir()
	target := tree.Target{Release: "6.1", Arch: "x86_64"}
	id := tree.ID{Name: "a", Version: "1"}
	k := &Kernel{Tree: tree.Tree{Dir: filepath.Join(dir, "tree")}, Target: target, Dir: filepath.Join(dir, "6.1")}
	p := Placement{ID: id, Versions: []string{"1"}, Modules: []Module{{"a.ko", "/extra"}}}
	built, theirs := filepath.Join(k.Tree.ModuleDir(id, target), "a.ko"), filepath.Join(k.Dir, "kernel/drivers/a.ko")
	for _, file := range []string{built, theirs} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(file), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := k.Install(p); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Install(p); err != nil {
		t.Fatal(err)
	}
	if files.Exists(filepath.Dir(theirs)) {
		t.Error("its directory is left")
	}
}
