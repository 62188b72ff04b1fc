// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// without is the program
//
//	without WHAT,WHAT... COMMAND...
//
// It runs a command, to which the kernel denies landlock, or namespaces: user, mount,
// pid, net.
func without() {
	namespaces := map[string]uint32{"user": unix.CLONE_NEWUSER, "mount": unix.CLONE_NEWNS, "pid": unix.CLONE_NEWPID, "net": unix.CLONE_NEWNET}
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		has   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
		deny  = 0x50000 // SECCOMP_RET_ERRNO
		allow = 0x7fff0000
	)
	// The filter reads a struct seccomp_data: the system call's number is at 0, the
	// low half of its first argument at 16 if the machine is little-endian.
	filter := []unix.SockFilter{{Code: load, K: 0}}
	on := func(nr uint32, then ...unix.SockFilter) {
		filter = append(filter, unix.SockFilter{Code: equal, Jf: uint8(len(then)), K: nr})
		filter = append(filter, then...)
	}
	flags := uint32(0)
	for what := range strings.SplitSeq(os.Args[1], ",") {
		if what == "landlock" {
			on(unix.SYS_LANDLOCK_CREATE_RULESET, unix.SockFilter{Code: ret, K: deny | uint32(unix.ENOSYS)})
		}
		flags |= namespaces[what]
	}
	for _, nr := range []uint32{unix.SYS_CLONE, unix.SYS_UNSHARE} {
		on(nr, unix.SockFilter{Code: load, K: 16}, unix.SockFilter{Code: has, Jf: 1, K: flags},
			unix.SockFilter{Code: ret, K: deny | uint32(unix.EPERM)}, unix.SockFilter{Code: ret, K: allow})
	}
	on(unix.SYS_CLONE3, unix.SockFilter{Code: ret, K: deny | uint32(unix.ENOSYS)})
	filter = append(filter, unix.SockFilter{Code: ret, K: allow})
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	runtime.LockOSThread()
	err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	if err == nil {
		err = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
	}
	path, errPath := exec.LookPath(os.Args[2])
	if err == nil && errPath == nil {
		err = syscall.Exec(path, os.Args[2:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "without:", err, errPath)
	os.Exit(1)
}
