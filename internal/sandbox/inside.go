// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
)

// name is argv[0] of the process that makes a world and waits in it.
const name = "dkms-kernel-install-build"

// spec is the world to make and the command to run in it, as that process gets them.
type spec struct {
	World
	Path      string
	Args, Env []string
	Dir       string
	Files     int // how many files the command gets besides the first three
}

// Main makes a world and runs a command in it, if [World.Run] started this process
// for that; it does not return then. Otherwise it does nothing.
func Main() {
	if len(os.Args) != 2 || os.Args[0] != name {
		return
	}
	fd, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(125)
	}
	child.CloseInherited()
	report := os.NewFile(uintptr(fd+1), "report")
	var s spec
	text, err := os.ReadFile("/proc/self/fd/" + os.Args[1])
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	status := 125
	if err == nil {
		status, err = s.run()
	}
	if err != nil {
		fmt.Fprint(report, err)
	}
	unix.Exit(status) // os.Exit would wait for a second with the race detector
}

// run makes the world and runs the command in it. This process is the first of its
// PID namespace, or else the subreaper of all that the command starts.
func (s *spec) run() (status int, err error) {
	// Only this thread gives up rights, and it starts the command.
	runtime.LockOSThread()
	unix.Umask(0o022)
	child.OwnKeyring()
	// When memory is short, the kernel is to kill builds before anything else.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if s.Features.Net {
		// No System V shared memory: it may belong to no process, and could then not
		// be counted. The limit is that of this IPC namespace only.
		_ = os.WriteFile("/proc/sys/kernel/shmmni", []byte("0"), 0)
	}
	if s.Features.Mounts {
		if err := s.mount(); err != nil {
			return 125, fmt.Errorf("cannot make a private view of the file system: %w", err)
		}
	}
	if !s.Features.PID {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return 125, err
		}
	}
	if err := s.confine(); err != nil {
		return 125, err
	}
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Sys: &syscall.SysProcAttr{}}
	for fd := range 3 + s.Files {
		attr.Files = append(attr.Files, uintptr(fd))
	}
	if s.User != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: uint32(s.User.UID), Gid: uint32(s.User.GID)}
	}
	pid, err := syscall.ForkExec(s.Path, s.Args, attr)
	if err != nil {
		return 125, fmt.Errorf("cannot start %s: %w", s.Path, err)
	}
	var state syscall.WaitStatus
	for {
		got, err := syscall.Wait4(-1, &state, 0, nil)
		if err != nil && err != syscall.EINTR {
			return 125, err
		}
		if got == pid && (state.Exited() || state.Signaled()) {
			break
		}
	}
	if s.end() {
		fmt.Fprintln(os.Stderr, "# what the command left running was ended")
	}
	if state.Signaled() {
		return 128 + int(state.Signal()), nil
	}
	return state.ExitStatus(), nil
}

// end ends all processes that the command left, and reports whether there were any
// that did not soon end by themselves.
func (s *spec) end() (any bool) {
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR || pid > 0:
			continue
		case err != nil:
			return any // there are no children
		case time.Since(start) < 100*time.Millisecond:
			continue
		}
		any = true
		if s.Features.PID {
			return any // the kernel kills them when this process ends
		}
		for _, pid := range children() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Since(start) > 5*time.Second {
			return any
		}
	}
}

// children returns the IDs of the children of this process.
func children() (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, _ := os.ReadFile(stat)
		// PID (NAME) STATE PPID …; NAME may contain anything.
		fields := strings.Fields(string(text[1+strings.LastIndexByte(string(text), ')'):]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// confine gives up what no build needs: it sets limits, and drops the rights of this
// thread and of what it starts.
func (s *spec) confine() error {
	for resource, limit := range map[int]int64{unix.RLIMIT_NPROC: int64(s.Processes), unix.RLIMIT_FSIZE: s.FileSize} {
		if limit > 0 {
			if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: uint64(limit), Max: uint64(limit)}); err != nil && !errors.Is(err, unix.EPERM) {
				return err
			}
		}
	}
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	// After this even root has no capabilities once it executes the command. An
	// ordinary user may not drop any, and has none.
	for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) == nil; c++ {
	}
	if s.Features.Landlock > 0 {
		if err := s.landlock(); err != nil {
			return fmt.Errorf("cannot use Landlock: %w", err)
		}
	}
	if s.Features.Seccomp {
		if err := s.seccomp(); err != nil {
			return fmt.Errorf("cannot filter system calls: %w", err)
		}
	}
	return nil
}

// landlock restricts this thread, and what it starts: it may read and execute
// everything, but write only to what is writable. landlock uses all that the version
// of Landlock here can do.
//
// The library would restrict all threads of the process. With cgo it looks for them
// in /proc, which may be that of another PID namespace, and hangs.
func (s *spec) landlock() error {
	const (
		file = ll.AccessFSExecute | ll.AccessFSWriteFile | ll.AccessFSReadFile
		read = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSReadDir
	)
	abi := s.Features.Landlock
	all := uint64(ll.AccessFSRefer - 1)
	for _, more := range []struct {
		abi   int
		right uint64
	}{{2, ll.AccessFSRefer}, {3, ll.AccessFSTruncate}, {5, ll.AccessFSIoctlDev}} {
		if abi >= more.abi {
			all |= more.right
		}
	}
	handled := ll.RulesetAttr{HandledAccessFS: all}
	if abi >= 4 && !s.Network {
		handled.HandledAccessNet = ll.AccessNetBindTCP | ll.AccessNetConnectTCP
	}
	if abi >= 6 {
		handled.Scoped = ll.ScopeAbstractUnixSocket | ll.ScopeSignal
	}
	ruleset, err := ll.LandlockCreateRuleset(&handled, 0)
	if err != nil {
		return err
	}
	defer unix.Close(ruleset)
	allow := func(rights uint64, paths ...string) error {
		for _, path := range paths {
			fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = ll.LandlockAddPathBeneathRule(ruleset, &ll.PathBeneathAttr{AllowedAccess: rights & all, ParentFd: fd}, 0)
				unix.Close(fd)
			}
			if err != nil {
				return &fs.PathError{Op: "allow", Path: path, Err: err}
			}
		}
		return nil
	}
	var writable []string
	for _, b := range s.Writable {
		writable = append(writable, b.To)
	}
	if s.Tmp != "" && s.Features.Mounts {
		writable = append(writable, "/tmp", "/var/tmp")
	} else if s.Tmp != "" {
		writable = append(writable, s.Tmp)
	}
	return errors.Join(
		allow(read, "/"),
		allow(file|ll.AccessFSTruncate, "/dev/null", "/dev/zero", "/dev/full"),
		allow(all&^ll.AccessFSIoctlDev, writable...),
		ll.LandlockRestrictSelf(ruleset, 0),
	)
}
