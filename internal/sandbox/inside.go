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
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// name is what the process is called that makes a world and waits in it.
const name = "dkms-kernel-install-build"

// spec is what it is told: the world, and the command.
type spec struct {
	World
	Path      string
	Args, Env []string
	Dir       string
	Files     int // how many files beside the first three the command gets
}

// Main does the work inside of a new world, and does not return, where this
// process was started for that. Elsewhere it does nothing.
func Main() {
	if len(os.Args) != 2 || os.Args[0] != name {
		return
	}
	fd, err := strconv.Atoi(os.Args[1])
	if err != nil {
		os.Exit(125)
	}
	unix.CloseOnExec(fd)
	unix.CloseOnExec(fd + 1)
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

// run makes the world and runs the command in it; this process is the first of
// its PID namespace, or else the one that inherits what loses its parent.
func (s *spec) run() (status int, err error) {
	// What is given up here, one thread gives up, which starts the command.
	runtime.LockOSThread()
	unix.Umask(0o022)
	// When memory is short the kernel ends builds before anything else.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)
	if s.Features.Net {
		// Nobody could tell whose shared memory it is that no process has. It is
		// of this namespace alone.
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
// that did not end by themselves.
func (s *spec) end() (any bool) {
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case err == syscall.EINTR || pid > 0:
			continue
		case err != nil:
			return any // there are none
		case time.Since(start) < 100*time.Millisecond:
			continue
		}
		any = true
		if s.Features.PID {
			return any // the kernel ends them with us
		}
		for _, pid := range children() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Since(start) > 5*time.Second {
			return any
		}
	}
}

// children returns the processes whose parent we are.
func children() (pids []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, stat := range stats {
		text, _ := os.ReadFile(stat)
		// PID (NAME) STATE PPID …, where NAME may hold anything.
		fields := strings.Fields(string(text[1+strings.LastIndexByte(string(text), ')'):]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(stat)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// confine gives up, for the command, what no build needs.
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
	// A root that stays root has no capabilities after exec. An ordinary user
	// has none that could go.
	for c := uintptr(0); unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0) == nil; c++ {
	}
	if s.Features.Landlock == 0 {
		return nil
	}
	if err := s.landlock(); err != nil {
		return fmt.Errorf("cannot use Landlock: %w", err)
	}
	return nil
}

// landlock lets this thread, and what it starts, read and execute everything, and
// write to what is writable alone. It asks for as much as the version here knows.
//
// The library's way is for all threads of a process. Where it goes through C it
// looks for them in a /proc that may be another PID namespace's, and hangs.
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

// mount makes the file system what the command is to see of it. The order counts:
// what is shown is opened before what hides it is mounted.
func (s *spec) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("/ is no mount point of its own: %w", err)
	}
	var opened []bind
	defer func() {
		for _, b := range opened {
			unix.Close(b.fd)
		}
	}()
	// What is not needed is passed over where nobody finds it anyway.
	open := func(needed bool, binds ...Bind) ([]bind, error) {
		first := len(opened)
		for _, b := range binds {
			o, err := open(b.From, b.To)
			if !needed && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)) {
				continue
			}
			if err != nil {
				return nil, err
			}
			opened = append(opened, o)
		}
		return opened[first:], nil
	}
	var tmp, show, keep []Bind
	links := map[string]string{}
	for _, dir := range []string{"/tmp", "/var/tmp"} {
		if fi, err := os.Lstat(dir); s.Tmp != "" && err == nil && fi.IsDir() {
			tmp = append(tmp, Bind{s.Tmp, dir})
		}
	}
	for _, path := range s.Show {
		if slices.ContainsFunc(append([]string{"/tmp", "/var/tmp"}, s.Hide...), func(dir string) bool { return strings.HasPrefix(path, dir+"/") }) {
			show = append(show, Bind{path, path})
		}
	}
	for _, entry := range s.Keep {
		path := filepath.Join(s.Over, entry)
		if to, err := os.Readlink(path); err == nil {
			links[path] = to
		} else {
			keep = append(keep, Bind{path, path})
		}
	}
	temporary, err := open(true, tmp...)
	if err != nil {
		return err
	}
	shown, err := open(false, show...)
	if err != nil {
		return err
	}
	kept, err := open(false, keep...)
	if err != nil {
		return err
	}
	writable, err := open(true, s.Writable...)
	if err != nil {
		return err
	}
	for _, path := range s.Hide {
		if err := hide(path); err != nil {
			return err
		}
	}
	for _, b := range slices.Concat(temporary, shown) {
		if err := b.mount(); err != nil {
			return err
		}
	}
	// Once more: a file to hide may be in what is shown.
	for _, path := range s.Hide {
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			if err := hide(path); err != nil {
				return err
			}
		}
	}
	if s.Over != "" {
		if err := cover(s.Over); err != nil {
			return err
		}
		for path, to := range links {
			if err := os.Symlink(to, path); err != nil {
				return err
			}
		}
	}
	for _, b := range slices.Concat(kept, writable) {
		if err := b.mount(); err != nil {
			return err
		}
	}
	if s.Features.PID {
		// Where it cannot be mounted, as in some containers, the old one shows
		// processes that are out of reach.
		_ = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NODEV, "")
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}); err != nil {
		return fmt.Errorf("cannot make it read-only: %w", err)
	}
	for _, b := range append(tmp, s.Writable...) {
		if err := unix.MountSetattr(unix.AT_FDCWD, b.To, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY, Attr_set: unix.MOUNT_ATTR_NODEV}); err != nil {
			return fmt.Errorf("cannot make %s writable: %w", b.To, err)
		}
	}
	return nil
}

// bind is something that is open, to be seen at a path.
type bind struct {
	fd  int
	to  string
	dir bool
}

func open(from, to string) (bind, error) {
	fd, err := unix.Open(from, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return bind{}, &fs.PathError{Op: "open", Path: from, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return bind{}, &fs.PathError{Op: "stat", Path: from, Err: err}
	}
	return bind{fd, to, st.Mode&unix.S_IFMT == unix.S_IFDIR}, nil
}

// mount shows what is open; where its place does not exist, that is made: it is
// in something that hides.
func (b bind) mount() error {
	if _, err := os.Stat(b.to); errors.Is(err, fs.ErrNotExist) {
		if b.dir {
			err = os.MkdirAll(b.to, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(b.to), 0o755); err == nil {
			err = os.WriteFile(b.to, nil, 0o644)
		}
		if err != nil {
			return err
		}
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", b.fd), b.to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return &fs.PathError{Op: "mount", Path: b.to, Err: err}
	}
	return nil
}

// hide makes a directory or file seem empty.
func hide(path string) error {
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.IsDir() {
		return cover(path)
	}
	if err := unix.Mount("/dev/null", path, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "hide", Path: path, Err: err}
	}
	return nil
}

// cover puts an empty directory over one.
func cover(dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return &fs.PathError{Op: "hide", Path: dir, Err: err}
	}
	return nil
}
