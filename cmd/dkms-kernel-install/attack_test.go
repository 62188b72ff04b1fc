// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attacks are what no build may do, by the name that scripts have for it. Each returns
// nil if it could be done.
var attacks = map[string]func() error{
	"read-key": func() error { return readKey("secret") },
	"find-key": func() error { return readKey("left") },
	"add-key": func() error {
		_, err := unix.AddKey("user", "left", []byte("left"), unix.KEY_SPEC_SESSION_KEYRING)
		return err
	},
	"user-namespace": func() error { return starts("true", &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWUSER}) },
	"user-clone":     func() error { return starts("true", &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER}) },
	"inotify":        func() error { _, err := unix.InotifyInit1(0); return err },
	"fanotify":       func() error { _, err := unix.FanotifyInit(unix.FAN_REPORT_FID, 0); return err },
	"shm":            func() error { return call(unix.SYS_SHMGET, unix.IPC_PRIVATE, 4096, 0o600) },
	"sem":            func() error { return call(unix.SYS_SEMGET, unix.IPC_PRIVATE, 1, 0o600) },
	"msg":            func() error { return call(unix.SYS_MSGGET, unix.IPC_PRIVATE, 0o600) },
	"pty":            func() error { _, err := unix.Open("/dev/ptmx", unix.O_RDONLY|unix.O_NOCTTY, 0); return err },
	"ptrace":         func() error { return starts("true", &syscall.SysProcAttr{Ptrace: true}) },
	"kcmp":           func() error { return call(unix.SYS_KCMP, uintptr(os.Getpid()), uintptr(os.Getpid())) },
	"userfaultfd":    func() error { return call(unix.SYS_USERFAULTFD, 1 /* UFFD_USER_MODE_ONLY */) },
	"perf": func() error {
		attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_DUMMY, Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv}
		_, err := unix.PerfEventOpen(&attr, 0, -1, -1, 0)
		return err
	},
	"io-uring":       func() error { return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(new([120]byte)))) },
	"inet-socket":    func() error { return socket(unix.AF_INET, unix.SOCK_DGRAM, nil) },
	"netlink-socket": func() error { return socket(unix.AF_NETLINK, unix.SOCK_RAW, nil) },
	"vsock":          func() error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM, nil) },
	"unix-socket":    func() error { return socket(unix.AF_UNIX, unix.SOCK_STREAM, service()) },
	"abstract-socket": func() error {
		return socket(unix.AF_UNIX, unix.SOCK_STREAM, &unix.SockaddrUnix{Name: "@" + service().Name})
	},
	"paired-socket": func() error {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
		if err == nil {
			err = unix.Connect(pair[0], &unix.SockaddrUnix{Name: service().Name + ".datagrams"})
		}
		return err
	},
	"foreign-program": func() error { return unix.ENOEXEC }, // Some architectures have one.
}

// readKey reads a key of the session keyring.
func readKey(name string) error {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", name, 0)
	if err == nil {
		_, err = unix.KeyctlBuffer(unix.KEYCTL_READ, id, make([]byte, 100), 0)
	}
	return err
}

// starts starts a program with attr, and ends it.
func starts(program string, attr *syscall.SysProcAttr) error {
	cmd := exec.Command(program)
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		return err
	}
	cmd.Process.Kill()
	cmd.Wait()
	return nil
}

// call makes a system call.
func call(nr uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0)
	if _, _, errno := unix.Syscall6(nr, args[0], args[1], args[2], 0, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// socket makes a socket and connects it to a service, if that is not nil.
func socket(family, kind int, to unix.Sockaddr) error {
	fd, err := unix.Socket(family, kind, 0)
	if err == nil && to != nil {
		err = unix.Connect(fd, to)
	}
	return err
}

// service is the address of what cmdListen listens on.
func service() *unix.SockaddrUnix {
	return &unix.SockaddrUnix{Name: filepath.Join(os.Getenv("TESTROOT"), "open/service")}
}

// attack is the program
//
//	attack NAME...
//
// It tries these attacks, or all if there is no name, and prints those that succeed.
// It fails if none does.
func attack() {
	runtime.LockOSThread() // for those that are about a thread
	names := os.Args[1:]
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(attacks))
	}
	status := 1
	for _, name := range names {
		if err := attacks[name](); err != nil {
			fmt.Fprintf(os.Stderr, "attack %s: %v\n", name, err)
			continue
		}
		fmt.Println(name)
		status = 0
	}
	unix.Exit(status)
}

// hold is the program
//
//	hold memory|disk mapped|sent MIB
//
// It holds so much in files that are in no directory and that no process has open: they
// are mapped, or in flight between two sockets. It runs until it is ended.
func hold() {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			unix.Exit(1)
		}
	}
	mib, err := strconv.Atoi(os.Args[3])
	must(err)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	must(err)
	const each = 4 // MiB of a file: more is never seen, even while it is written
	for full := false; mib > 0 && !full; mib -= each {
		var fd int
		if os.Args[1] == "memory" {
			fd, err = unix.MemfdCreate("held", 0)
		} else {
			fd, err = unix.Open("held", unix.O_RDWR|unix.O_CREAT, 0o600)
			must(os.Remove("held"))
		}
		must(err)
		for range each {
			_, err = unix.Write(fd, bytes.Repeat([]byte("x"), 1<<20))
			full = full || err == unix.ENOSPC
		}
		if os.Args[2] == "mapped" {
			_, err = unix.Mmap(fd, 0, each<<20, unix.PROT_READ, unix.MAP_SHARED)
		} else {
			err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0)
		}
		must(err)
		unix.Close(fd)
	}
	must(os.WriteFile(filepath.Join(os.Getenv("TESTROOT"), "open/held"), nil, 0o666))
	time.Sleep(time.Hour)
}

// withKey is the program
//
//	withkey COMMAND...
//
// It runs a command in a new session keyring that has a key called secret.
func withKey() {
	runtime.LockOSThread()
	_, err := unix.KeyctlInt(unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0, 0, 0)
	if err == nil {
		_, err = unix.AddKey("user", "secret", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING)
	}
	path, errPath := exec.LookPath(os.Args[1])
	if err == nil && errPath == nil {
		err = syscall.Exec(path, os.Args[1:], os.Environ())
	}
	fmt.Fprintln(os.Stderr, "withkey:", err, errPath)
	os.Exit(1)
}
