// SPDX-License-Identifier: GPL-2.0-or-later

package tree

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/testskip"
)

// makeAll makes, below dir, directories (names that end in "/"), links (NAME -> TARGET)
// and empty files.
func makeAll(t *testing.T, dir string, list ...string) {
	t.Helper()
	for _, item := range list {
		name, target, link := strings.Cut(item, " -> ")
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		switch {
		case err != nil:
		case link:
			err = os.Symlink(strings.ReplaceAll(target, "DIR", dir), path)
		case strings.HasSuffix(name, "/"):
			err = os.MkdirAll(path, 0o755)
		default:
			err = os.WriteFile(path, nil, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	makeAll(t, dir,
		"src/a-1/", "src/a-2/", "src/b-3/", "elsewhere/b-1/", "srclink -> src",
		// Versions in numerical order, several architectures, displaced modules,
		// and things that do not belong there.
		"tree/a/1/source -> DIR/src/a-1", "tree/a/2/source -> ../../../src/a-2", "tree/a/10/source -> DIR/srclink/a-1",
		"tree/a/1/6.1/x86_64/module/a.ko.xz", "tree/a/1/6.1/x86_64/module/a0.ko", "tree/a/1/6.1/x86_64/module/Module.symvers",
		"tree/a/1/6.1/x86_64/module/c.ko/", "tree/a/1/6.1/x86_64/log/make.log",
		"tree/a/1/6.2/aarch64/module/a.ko", "tree/a/1/6.2/x86_64/module/",
		"tree/a/1/6.3/x86_64/log/make.log", "tree/a/1/6.4/aarch64/module/a.ko", "tree/a/1/6.5 -> 6.1",
		"tree/a/1/6.6/x86_64/module/a.ko", "tree/a/1/6.6/notes",
		"tree/a/1/6.6/.dkms-kernel-install-removed-i686/module/a.ko", "tree/a/1/6.7/",
		"tree/a/1/build/x86_64/module/a.ko", "tree/a/1/.dkms-kernel-install-6.8/x86_64/module/a.ko",
		"tree/a/2/6.1/x86_64/module/a.ko",
		"tree/a/kernel-6.1-x86_64 -> 2/6.1/x86_64", "tree/a/kernel-6.2-aarch64 -> DIR/tree/a/1/6.2/aarch64",
		"tree/a/kernel-6.9-x86_64 -> 1/6.9/x86_64",
		"tree/a/original_module/6.2/aarch64/a.ko",
		// Broken packages, and directories that are not packages.
		"tree/b/1/source -> DIR/src/b-1", "tree/b/2/source -> DIR/gone/b-2", "tree/b/3/", "tree/b/4/source -> DIR/tree/file", "tree/b/4/6.1/x86_64/module/b.ko",
		"tree/b/backup/notes", "tree/file", "tree/.hidden/1/source -> DIR/src/a-1", "tree/b/5/source -> DIR/src/link-5", "src/link-5 -> ../elsewhere/b-1",
	)
	x, arm := func(r string) Target { return Target{r, "x86_64"} }, func(r string) Target { return Target{r, "aarch64"} }
	ones := []Build{
		{Target: x("6.1"), Modules: []string{"a.ko.xz", "a0.ko"}},
		{Target: arm("6.2"), Installed: true, Originals: true, Modules: []string{"a.ko"}},
		{Target: x("6.2")},
		{Target: arm("6.4"), Modules: []string{"a.ko"}},
		{Target: x("6.6"), Modules: []string{"a.ko"}},
	}
	two := []Build{{Target: x("6.1"), Installed: true, Modules: []string{"a.ko"}}}
	all := func(one, two, four []Build) []Package {
		return []Package{
			{ID: ID{"a", "1"}, Source: dir + "/src/a-1", Builds: one, Originals: true},
			{ID: ID{"a", "2"}, Source: dir + "/src/a-2", Builds: two, Originals: true},
			{ID: ID{"a", "10"}, Source: dir + "/src/a-1", Originals: true},
			{ID: ID{"b", "1"}}, {ID: ID{"b", "2"}}, {ID: ID{"b", "3"}},
			{ID: ID{"b", "4"}, Builds: four},
			{ID: ID{"b", "5"}, Source: dir + "/elsewhere/b-1"},
		}
	}
	four := []Build{{Target: x("6.1"), Modules: []string{"b.ko"}}}
	for _, c := range []struct {
		name    string
		kernels []Target
		want    []Package
	}{
		{"all", nil, all(ones, two, four)},
		{"one", []Target{x("6.1")}, all(ones[:1], two, four)},
		{"two, and some that are not there", []Target{x("6.2"), x("6.3"), x("6.5"), x("build"), x("."), arm("6.2"), x("6.2"), x("7")},
			all(ones[1:3], nil, nil)},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Tree{Dir: filepath.Join(dir, "tree"), Sources: filepath.Join(dir, "src")}.Read(c.kernels...)
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v (-want +got):\n%s", err, diff)
			}
		})
	}
	if got, err := (Tree{Dir: filepath.Join(dir, "none")}).Read(); err != nil || got != nil {
		t.Errorf("a tree that is not there: %v, %v", got, err)
	}
}

// The note that killed runs left nothing counts only in this boot, and only from runs
// that ended.
func TestHealed(t *testing.T) {
	if healedNote() == "" {
		testskip.For(t, "this machine's boots have no IDs")
	}
	tree := Tree{Dir: t.TempDir()}
	file := filepath.Join(tree.Dir, lockName)
	lock := func(want bool) *Lock {
		t.Helper()
		l, err := tree.Lock(context.Background(), func(string) { t.Error("waits") })
		if err != nil {
			t.Fatal(err)
		}
		if l.Clean != want {
			t.Errorf("clean: %v, not %v", l.Clean, want)
		}
		return l
	}
	release := func(l *Lock, clean bool) {
		l.Clean = clean
		l.Release()
	}
	release(lock(false), true)
	release(lock(true), true)
	l := lock(true) // a run that is killed
	if note, err := os.ReadFile(file); err != nil || string(note) == healedNote() {
		t.Errorf("while it runs the note says %q, %v", note, err)
	}
	l.file.Close()
	release(lock(false), false)
	release(lock(false), true)
	if err := os.WriteFile(file, []byte("healed 00000000-0000-0000-0000-000000000000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	release(lock(false), true)
	l = lock(true)
	l.Release()
	l.Release()
}
