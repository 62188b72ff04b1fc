// SPDX-License-Identifier: GPL-2.0-or-later

package place

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSame(t *testing.T) {
	old := time.Now().Add(-time.Hour)
	write := func(t *testing.T, file, content string, modified time.Time) {
		t.Helper()
		// Long enough ago for the clock of files to have moved on.
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
		{"copied by somebody else", func(t *testing.T, placed, built string) {
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
