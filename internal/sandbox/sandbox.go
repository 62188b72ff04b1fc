// SPDX-License-Identifier: GPL-2.0-or-later

// Package sandbox runs the commands of a build in a world of their own. They see the
// machine read-only, without its network and its secrets, and have a build directory
// at whatever path they expect it. They run as a user who owns nothing else, and what
// they leave running ends with them.
//
// A world is made of namespaces, of a user without rights, of Landlock, and of a filter
// of system calls. A machine may deny any of them: [Probe] finds out, and a world is made
// of what is left. The program starts itself to make a world, so its main calls [Main]
// first.
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
	"path/filepath"
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

// World is what a command finds. All paths are absolute. Symbolic links in them are
// followed, but Show is compared with Hide by name.
type World struct {
	Features Features
	// User is the user that commands run as; nil means that of this process.
	User *User
	// Network reports whether commands may use the machine's network.
	Network bool
	// Release is the kernel that uname and /proc name, "" that which runs. Without
	// [Features].Mounts, or if /run is not in Hide, they name that anyway.
	Release string
	// Hide are files and directories that seem empty. Show are those below them, or
	// below /tmp and /var/tmp, that are seen all the same, as is where links in Show
	// lead. What does not exist is ignored.
	Hide, Show []string
	// Tmp is the directory that is seen at /tmp and /var/tmp; "" means none.
	Tmp string
	// Over is a directory of which a command sees only Keep, which are names in it,
	// and what is Writable. "" means none.
	Over string
	Keep []string
	// Layers are directories of which what is in From is seen in To, too, if To exists and
	// overlays can be mounted. From takes precedence.
	Layers []Bind
	// Writable are directories that a command may write to. Without
	// [Features].Mounts they are at To already.
	Writable []Bind
	// Processes is how many processes a command may have at once, each thread counted;
	// 0 means any number.
	Processes int
	// FileSize is how many bytes a file of a command may have; 0 means any number.
	FileSize int64
	// Output is how many bytes a command may print; 0 means any number.
	Output int64
	// Usage is a directory with what a command writes. If its file system gets full,
	// the command whose Usage holds most is ended. "" means none.
	Usage string
}

// Environ returns the variables of commands in w that say where they may write, tmp.
func (w *World) Environ(tmp string) []string {
	if w.Features.Mounts {
		tmp = "/tmp"
	}
	return []string{"HOME=" + tmp, "TMPDIR=" + tmp}
}

// Bind shows the directory From at To.
type Bind struct{ From, To string }

// User is an unprivileged user.
type User struct{ UID, GID int }

// LookupUser returns the user called name. It is an error if there is none, or if it is
// root or in root's group.
func LookupUser(name string) (*User, error) {
	if u, err := user.Lookup(name); err == nil {
		uid, errU := strconv.Atoi(u.Uid)
		gid, errG := strconv.Atoi(u.Gid)
		if errU == nil && errG == nil && uid > 0 && gid > 0 {
			return &User{uid, gid}, nil
		}
	}
	return nil, fmt.Errorf("there is no unprivileged user called %s", name)
}

// UnusedUser returns a user that no other process runs as and that has no name. It is of
// those that systemd keeps for services with DynamicUser=: see "Users, Groups, UIDs and
// GIDs on systemd Systems". It stays the same while this process runs, and is as a rule
// that of other runs. Processes in other PID namespaces, such as those of worlds, do not
// count: they cannot reach what is outside of theirs.
var UnusedUser = sync.OnceValues(unusedUser)

func unusedUser() (*User, error) {
	used := map[string]bool{}
	own, _ := os.Readlink("/proc/self/ns/pid")
	for dir, ns := range namespaces() {
		if ns != own {
			continue
		}
		text, _ := os.ReadFile(dir + "/status")
		for line := range strings.Lines(string(text)) {
			if ids, ok := strings.CutPrefix(line, "Uid:"); ok {
				for id := range strings.FieldsSeq(ids) {
					used[id] = true
				}
			}
		}
	}
	for id := 61184; id <= 65519; id++ {
		text := strconv.Itoa(id)
		if _, err := user.LookupId(text); err != nil && !used[text] {
			return &User{id, id}, nil
		}
	}
	return nil, errors.New("all users from 61184 to 65519 are in use")
}

// Features are what a machine allows. The zero value allows nothing.
type Features struct {
	Mounts   bool // mount namespaces: private and read-only directories
	PID      bool // PID namespaces
	Net      bool // network and IPC namespaces
	UserNS   bool // user namespaces
	Drop     bool // running commands as another user
	Landlock int  // version of Landlock's ABI; 0 means none
	Seccomp  bool // filters of system calls
	// Missing names what the machine denies, for a person to read.
	Missing []string
}

// Probe tries what this machine allows for commands that run as u, or as the user of
// this process if u is nil. It tries once and remembers the result.
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

// probed are the results of [Probe]. It stays locked while one tries.
var probed struct {
	sync.Mutex
	features map[User]Features
}

// try tries combinations, the best first. Some machines allow one thing only together
// with another, or only without it.
func try(u *User) Features {
	landlock, err := ll.LandlockGetABIVersion()
	if err != nil {
		landlock = 0
	}
	seccomp, root := canFilter(), os.Geteuid() == 0
	var why error // why the combination before was denied
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
		f.Landlock, f.Seccomp = landlock, seccomp
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

// missing returns what f does not have, of the last with the reason why. Another user
// is wanted if drop is set.
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
		{f.Seccomp, "seccomp"},
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

// Run runs cmd in the world to its end. When ctx is done, Run kills cmd with all that
// it started and returns the cause. What cmd prints, to standard error too, goes to
// cmd.Stdout. cmd.ProcessState is that of the process that makes the world.
//
// The result is that of [exec.Cmd.Run], with these differences. If a signal ended cmd,
// the exit status is 128 and the number of the signal. If cmd used more than it may or
// than there is, the error is a [*LimitError]. If the world cannot be made although
// Features promise it, cmd does not run, and the error is a [*SetupError].
func (w *World) Run(ctx context.Context, cmd *exec.Cmd) error {
	if cmd.Err != nil {
		return cmd.Err
	}
	spec, err := w.spec(cmd)
	if err != nil {
		return err
	}
	defer spec.Close()
	problem, report, err := os.Pipe()
	if err != nil {
		return err
	}
	defer problem.Close()
	defer report.Close()
	printed, output, err := w.outputPipe()
	if err != nil {
		return err
	}
	defer printed.Close()
	defer output.Close()
	self := w.self(cmd, output, spec, report)
	// Pdeathsig is about the thread that starts a process, not about its process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	g := enterGroup(w, self)
	defer g.remove()
	if err := self.Start(); err != nil {
		return err
	}
	report.Close()
	output.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { child.Kill(self) })
	defer stop()
	go w.watch(ctx, self.Process.Pid, g, cancel)
	var said bytes.Buffer
	var ends sync.WaitGroup
	ends.Go(func() { said.ReadFrom(problem) })
	ends.Go(func() { w.copyOutput(cmd.Stdout, printed, cancel) })
	err = self.Wait()
	cmd.ProcessState = self.ProcessState
	if !w.Features.PID {
		child.Kill(self) // what is left in its process group if it was killed
	}
	// A process that escaped all this may hold the pipes open. Do not wait for it.
	problem.SetReadDeadline(time.Now().Add(time.Second))
	printed.SetReadDeadline(time.Now().Add(time.Second))
	ends.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case g.outOfMemory():
		return &LimitError{What: "it fills the memory: it needs all that this machine has", Hint: fewerJobs}
	case said.Len() > 0:
		return &SetupError{said.String()}
	}
	return err
}

// self returns the command that makes the world for cmd: this program, whose
// [Main] reads spec, and writes to report why it failed.
func (w *World) self(cmd *exec.Cmd, output, spec, report *os.File) *exec.Cmd {
	return &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{name, strconv.Itoa(3 + len(cmd.ExtraFiles))},
		Stdin: cmd.Stdin, Stdout: output, Stderr: output,
		ExtraFiles:  append(slices.Clip(cmd.ExtraFiles), spec, report),
		Env:         []string{"GOMAXPROCS=1", "PATH=" + os.Getenv("PATH")},
		SysProcAttr: w.attr(),
	}
}

// spec returns an open file with the spec of w and cmd, for the process that makes the
// world.
func (w *World) spec(cmd *exec.Cmd) (*os.File, error) {
	s := spec{World: *w, Path: cmd.Path, Args: cmd.Args, Dir: cmd.Dir, Env: cmd.Environ(), Files: len(cmd.ExtraFiles)}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("world", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "world")
	if _, err := f.Write(text); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// outputPipe returns a pipe for what a command prints. A file would not do: scripts
// that open /dev/stderr would truncate it.
func (w *World) outputPipe() (printed, output *os.File, err error) {
	printed, output, err = os.Pipe()
	if err != nil || w.User == nil {
		return printed, output, err
	}
	// To open it again, the user has to own it.
	if err := output.Chown(w.User.UID, w.User.GID); err != nil {
		printed.Close()
		output.Close()
		return nil, nil, err
	}
	return printed, output, nil
}

// copyOutput copies what a command prints, to nowhere if to is nil. It cancels the
// command with a [*LimitError] if that is too much, or cannot be written.
func (w *World) copyOutput(to io.Writer, printed *os.File, cancel func(error)) {
	limit := cmp.Or(w.Output, math.MaxInt64)
	if n, err := io.Copy(cmp.Or(to, io.Discard), io.LimitReader(printed, limit)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		cancel(&LimitError{What: fmt.Sprintf("what it prints cannot be kept: %v", err), Hint: "make room on the file system of the log, then run it again"})
	} else if n == limit {
		cancel(&LimitError{What: fmt.Sprintf("it printed more than %d MiB", limit>>20), Hint: "look at the end of the log"})
	}
	// So that the command does not block until it is ended.
	io.Copy(io.Discard, printed)
}

// SetupError is the error if a world could not be made, or the command not started.
type SetupError struct{ Why string }

func (e *SetupError) Error() string { return e.Why }

// attr returns how the process that makes the world starts.
func (w *World) attr() *syscall.SysProcAttr {
	f := w.Features
	// A session of its own has no controlling terminal, into which a command could
	// type what a shell then runs. It also is a process group.
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
		// The programs of other users than root get no capabilities otherwise.
		a.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
	}
	uids, gids := []int{uid}, []int{gid}
	if w.User != nil {
		owners, groups := w.owners()
		uids, gids = append(uids, append(owners, w.User.UID)...), append(gids, append(groups, w.User.GID)...)
		a.GidMappingsEnableSetgroups = true
	}
	a.UidMappings, a.GidMappings = same(uids), same(gids)
	return a
}

// same maps each of ids to itself.
func same(ids []int) (list []syscall.SysProcIDMap) {
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		list = append(list, syscall.SysProcIDMap{ContainerID: id, HostID: id, Size: 1})
	}
	return list
}

// owners returns the owners and groups of the directories on the way to what w shows
// which others may not search. Root can do so in a user namespace only if they are in it.
func (w *World) owners() (uids, gids []int) {
	for _, path := range slices.Concat(w.Show, realPaths(w.Show)) {
		for dir := filepath.Dir(path); dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
			var st unix.Stat_t
			if unix.Stat(dir, &st) == nil && st.Mode&0o001 == 0 && st.Uid != unknownID && st.Gid != unknownID {
				uids, gids = append(uids, int(st.Uid)), append(gids, int(st.Gid))
			}
		}
	}
	return uids, gids
}

// unknownID stands for users and groups that are not in the user namespace of this process.
const unknownID = 65534

// LimitError is the error if a command was ended because it used more than it may, or
// than there is.
type LimitError struct {
	What string // what it used
	Hint string // what to do about it
	Disk bool   // Disk reports whether it is about room on a disk.
	// Again reports whether the command may not be to blame: it is to be run again,
	// without others at the same time.
	Again bool
}

func (e *LimitError) Error() string { return e.What }
