// SPDX-License-Identifier: GPL-2.0-or-later

package child

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// locked reports whether a process holds a lock on file. The children of these tests
// take one with flock(1), which ends with the last of them.
func locked(t *testing.T, file string) bool {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("after 5 s: not %s", what)
}

func TestRunLeavesNothing(t *testing.T) {
	for name, script := range map[string]string{
		"background": `(exec 9>"$1"; flock 9; exec sleep 1000) & while flock -n "$1" true; do :; done`,
		"daemon":     `setsid sh -c 'exec 9>"$1"; flock 9; exec sleep 1000' sh "$1" & while flock -n "$1" true; do :; done`,
	} {
		t.Run(name, func(t *testing.T) {
			if name == "daemon" && !namespaces() {
				t.Log("no PID namespaces here: a daemon may stay")
				return
			}
			lock := filepath.Join(t.TempDir(), "lock")
			if err := Run(t.Context(), exec.Command("sh", "-c", script, "sh", lock)); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "gone", func() bool { return !locked(t, lock) })
		})
	}
}

func TestRunAmong(t *testing.T) {
	dir := t.TempDir()
	lock, out := filepath.Join(dir, "lock"), filepath.Join(dir, "out")
	const script = `kill -0 "$1" || exit
(exec 9>"$2"; flock 9; exec sleep 1000) &
while flock -n "$2" true; do :; done
echo $! >"$3"`
	if err := RunAmong(t.Context(), exec.Command("sh", "-c", script, "sh", strconv.Itoa(os.Getpid()), lock, out)); err != nil {
		t.Fatalf("RunAmong = %v", err)
	}
	if !locked(t, lock) {
		t.Error("what it left running is gone")
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestRunCancelled(t *testing.T) {
	lock := filepath.Join(t.TempDir(), "lock")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	go func() {
		for !locked(t, lock) {
			time.Sleep(time.Millisecond)
		}
		cancel(cause)
	}()
	err := Run(ctx, exec.Command("sh", "-c", `trap '' INT TERM; exec 9>"$1"; flock 9; sleep 1000; sleep 1000`, "sh", lock))
	if !errors.Is(err, cause) {
		t.Errorf("Run = %v, want %v", err, cause)
	}
	waitFor(t, "gone", func() bool { return !locked(t, lock) })
}

func TestRunStatus(t *testing.T) {
	var exit *exec.ExitError
	if err := Run(t.Context(), exec.Command("sh", "-c", "exit 7")); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("Run = %v, want exit status 7", err)
	}
	if err := Run(t.Context(), exec.Command("/nonexistent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Run = %v, want not found", err)
	}
}
