// SPDX-License-Identifier: GPL-2.0-or-later

// Package integration tests the installed program on a real Debian root file system: real kernels and their
// headers, real kernel-install, real packages. mkroot makes and caches it; each test gets a throw-away overlay.
package integration

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/testskip"
)

// stageEnv is the environment variable with the stage of a re-executed test program, and scratchEnv that with the
// directory in which it may write.
const (
	stageEnv   = "DKMS_TEST_STAGE"
	scratchEnv = "DKMS_TEST_SCRATCH"
)

// TestMain runs the tests in new mount and PID namespaces, so that no mount and no process outlives the run, however it
// ends. There are three processes. The one that go test started owns the scratch directory. The first in the new
// namespaces reaps orphans, as init does. Its child runs the tests.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		os.Exit(m.Run()) // only tests that do not need root run
	}
	run := func() (int, error) { return m.Run(), nil }
	switch os.Getenv(stageEnv) {
	case "":
		run = outside
	case "init":
		run = initProcess
	}
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration:", err)
		code = 1
	}
	os.Exit(code)
}

// outside makes the scratch directory, runs the tests in new namespaces, and deletes the directory.
func outside() (int, error) {
	// On the cache's file system, and not in /tmp: an overlay cannot have its upper directory on another overlay
	// or a memory file system. Whatever a killed run leaves there, mkroot deletes.
	cache, err := cacheDir()
	if err != nil {
		return 0, err
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp(cache, "run.")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(scratch)
	if _, err := lockShared(scratch); err != nil {
		return 0, err
	}

	// Pdeathsig is sent when the thread that started the child ends, not the process.
	runtime.LockOSThread()
	leaveInterrupt()
	cmd := again("init", scratchEnv+"="+scratch)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	return status(cmd.Run())
}

// initProcess is process 1 of the new namespaces.
func initProcess() (int, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return 0, fmt.Errorf("mount /proc: %w", err)
	}
	// Programs in a test's root must not load modules into this machine's kernel, or restart it.
	runtime.LockOSThread()
	for _, c := range []uintptr{unix.CAP_SYS_MODULE, unix.CAP_SYS_BOOT} {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
			return 0, fmt.Errorf("drop a capability: %w", err)
		}
	}
	leaveInterrupt()
	cmd := again("tests")
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var ws unix.WaitStatus
		switch pid, err := unix.Wait4(-1, &ws, 0, nil); {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == cmd.Process.Pid && ws.Signaled():
			return 128 + int(ws.Signal()), nil
		case pid == cmd.Process.Pid:
			return ws.ExitStatus(), nil
		}
	}
}

// leaveInterrupt makes this process wait for the tests if the user interrupts: they get the signal too. It does not use
// signal.Ignore, which they would inherit.
func leaveInterrupt() { signal.Notify(make(chan os.Signal, 1), os.Interrupt) }

// again returns a command that runs this program with the same arguments, as the given stage.
func again(stage string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(append(os.Environ(), stageEnv+"="+stage), env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd
}

// status returns the exit status in err, if it is not 0.
func status(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

func cacheDir() (string, error) {
	if dir := os.Getenv("DKMS_TEST_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir() // $XDG_CACHE_HOME or ~/.cache
	return filepath.Join(dir, "dkms-kernel-install"), err
}

// lockShared keeps mkroot from deleting dir as long as this process, or one that it started, lives.
func lockShared(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return nil, err
	}
	_, err = os.Stat(dir) // mkroot may have deleted it before
	return f, err
}

// made is the result of mkroot: a directory with root/ and src/.
type made struct {
	dir  string
	skip string // why it cannot be made on this machine
	err  error
	lock *os.File
}

var (
	coreSet = sync.OnceValue(func() made { return mkroot() })
	fullSet = sync.OnceValue(func() made { return mkroot("--all") })
)

// mkroot runs the script of that name, unless DKMS_TEST_ROOT is the path that an earlier run printed.
func mkroot(args ...string) (m made) {
	if os.Getuid() != 0 {
		return made{skip: "needs root"}
	}
	m.dir = os.Getenv("DKMS_TEST_ROOT")
	if m.dir == "" {
		var stderr strings.Builder
		cmd := exec.Command("./mkroot", args...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		code, err := status(err)
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		switch {
		case err != nil:
			return made{err: err}
		case code == 77:
			return made{skip: lines[len(lines)-1]}
		case code != 0:
			return made{err: fmt.Errorf("mkroot: exit status %d\n%s", code, stderr.String())}
		}
		m.dir = strings.TrimSpace(string(out))
	}
	m.lock, m.err = lockShared(m.dir)
	return m
}

// get returns what set has, or skips the test. In CI such a skip is a failure.
func get(t testing.TB, set func() made) made {
	t.Helper()
	m := set()
	if m.err != nil {
		t.Fatal(m.err)
	}
	if m.skip != "" {
		testskip.For(t, m.skip)
	}
	return m
}
