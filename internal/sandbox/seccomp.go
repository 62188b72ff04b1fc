// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"runtime"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// abi is what a filter of system calls has to know of an architecture.
type abi struct {
	arch       uint32 // unix.AUDIT_ARCH_*
	bigEndian  bool
	cloneFlags int    // which argument of clone(2) has its flags
	foreign    uint32 // the first number of another ABI; 0 means that there is none
}

// abis are the architectures that there is a filter for, by GOARCH. Calls that only
// some of them have are in only and socketcall.
var abis = map[string]abi{
	"amd64":   {arch: unix.AUDIT_ARCH_X86_64, foreign: 1 << 30}, // x32
	"arm64":   {arch: unix.AUDIT_ARCH_AARCH64},
	"ppc64le": {arch: unix.AUDIT_ARCH_PPC64LE},
	"riscv64": {arch: unix.AUDIT_ARCH_RISCV64},
	"s390x":   {arch: unix.AUDIT_ARCH_S390X, bigEndian: true, cloneFlags: 1},
}

// denied are system calls that fail with EPERM: no build needs them, and each reaches
// what other processes share with it, or much of the kernel.
var denied = []uint32{
	// Keys.
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	// Mounts and namespaces.
	unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
	unix.SYS_OPEN_TREE_ATTR, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	// Other processes.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_KCMP, unix.SYS_PIDFD_GETFD,
	// System V IPC, which outlives its processes.
	unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL, unix.SYS_SEMGET, unix.SYS_SEMCTL,
	unix.SYS_MSGGET, unix.SYS_MSGSND, unix.SYS_MSGRCV, unix.SYS_MSGCTL,
	// Instances are few, and in part counted as root's.
	unix.SYS_INOTIFY_INIT1, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
	// Where flaws of the kernel were.
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
}

var (
	allow = bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW}
	deny  = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	// For what no library falls back from. The log says "Bad system call".
	kill = bpf.RetConstant{Val: unix.SECCOMP_RET_KILL_PROCESS}
	// So that the C library uses clone(2), whose flags a filter can see.
	unknown = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)}
)

// newNamespaces are the flags of clone(2) for new namespaces.
const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// filter is a program that decides about a system call. It has struct seccomp_data: see
// seccomp(2). Instructions that none of the others jump over find the number of the
// system call loaded.
type filter []bpf.Instruction

// on adds instructions for the system call nr, which have to end with a decision.
func (f *filter) on(nr uint32, then ...bpf.Instruction) {
	*f = append(*f, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: nr, SkipTrue: uint8(len(then))})
	*f = append(*f, then...)
}

// arg loads the lower half of an argument.
func (a abi) arg(i int) bpf.Instruction {
	offset := uint32(16 + 8*i)
	if a.bigEndian {
		offset += 4
	}
	return bpf.LoadAbsolute{Off: offset, Size: 4}
}

// oneOf allows a call if what load leaves loaded is one of values, and else denies it.
func oneOf(load bpf.Instruction, values ...uint32) []bpf.Instruction {
	then := []bpf.Instruction{load}
	for _, value := range values {
		then = append(then, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: value, SkipTrue: 1}, allow)
	}
	return append(then, deny)
}

// without denies a call if what load leaves loaded has one of flags, and else allows it.
func without(load bpf.Instruction, flags uint32) []bpf.Instruction {
	return []bpf.Instruction{load, bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: flags, SkipFalse: 1}, deny, allow}
}

// filter returns the filter for a world.
func (a abi) filter(network bool) filter {
	f := filter{
		bpf.LoadAbsolute{Off: 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.arch, SkipTrue: 1}, kill,
		bpf.LoadAbsolute{Off: 0, Size: 4},
	}
	if a.foreign != 0 {
		f = append(f, bpf.JumpIf{Cond: bpf.JumpLessThan, Val: a.foreign, SkipTrue: 1}, kill)
	}
	for _, nr := range slices.Concat(denied, only) {
		f.on(nr, deny)
	}
	f.on(unix.SYS_CLONE3, unknown)
	f.on(unix.SYS_CLONE, without(a.arg(a.cloneFlags), newNamespaces)...)
	f.on(unix.SYS_UNSHARE, without(a.arg(0), newNamespaces|unix.CLONE_NEWTIME)...)
	return append(f.sockets(a, network), allow)
}

// sockets returns f with what it says of sockets. Without the network there are none
// but pairs: by its path, a Unix socket reaches any service of the machine.
func (f filter) sockets(a abi, network bool) filter {
	if network {
		f.on(unix.SYS_SOCKET, oneOf(a.arg(0), unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK)...)
		f.on(unix.SYS_SOCKETPAIR, oneOf(a.arg(0), unix.AF_UNIX)...)
		return f
	}
	f.on(unix.SYS_SOCKET, deny)
	// One of a pair of datagram sockets could send to others.
	pair := filter{a.arg(0), bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.AF_UNIX, SkipTrue: 1}, deny, a.arg(1)}
	kind := bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: ^uint32(unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK)}
	f.on(unix.SYS_SOCKETPAIR, append(pair, oneOf(kind, unix.SOCK_STREAM, unix.SOCK_SEQPACKET)...)...)
	for _, nr := range socketcall {
		// A filter cannot see the arguments of the call, only which one it is. 1 is
		// socket(2).
		f.on(nr, a.arg(0), bpf.JumpIf{Cond: bpf.JumpEqual, Val: 1, SkipFalse: 1}, deny, allow)
	}
	return f
}

// seccomp filters the system calls of this thread and of what it starts.
func (s *spec) seccomp() error {
	raw, err := bpf.Assemble(abis[runtime.GOARCH].filter(s.Network))
	if err != nil {
		return err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	if errno := setFilter(&unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}); errno != 0 {
		return errno
	}
	return nil
}

// setFilter has program decide about the system calls of this thread. The flag is
// against what some versions of Linux do unasked: they make filtered programs slower,
// so that one part of a program cannot guess what another part of it holds.
func setFilter(program *unix.SockFprog) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW, uintptr(unsafe.Pointer(program)))
	return errno
}

// canFilter reports whether this machine can filter system calls.
func canFilter() bool {
	_, ok := abis[runtime.GOARCH]
	return ok && setFilter(nil) == unix.EFAULT // see seccomp(2)
}
