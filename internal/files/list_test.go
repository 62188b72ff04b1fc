// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReadFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if _, err := ReadFile(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of none = %v", err)
	}
	for _, size := range []int{0, 1, 2048, 100000} {
		want := strings.Repeat("x", size)
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := ReadFile(file); err != nil || string(got) != want {
			t.Errorf("ReadFile of %d bytes = %d, %v", size, len(got), err)
		}
	}
	if _, err := ReadFile(filepath.Dir(file)); err == nil {
		t.Error("ReadFile reads a directory")
	}
}
