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

// OwnKeyring gives this thread, and what it starts, a new session keyring. If it
// cannot, the machine has no keyrings or keeps everybody here from them.
func OwnKeyring() {
	_, _ = unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
}

// Kill kills cmd, which leads a process group, with that group. The caller still has to
// wait for cmd.
func Kill(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

// Run runs cmd as the first process of a PID namespace of its own. When it ends, so does
// everything that it started, daemons included. If the machine denies such a namespace,
// cmd only gets a process group, which a process may leave. When this process dies, cmd
// is killed. The result is that of [exec.Cmd.Run]. When ctx is done, Run kills cmd and
// returns the cause. It changes cmd.WaitDelay and cmd.SysProcAttr.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	err := run(ctx, cmd, namespaces())
	if !namespaces() && cmd.Process != nil {
		// What the process left in its group has to be killed.
		Kill(cmd)
	}
	return err
}

// RunAmong runs cmd as Run does, but among the processes of the machine, which it may
// signal. What it leaves running stays, unless ctx is done.
func RunAmong(ctx context.Context, cmd *exec.Cmd) error { return run(ctx, cmd, false) }

func run(ctx context.Context, cmd *exec.Cmd, namespace bool) error {
	// cmd is killed when the thread ends that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A process that left the group may hold the pipes of cmd open. Do not wait
	// for it.
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = attr(namespace)
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { Kill(cmd) })
	defer stop()
	err := cmd.Wait()
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
