// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// without is the program
//
//	without WHAT,WHAT... COMMAND...
//
// It runs a command, to which the kernel denies landlock, seccomp, or namespaces: user,
// mount, pid, net.
func without() {
	namespaces := map[string]uint32{"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET}
	var f filter
	flags := uint32(0)
	for what := range strings.SplitSeq(os.Args[1], ",") {
		if what == "landlock" {
			f.on(unix.SYS_LANDLOCK_CREATE_RULESET, failWith(unix.ENOSYS))
		}
		if what == "seccomp" {
			f.on(unix.SYS_SECCOMP, failWith(unix.ENOSYS))
		}
		flags |= namespaces[what]
	}
	for _, nr := range []uint32{unix.SYS_CLONE, unix.SYS_UNSHARE} {
		f.on(nr, loadWord(16), skipUnless(flags), failWith(unix.EPERM), answer(unix.SECCOMP_RET_ALLOW))
	}
	f.on(unix.SYS_CLONE3, failWith(unix.ENOSYS)) // no filter can read its flags

	runtime.LockOSThread()
	_, err := f.start(0)
	path, errPath := exec.LookPath(os.Args[2])
	if err == nil && errPath == nil {
		err = syscall.Exec(path, os.Args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "without:", err, errPath)
	os.Exit(1)
}
