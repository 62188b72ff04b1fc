// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// filter is a filter of system calls, as seccomp(2) describes it. It allows those that
// it has no instructions for.
type filter []unix.SockFilter

// on adds instructions for the system call nr. They must end with an answer.
func (f *filter) on(nr uint32, then ...unix.SockFilter) {
	*f = append(*f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: uint8(len(then)), K: nr})
	*f = append(*f, then...)
}

// loadWord loads 4 bytes of struct seccomp_data. The system call's number is at 0, and
// the low half of its first argument at 16 if the machine is little-endian.
func loadWord(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// skipUnless skips an instruction unless the loaded word has one of the bits of mask.
func skipUnless(mask uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, Jf: 1, K: mask}
}

// answer ends a filter with an action, unix.SECCOMP_RET_*.
func answer(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

// failWith has a system call fail with errno.
func failWith(errno unix.Errno) unix.SockFilter {
	return answer(unix.SECCOMP_RET_ERRNO | uint32(errno))
}

// start filters the system calls of this thread and of what it starts. flags are
// unix.SECCOMP_FILTER_FLAG_*. The listener is valid if they ask for one.
func (f filter) start(flags uintptr) (listener int, err error) {
	f = slices.Concat(filter{loadWord(0)}, f, filter{answer(unix.SECCOMP_RET_ALLOW)})
	program := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return 0, err
	}
	fd, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return 0, errno
	}
	return int(fd), nil
}
