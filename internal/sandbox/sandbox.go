// SPDX-License-Identifier: GPL-2.0-or-later

// Package sandbox runs the commands of a build in a world of their own: they see
// the machine read-only, without network, without what is secret, and with a
// build directory of their own at whatever path they expect it; they run as a user
// who owns nothing else, and what they leave running ends with them.
//
// A world is made of namespaces, of the rights of a user, and of Landlock, each
// of which a machine may deny; what [Probe] finds is used, and the rest does
// without. The program starts itself to make a world: main calls [Main] first.
package sandbox

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
)

// World is what a command finds. All paths are absolute and free of symbolic
// links, but for what the world cannot do without.
type World struct {
	Features Features
	// User is who commands run as; nil for who we are.
	User *User
	// Network leaves the machine's network.
	Network bool
	// Hide are files and directories that seem empty; Show is what is seen of
	// them all the same. What does not exist is passed over.
	Hide, Show []string
	// Tmp is the directory that stands at /tmp and /var/tmp; "" for none.
	Tmp string
	// Over is a directory of which a command sees Keep alone, entries of it, and
	// what is Writable; "" for none. Writable are directories that it may write to
	// and where it finds them. Without [Features].Mounts they have to be there.
	Over     string
	Keep     []string
	Writable []Bind
	// Processes is how many a command may have at once, FileSize the bytes of
	// its largest file; 0 is no limit.
	Processes int
	FileSize  int64
	// Output is how many bytes a command may print; 0 is no limit.
	Output int64
	// Usage is a directory: when its file system gets full, the command whose
	// directory holds most is ended. "" is none.
	Usage string
}

// Bind shows the directory From at To.
type Bind struct{ From, To string }

// User is an unprivileged user.
type User struct{ UID, GID int }

// LookupUser returns the first of these users that exists, or else an error.
// Root is none.
func LookupUser(names ...string) (*User, error) {
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.Atoi(u.Uid)
		gid, errG := strconv.Atoi(u.Gid)
		if errU == nil && errG == nil && uid > 0 && gid > 0 {
			return &User{uid, gid}, nil
		}
	}
	return nil, fmt.Errorf("there is no unprivileged user called %s", strings.Join(names, " or "))
}

// Features are what a machine allows. The zero value is a machine that allows
// nothing of it.
type Features struct {
	Mounts   bool // mount namespaces: private and read-only directories
	PID      bool // PID namespaces
	Net      bool // network and IPC namespaces
	UserNS   bool // user namespaces
	Drop     bool // another user
	Landlock int  // version of Landlock's ABI; 0 for none
	// Missing says what is denied of what this program asked for, for a person
	// to read.
	Missing []string
}

// Probe tries what this machine allows, for commands that are to run as u where
// that is not nil.
func Probe(u *User) Features {
	probed.Lock()
	defer probed.Unlock()
	var key User
	if u != nil {
		key = *u
	}
	if f, ok := probed.features[key]; ok {
		return f
	}
	f := try(u)
	if probed.features == nil {
		probed.features = map[User]Features{}
	}
	probed.features[key] = f
	return f
}

// probed are the answers of this process.
var probed struct {
	sync.Mutex
	features map[User]Features
}

// try tries combinations, the best first: some machines allow one thing only
// together with another, or only without it.
func try(u *User) Features {
	landlock, err := ll.LandlockGetABIVersion()
	if err != nil {
		landlock = 0
	}
	root := os.Geteuid() == 0
	var why error // the combination before was denied
	for _, f := range []Features{
		{UserNS: true, Mounts: true, PID: true, Net: true, Drop: true},
		{Mounts: true, PID: true, Net: true, Drop: true},
		{UserNS: true, Mounts: true, PID: true, Net: true},
		{Mounts: true, PID: true, Net: true},
		{PID: true, Net: true, Drop: true},
		{PID: true, Drop: true},
		{UserNS: true, PID: true, Net: true},
		{Drop: true},
		{},
	} {
		if f.Drop && (u == nil || !root) || !root && !f.UserNS && f.PID {
			continue
		}
		f.Landlock = landlock
		w := World{Features: f, Hide: []string{"/root"}}
		if f.Drop {
			w.User = u
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		err := w.Run(ctx, exec.Command("bash", "-c", ":"))
		cancel()
		if err != nil {
			why = err
			continue
		}
		f.Missing = missing(f, u != nil && root, why)
		return f
	}
	return Features{Missing: []string{fmt.Sprintf("everything (%v)", why)}}
}

func missing(f Features, drop bool, why error) []string {
	var list []string
	for _, p := range []struct {
		there bool
		what  string
	}{
		{f.Mounts, "a private view of the file system"},
		{f.PID, "a PID namespace"},
		{f.Net, "a network namespace"},
		{f.Drop || !drop, "an unprivileged user"},
		{f.Landlock > 0, "Landlock"},
	} {
		if !p.there {
			list = append(list, p.what)
		}
	}
	if len(list) > 0 && why != nil {
		list[len(list)-1] += fmt.Sprintf(" (%v)", why)
	}
	return list
}

// Run runs cmd in the world to its end, or kills it with all that it started when
// ctx is done and returns the cause. What it prints, on stderr too, goes to
// cmd.Stdout; cmd.ProcessState is of the process that made the world for it. Its
// result is that of [exec.Cmd.Run]; a command that a signal ended has the exit
// status 128 and the signal's number, one that printed more than is allowed, or than
// there is room for, a [LimitError]. Where what Features promise cannot be had the
// command does not run, and the error is a [SetupError].
func (w *World) Run(ctx context.Context, cmd *exec.Cmd) error {
	if cmd.Err != nil {
		return cmd.Err
	}
	s := spec{World: *w, Path: cmd.Path, Args: cmd.Args, Dir: cmd.Dir, Env: cmd.Environ(), Files: len(cmd.ExtraFiles)}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fd, err := unix.MemfdCreate("world", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	specFile := os.NewFile(uintptr(fd), "world")
	defer specFile.Close()
	if _, err := specFile.Write(text); err != nil {
		return err
	}
	problem, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer problem.Close()
	defer report.Close()

	// A pipe, which scripts may open again as /dev/stderr, and not the file: they
	// would make it empty.
	printed, output, err := os.Pipe()
	if err != nil {
		return err
	}
	defer printed.Close()
	defer output.Close()
	if w.User != nil {
		if err := output.Chown(w.User.UID, w.User.GID); err != nil {
			return err
		}
	}

	self := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{name, strconv.Itoa(3 + len(cmd.ExtraFiles))},
		Stdin: cmd.Stdin, Stdout: output, Stderr: output,
		ExtraFiles:  append(slices.Clip(cmd.ExtraFiles), specFile, report),
		Env:         []string{"GOMAXPROCS=1", "PATH=" + os.Getenv("PATH")},
		SysProcAttr: w.attr(),
	}
	// The kernel sees the death of the starting thread, not of the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := self.Start(); err != nil {
		return err
	}
	report.Close()
	output.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { child.Kill(self) })
	defer stop()
	go w.watch(ctx, self.Process.Pid, cancel)
	var said bytes.Buffer
	var ends sync.WaitGroup
	ends.Go(func() { said.ReadFrom(problem) })
	ends.Go(func() {
		to, limit := cmp.Or[io.Writer](cmd.Stdout, io.Discard), cmp.Or(w.Output, math.MaxInt64)
		if n, err := io.Copy(to, io.LimitReader(printed, limit)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			cancel(&LimitError{What: fmt.Sprintf("what it prints cannot be kept: %v", err), Hint: "make room on the file system of the log, then run it again"})
		} else if n == limit {
			cancel(&LimitError{What: fmt.Sprintf("it printed more than %d MiB", limit>>20), Hint: "look at the end of the log"})
		}
		// It does not wait for a reader while it ends.
		io.Copy(io.Discard, printed)
	})
	err = self.Wait()
	cmd.ProcessState = self.ProcessState
	if !w.Features.PID {
		child.Kill(self) // what is left in the group of one that was killed
	}
	// What escaped all this may hold the pipes; it does not keep us waiting.
	late := time.AfterFunc(time.Second, func() {
		now := time.Now()
		problem.SetReadDeadline(now)
		printed.SetReadDeadline(now)
	})
	ends.Wait()
	late.Stop()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if said.Len() > 0 {
		return &SetupError{said.String()}
	}
	return err
}

// SetupError is why a command was not started.
type SetupError struct{ Why string }

func (e *SetupError) Error() string { return e.Why }

// attr says how the process that makes the world starts.
func (w *World) attr() *syscall.SysProcAttr {
	f := w.Features
	// A session of its own, so that no terminal is left to it, into which it could
	// type what our caller then runs; that is a process group, too.
	a := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if f.Mounts {
		a.Cloneflags |= syscall.CLONE_NEWNS
	}
	if f.PID {
		a.Cloneflags |= syscall.CLONE_NEWPID
	}
	if f.Net {
		a.Cloneflags |= syscall.CLONE_NEWIPC
		if !w.Network {
			a.Cloneflags |= syscall.CLONE_NEWNET
		}
	}
	if !f.UserNS {
		return a
	}
	a.Cloneflags |= syscall.CLONE_NEWUSER
	uid, gid := os.Geteuid(), os.Getegid()
	if uid != 0 {
		// Only root's programs have capabilities by themselves.
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
	}
	a.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
	a.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	if w.User != nil {
		a.UidMappings = append(a.UidMappings, syscall.SysProcIDMap{ContainerID: w.User.UID, HostID: w.User.UID, Size: 1})
		a.GidMappings = append(a.GidMappings, syscall.SysProcIDMap{ContainerID: w.User.GID, HostID: w.User.GID, Size: 1})
		a.GidMappingsEnableSetgroups = true
	}
	return a
}

// LimitError is why a command was ended: it used more than it may, or than there is.
type LimitError struct {
	What string // it has used
	Hint string // what to do about it
	Disk bool   // it is room on the disk
}

func (e *LimitError) Error() string { return e.What }
