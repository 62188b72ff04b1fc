// SPDX-License-Identifier: GPL-2.0-or-later

package internal_test

import (
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// layers are the packages, from the ground up: each imports only packages of layers
// below its own. See docs/design.md.
var layers = [][]string{
	{"lazy"},
	{"child", "codec", "distro", "failure", "files", "jobserver", "resources", "rules", "testskip", "version"},
	{"archive", "fingerprint", "kmod", "root", "sandbox", "secureboot", "store"},
	{"conf", "initramfs"},
	{"draft", "kernel", "tree"},
	{"build", "place"},
	{"machine"},
	{"follow", "observe", "toolchain"},
	{"plan", "scripts"},
	{"check", "execute", "explain", "fsck", "reload"},
	{"packages", "report"},
	{"engine"},
}

func TestLayers(t *testing.T) {
	level := map[string]int{}
	for i, layer := range layers {
		for _, name := range layer {
			level[name] = i
		}
	}
	dirs, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		own, ok := level[d.Name()]
		if !ok {
			t.Errorf("%s is in no layer", d.Name())
		}
		sources, err := filepath.Glob(filepath.Join(d.Name(), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range slices.DeleteFunc(sources, func(file string) bool { return strings.HasSuffix(file, "_test.go") }) {
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range f.Imports {
				path, err := strconv.Unquote(i.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				if name, ok := strings.CutPrefix(path, "dkms-kernel-install/internal/"); ok && level[name] >= own {
					t.Errorf("%s imports %s, which is not below it", file, name)
				}
			}
		}
	}
}
