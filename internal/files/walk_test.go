// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// nest makes n nested directories in dir, with a file in the innermost.
func nest(t *testing.T, dir string, n int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range n {
		if err != nil {
			break
		}
		up := fd
		if err = unix.Mkdirat(up, "a", 0o755); err == nil {
			fd, err = unix.Openat(up, "a", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			unix.Close(up)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	file, err := unix.Openat(fd, "file", unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(file)
}

func TestWalk(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"one/two", "three"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"one/file", "one/two/file"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("..", filepath.Join(dir, "one/two/link")); err != nil {
		t.Fatal(err)
	}
	var got []string
	visit := func(at int, name string, st *unix.Stat_t) error {
		kind := map[uint32]string{unix.S_IFDIR: "/", unix.S_IFLNK: "@"}[st.Mode&unix.S_IFMT]
		got = append(got, name+kind)
		return nil
	}
	if err := Walk(t.Context(), dir, visit); err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	if want := []string{"file", "file", "link@", "one/", "three/", "two/"}; !slices.Equal(got, want) {
		t.Errorf("Walk visits %v, want %v", got, want)
	}

	boom := errors.New("boom")
	if err := Walk(t.Context(), dir, func(int, string, *unix.Stat_t) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("Walk = %v, want the error of visit", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(boom)
	if err := Walk(ctx, dir, visit); !errors.Is(err, boom) {
		t.Errorf("Walk = %v, want the cause", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	if err := Walk(t.Context(), link, visit); err == nil {
		t.Error("Walk goes through a link")
	}
}

func TestDeep(t *testing.T) {
	visit := func(int, string, *unix.Stat_t) error { return nil }
	dir := t.TempDir()
	nest(t, dir, Depth)
	if err := Walk(t.Context(), dir, visit); err != nil {
		t.Errorf("Walk of %d levels = %v", Depth, err)
	}
	deeper := t.TempDir()
	nest(t, deeper, Depth+1)
	if err := Walk(t.Context(), deeper, visit); !errors.Is(err, ErrDeep) {
		t.Errorf("Walk of %d levels = %v, want %v", Depth+1, err, ErrDeep)
	}
}

func TestRemoveAll(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
	dir := filepath.Join(t.TempDir(), "deep")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	nest(t, dir, 3000)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir); err == nil {
		t.Fatal("os.RemoveAll holds no directory open any more: this function is not needed")
	}
	if err := RemoveAll(dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after RemoveAll: %v", err)
	}
	if err := RemoveAll(dir); err != nil {
		t.Errorf("RemoveAll of nothing = %v", err)
	}
}
