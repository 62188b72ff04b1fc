// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/files"
)

func TestDependencies(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		kbuild     bool
		want       []rule
	}{
		{"kbuild", "savedcmd_sub/a.o := gcc -I/opt -o sub/a.o sub/a.c\n\nsource_sub/a.o := sub/a.c\n\n" +
			"deps_sub/a.o := \\\n    $(wildcard include/config/A) \\\n  /k/include/x.h \\\n  include/y.h \\\n\n" +
			"sub/a.o: $(deps_sub/a.o)\n\n$(deps_sub/a.o):\n\nsub/a.o: $(wildcard tools/objtool/objtool)\n", true,
			[]rule{{"sub/a.o", []string{"sub/a.c"}}, {"sub/a.o", []string{"/k/include/x.h", "include/y.h"}}}},
		{"kbuild, no object", "savedcmd_t.ko := ld -r -o t.ko t.o\n", true, nil},
		{"a compiler", "a.o: a.c \\\n /opt/x.h\n/opt/x.h:\n", false, []rule{{"a.o", []string{"a.c", "/opt/x.h"}}}},
		{"something else", "import std.stdio;\n", false, nil},
		{"nothing ends", "deps_a.o := $(wildcard x \\", true, nil},
	} {
		if diff := cmp.Diff(tt.want, dependencies(tt.text, tt.kbuild), cmp.AllowUnexported(rule{})); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
}

func FuzzDependencies(f *testing.F) {
	f.Add("source_a.o := a.c\ndeps_a.o := \\\n $(wildcard x) \\\n b.h\n")
	f.Add("a.o b.o: a.c \\\n b.h\n")
	f.Fuzz(func(t *testing.T, text string) {
		for _, kbuild := range []bool{true, false} {
			for _, r := range dependencies(text, kbuild) {
				if len(r.deps) == 0 || strings.Contains(strings.Join(r.deps, ""), "\n") {
					t.Errorf("%+v", r)
				}
			}
		}
	})
}

// TestUnnamed looks at what a build left in its copy of the build directory, which it
// saw at another path.
func TestUnnamed(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	build, seen := filepath.Join(dir, "copy"), filepath.Join(dir, "tree/toy/1.0/build")
	for _, file := range []string{"copy/src/a.h", "tree/toy/1.0/x", "headers/include/k.h", "headers/x.h", "other/o.h"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"build": "headers", "copy/in": "src", "copy/abs": seen + "/src", "copy/out": dir + "/other", "copy/up": "../../..", "copy/loop": "loop",
	} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	j := &job{Description: *describe(t)}
	j.Tree.Dir, j.Kernel.SourceDir, j.staging.build = filepath.Join(dir, "tree"), filepath.Join(dir, "build"), build
	j.Names = func(path string) bool { return files.Below(filepath.Join(dir, "headers/include"), path) }
	for _, tt := range []struct {
		file, target, dep, want string
	}{
		{".a.o.cmd", seen + "/a.o", "include/k.h", ""},
		{".a.o.cmd", seen + "/a.o", dir + "/build/include/k.h", ""},
		{".a.o.cmd", seen + "/a.o", "x.h", "headers/x.h"},
		{".a.o.cmd", seen + "/a.o", seen + "/in/../src/a.h", ""},
		{".a.o.cmd", "a.o", "src/a.h", ""},
		{".a.o.cmd", "a.o", "abs/a.h", ""},
		{"src/.a.o.cmd", "src/a.o", "src/a.h", ""},
		{"src/.a.o.cmd", "a.o", "a.h", ""},
		{"src/a.d", "a.o", "a.h", ""},
		{"src/a.d", "a.o", "../out/o.h", "other/o.h"},
		{".a.o.cmd", "a.o", "out/o.h", "other/o.h"},
		{".a.o.cmd", "a.o", dir + "/other/o.h", "other/o.h"},
		{".a.o.cmd", "a.o", "src/../../x", "toy/1.0/x"},
		{".a.o.cmd", "a.o", "up/../other/o.h", "other/o.h"}, // tree/toy/1.0/build/../../.. is tree
		{".a.o.cmd", "a.o", "gone.h", "nobody knows"},
		{".a.o.cmd", "a.o", "loop/x.h", "nobody knows"},
		{".a.o.cmd", "a.o", "include/k.h", "nobody knows"}, // of the kernel, if it were made there
		{"a.txt", "a.o", "src/a.h", "no depfiles"},
	} {
		text := fmt.Sprintf("source_%s := %s\n", tt.target, tt.dep)
		if strings.HasSuffix(tt.file, ".d") {
			text = fmt.Sprintf("%s: %s\n", tt.target, tt.dep)
		}
		file := filepath.Join(build, tt.file)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		err := j.unnamed(t.Context())
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s of %s in %s: %v; want %q", tt.dep, tt.target, tt.file, err, tt.want)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(build, ".a.o.cmd"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(build, ".a.o.cmd"), maxDepfile+1); err != nil {
		t.Fatal(err)
	}
	if err := j.unnamed(t.Context()); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("an enormous depfile: %v", err)
	}
}
