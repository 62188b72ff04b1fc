// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// changes are the system calls that may need room on a disk.
var changes = []uint32{
	unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_COPY_FILE_RANGE, unix.SYS_SENDFILE, unix.SYS_SPLICE,
	unix.SYS_OPENAT, unix.SYS_MKDIRAT, unix.SYS_RENAMEAT2, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_FSYNC,
}

// full is the program
//
//	full N COMMAND...
//
// It runs a command, whose changes, and those of what it starts, fail from the Nth on as
// if the disk were full. Changes are writes to files on the file system of $TESTROOT, and
// new files, directories, links and names anywhere, but not removals. It writes the
// number of changes that were tried to $TESTROOT/full.count.
func full() {
	from, _ := strconv.Atoi(os.Args[1])
	count, err := watch(os.Args[2:], os.Getenv("TESTROOT"), changes, func(n int) (errno unix.Errno) {
		if n >= from {
			errno = unix.ENOSPC
		}
		return errno
	})
	if errWrite := os.WriteFile(filepath.Join(os.Getenv("TESTROOT"), "full.count"), []byte(strconv.Itoa(count)), 0o644); errWrite != nil {
		err = errWrite
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "full:", err)
		os.Exit(125)
	}
}

// The kernel's struct seccomp_notif and seccomp_notif_resp: see seccomp_unotify(2).
type (
	notification struct {
		id                 uint64
		pid, flags         uint32
		nr                 int32
		arch               uint32
		instructionPointer uint64
		args               [6]uint64
	}
	response struct {
		id    uint64
		value int64
		error int32
		flags uint32
	}
)

// watch runs a command, and calls each with the number of each change, from 1, before that
// is made. Changes are those of calls that count for the file system of the directory
// work. If each returns an error, the change fails with it. Watch returns the number of
// changes.
func watch(command []string, work string, calls []uint32, each func(n int) unix.Errno) (int, error) {
	var count atomic.Int64
	var disk unix.Stat_t
	if err := unix.Stat(work, &disk); err != nil {
		return 0, err
	}
	// One thread, and what it starts, is filtered. Another goroutine answers.
	listeners, ended := make(chan int), make(chan error, 1)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		var f filter
		for _, nr := range calls {
			f.on(nr, answer(unix.SECCOMP_RET_USER_NOTIF))
		}
		fd, err := f.start(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
		if err == nil {
			listeners <- fd
			err = cmd.Run()
		} else {
			close(listeners)
		}
		ended <- err
	}()
	listener, ok := <-listeners
	if !ok {
		return 0, <-ended
	}
	go func() {
		for {
			poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
			if n, err := unix.Poll(poll, 1000); err == unix.EINTR || err == nil && n == 0 {
				continue
			} else if err != nil || poll[0].Revents&unix.POLLIN == 0 {
				return // no filtered process is left
			}
			var n notification
			if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_RECV, uintptr(unsafe.Pointer(&n))); e != 0 {
				continue
			}
			r := response{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
			if n.changes(disk.Dev) {
				if errno := each(int(count.Add(1))); errno != 0 {
					r.error, r.flags = -int32(errno), 0
				}
			}
			unix.Syscall(unix.SYS_IOCTL, uintptr(listener), unix.SECCOMP_IOCTL_NOTIF_SEND, uintptr(unsafe.Pointer(&r)))
		}
	}()
	err := <-ended
	unix.Close(listener)
	return int(count.Load()), err
}

// changes reports whether the system call that n is for counts as a change of the file
// system with that device number.
func (n *notification) changes(disk uint64) bool {
	fd := uint64(0)
	switch n.nr {
	case unix.SYS_OPENAT:
		return n.args[2]&unix.O_CREAT != 0
	case unix.SYS_COPY_FILE_RANGE, unix.SYS_SPLICE:
		fd = n.args[2]
	case unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_WRITEV, unix.SYS_SENDFILE, unix.SYS_FSYNC:
		fd = n.args[0]
	default:
		return true
	}
	var st unix.Stat_t
	err := unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", n.pid, int32(fd)), &st)
	return err == nil && st.Dev == disk && st.Mode&unix.S_IFMT != unix.S_IFIFO && st.Mode&unix.S_IFMT != unix.S_IFCHR
}

// cmdFilling is
//
//	filling N COMMAND...
//
// It runs a command, which must succeed. Then, N times, it restores the machine and runs
// the command with a disk that gets full at a random change; with DKMS_TEST_ALL, once for
// each change. After that, what status calls installed must be there and whole, and the
// next run, with room, must leave the machine as the first did.
func cmdFilling(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[0])
	}
	if neg || n == 0 {
		ts.Fatalf("usage: filling n command...")
	}
	if testing.Short() {
		n = 1
	}
	command := args[1:]
	work := ts.Getenv("WORK")
	ts.Check(ts.Exec("env"))
	env := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	run := func(args ...string) (string, error) {
		cmd := exec.Command("bash", append([]string{"-c", `exec "$@"`, "bash"}, args...)...)
		cmd.Dir, cmd.Env = work, env
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	saved := work + ".saved"
	ts.Check(os.RemoveAll(saved))
	defer os.RemoveAll(saved)
	copyMachine(ts, work, saved)
	if out, err := run(append([]string{"full", "1000000"}, command...)...); err != nil {
		ts.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(filepath.Join(work, "full.count"))
	ts.Check(err)
	total, err := strconv.Atoi(string(text))
	ts.Check(err)
	if total < 5 {
		ts.Fatalf("only %d changes", total)
	}
	want := state(ts, work)
	good := modules(want)
	moments := rand.Perm(total)
	if os.Getenv("DKMS_TEST_ALL") == "" {
		moments = moments[:min(n, total)]
	}
	for _, n := range moments {
		n++
		copyMachine(ts, saved, work)
		before := modules(state(ts, work))
		out, _ := run(append([]string{"full", strconv.Itoa(n)}, command...)...)
		fail := func(format string, args ...any) {
			ts.Fatalf("full at change %d of %d: %s\n%s", n, total, fmt.Sprintf(format, args...), out)
		}
		if strings.Contains(out, "panic:") {
			fail("panic")
		}
		// Each module must be the old or the new one.
		got := modules(state(ts, work))
		for file, sum := range got {
			if sum != good[file] && sum != before[file] {
				fail("%s is %q, was %q, and has to be %q", file, sum, before[file], good[file])
			}
		}
		status, err := run("dkms", "status")
		if err != nil {
			fail("dkms status: %v\n%s", err, status)
		}
		for line := range strings.Lines(status) {
			what, is, _ := strings.Cut(strings.TrimSpace(line), ": ")
			fields := strings.Split(what, ", ")
			if is != "installed" || len(fields) != 3 {
				continue
			}
			name, _, _ := strings.Cut(fields[0], "/")
			if !slices.ContainsFunc(slices.Collect(maps.Keys(got)), func(file string) bool {
				return strings.HasPrefix(file, "lib/modules/"+fields[1]+"/") && strings.HasPrefix(filepath.Base(file), name+".ko")
			}) {
				fail("status lies: %s", line)
			}
		}
		again, err := run(command...)
		var exit *exec.ExitError
		if errors.As(err, &exit) && (exit.ExitCode() == 3 || exit.ExitCode() == 5) {
			err = nil // already added, built, installed, or gone
		}
		if err != nil {
			fail("and then, with room: %v\n%s", err, again)
		}
		// The note that depmod is due may stay, if the next run does not concern
		// that kernel, or may have found no room. The message said what to do: do it.
		is := state(ts, work)
		for _, m := range depmodAdvice.FindAllStringSubmatch(out, -1) {
			if out, err := run("depmod", "-a", m[1]); err != nil {
				fail("depmod: %v\n%s", err, out)
			}
			is = state(ts, work)
			delete(is, "var/lib/dkms/.unsettled-"+m[1]+"-"+ts.Getenv("ARCH"))
		}
		if diff := cmp.Diff(want, is); diff != "" {
			fail("the next run leaves (+):\n%s", diff)
		}
	}
	ts.Logf("%d changes", total)
}

var depmodAdvice = regexp.MustCompile(`(?m)do:  run: depmod -a (\S+)$`)

// modules returns the part of state that is about modules in /lib/modules.
func modules(state map[string]string) map[string]string {
	list := map[string]string{}
	for file, is := range state {
		if strings.HasPrefix(file, "lib/modules/") && strings.Contains(filepath.Base(file), ".ko") && !strings.HasPrefix(filepath.Base(file), ".") {
			list[file] = is
		}
	}
	return list
}
