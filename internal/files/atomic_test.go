// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made")
	file := filepath.Join(dir, "f")
	for _, content := range []string{"a longer content", "short"} {
		if err := Write(file, strings.NewReader(content), 0o640, Options{}); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(file); string(b) != content || err != nil {
			t.Errorf("%q, %v; want %q", b, err, content)
		}
	}
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	// A link with the name of the temporary is not followed.
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), filepath.Join(dir, TempName("f"))); err != nil {
		t.Fatal(err)
	}
	if Write(file, strings.NewReader("x"), 0o644, Options{}) == nil {
		t.Error("wrote through a link")
	}
}

// Temporaries that a killed process left are written over, and removed by Clean. Those
// that a running process has are not.
func TestLeftOvers(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	for _, name := range []string{TempName("f"), TempName("gone"), "other"} {
		if err := os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte("x"), 100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := Create(file, 0o600, Options{})
	if err != nil {
		t.Fatal(err)
	}
	Clean(dir)
	if got := fmt.Sprint(names(t, dir)); got != fmt.Sprint([]string{TempName("f"), "other"}) {
		t.Errorf("%s are left", got)
	}
	if _, err := Create(file, 0o600, Options{}); err == nil {
		t.Error("two have the same temporary")
	}
	f.WriteString("new")
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(file); string(b) != "new" {
		t.Errorf("%q", b)
	}
	if f, err = Create(file, 0o600, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(names(t, dir)); got != "[f other]" {
		t.Errorf("%s are left", got)
	}
}

// A reader finds one whole content while many write.
func TestConcurrent(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f")
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			content := bytes.Repeat([]byte{byte('a' + n)}, 10000*(n+1))
			for range 20 {
				if err := Write(file, bytes.NewReader(content), 0o644, Options{}); err != nil {
					t.Error(err)
				}
				b, err := os.ReadFile(file)
				if err != nil || len(b) == 0 || len(b) != 10000*(int(b[0]-'a')+1) || len(bytes.Trim(b, string(b[:1]))) > 0 {
					t.Errorf("%d bytes, %v", len(b), err)
				}
			}
		})
	}
	wg.Wait()
	if got := names(t, filepath.Dir(file)); len(got) != 1 {
		t.Errorf("%q are left", got)
	}
}
