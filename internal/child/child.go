// SPDX-License-Identifier: GPL-2.0-or-later

// Package child runs programs so that nothing of them is left when they end,
// are cancelled, or this process dies.
package child

import (
	"context"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// Start starts cmd as the first process of a PID namespace of its own: with it
// ends everything that it started, daemons included. Where the machine denies
// such a namespace, the process gets a process group, which holds all that does
// not deliberately leave it. When this process dies, cmd is killed.
//
// The kernel sees the death of the starting thread, not of the process: a
// caller that may lose its thread before cmd has ended uses [Run].
func Start(cmd *exec.Cmd) error {
	cmd.SysProcAttr = attr(namespaces())
	return cmd.Start()
}

// Kill kills what [Start] started. The caller still has to wait for it.
func Kill(cmd *exec.Cmd) error {
	return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
}

// Run runs cmd to its end, or kills it when ctx is done and returns the cause.
// Its result is that of [exec.Cmd.Run].
func Run(ctx context.Context, cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// A process that left the group may hold our pipes open; it does not
	// keep us waiting.
	cmd.WaitDelay = time.Second
	if err := Start(cmd); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { Kill(cmd) })
	defer stop()
	err := cmd.Wait()
	if !namespaces() {
		// What the first process left behind in its group ends with it.
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

// namespaces reports whether PID namespaces can be made. Many things can deny
// them; only trying tells.
var namespaces = sync.OnceValue(func() bool {
	cmd := exec.Command("true")
	cmd.SysProcAttr = attr(true)
	return cmd.Run() == nil
})
