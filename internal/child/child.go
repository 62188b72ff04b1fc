// SPDX-License-Identifier: GPL-2.0-or-later

// Package child runs programs so that nothing of them is left when they end, when
// they are cancelled, or when this process dies.
package child

import (
	"context"
	"math"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CloseInherited sees to it that the programs which this process starts get nothing
// of what it has open itself, such as its caller's files and locks. They still get
// standard input, output and error, and what an [exec.Cmd] says.
func CloseInherited() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Linux can do that since version 5.11.
	open, _ := os.ReadDir("/proc/self/fd")
	for _, file := range open {
		if fd, err := strconv.Atoi(file.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// Start starts cmd as the first process of a PID namespace of its own. When it ends,
// so does everything that it started, daemons included. If the machine denies such a
// namespace, cmd only gets a process group, which a process may leave. When this
// process dies, cmd is killed. cmd has a session keyring of its own.
func Start(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		// What changes the thread is never undone: it ends with this goroutine.
		runtime.LockOSThread()
		OwnKeyring()
		err := start(cmd)
		started <- err
		for err == nil && unix.Waitid(unix.P_PID, cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
		}
	}()
	return <-started
}

// OwnKeyring gives this thread, and what it starts, a new session keyring. If it
// cannot, the machine has no keyrings or keeps everybody here from them.
func OwnKeyring() {
	_, _ = unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
}

// start starts cmd. The kernel looks at the thread that does so, not at its process:
// cmd is killed when that thread ends.
func start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = attr(namespaces())
	return cmd.Start()
}

// Kill kills cmd, which [Start] started, with its process group. The caller still has
// to wait for cmd.
func Kill(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

// Run starts cmd as [Start] does, though with our session keyring, and runs it to its
// end. Its result is that of [exec.Cmd.Run]. When ctx is done, it kills cmd and returns
// the cause. It changes cmd.WaitDelay and cmd.SysProcAttr.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A process that left the group may hold the pipes of cmd open. Do not wait
	// for it.
	cmd.WaitDelay = time.Second
	if err := start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { Kill(cmd) })
	defer stop()
	err := cmd.Wait()
	if !namespaces() {
		// What the process left in its group has to be killed.
		Kill(cmd)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func attr(namespace bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if namespace {
		a.Cloneflags = syscall.CLONE_NEWPID
	}
	return a
}

// namespaces reports whether PID namespaces can be made. Many things can deny them, so
// it tries.
var namespaces = sync.OnceValue(func() bool {
	cmd := exec.Command("true")
	cmd.SysProcAttr = attr(true)
	return cmd.Run() == nil
})
