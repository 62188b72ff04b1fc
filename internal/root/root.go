// SPDX-License-Identifier: GPL-2.0-or-later

// Package root runs this program in another root file system, one that is not booted: an
// image that is being made, or a machine whose disk is mounted here. What runs there finds
// that root at "/", with processes and devices of its own, and none of the host's files. It
// runs with all rights of the caller: a root is trusted as chroot(8) trusts it.
//
// The program starts itself to enter a root, so its main calls [Main] first.
package root

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
)

// name is argv[0] of the process that enters a root and waits there.
const name = "dkms-kernel-install-root"

// variable is set for what runs in a root, to one of these words, or both.
const (
	variable  = "DKMS_KERNEL_INSTALL_ROOT"
	elsewhere = "elsewhere" // it is not that of the machine which runs
	again     = "again"     // it is that of the process before, with something else in place
)

// Entered reports whether [Root.Run] has started this process, with its root elsewhere, or once
// more in the same with something else in place. Programs that it starts do not learn of it.
func Entered() (isElsewhere, isAgain bool) {
	defer os.Unsetenv(variable)
	words := strings.Fields(os.Getenv(variable))
	return slices.Contains(words, elsewhere), slices.Contains(words, again)
}

// Root is a root file system.
type Root struct {
	// Dir is where it begins. If that is "/", what runs there finds the processes and devices
	// of this machine, and the environment of this process.
	Dir string
	// Elsewhere reports whether "/" is a root that Run has entered.
	Elsewhere bool
	// Over are directories in it which are laid out as a root, such as unpacked packages: what
	// is in their usr, bin, sbin and lib is found in its place. All that is in such a directory
	// of the root is read-only then, except for Keep, which stays what it is.
	Over, Keep []string
	// At are directories in it, by the paths at which they are seen as well. These must exist.
	At map[string]string

	Work string // the working directory, if Dir is "/"; Run sets it
}

// Run runs this program with args, of which the first is its name, in r. Env are variables
// that it gets besides those for terminals, languages and kernel-install. Run returns the exit
// status. Errors are of type [*failure.Failure].
//
// Without root's rights it makes a user namespace, in which the caller is root.
func (r Root) Run(args, env []string) (status int, err error) {
	dir := r.Dir
	if r.Dir, err = check(dir); err != nil {
		return 1, &failure.Failure{What: "cannot use the root directory " + dir, Why: err.Error(), Hint: "name the directory in which etc and usr of that system are", Status: 1}
	}
	if r.Dir == "/" {
		r.Work, _ = os.Getwd() // without one, what runs begins in "/"
	}
	// Pdeathsig is about the thread that starts a process, not about its process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	entered := variable + "="
	if r.Dir != "/" || r.Elsewhere {
		entered += elsewhere + " "
	}
	if r.Dir == "/" {
		entered += again
	}
	env = append(slices.Concat(r.environ(), env), entered)
	cmd := r.command(args, env, false)
	if err = cmd.Start(); errors.Is(err, fs.ErrPermission) {
		cmd = r.command(args, env, true)
		err = cmd.Start()
	}
	if err != nil {
		return 1, &failure.Failure{What: "cannot enter the root directory " + dir, Why: err.Error(), Status: 1,
			Hint: "run this as root, or where user namespaces are allowed, and not in a chroot"}
	}
	// What a terminal sends goes to all processes. SIGTERM is sent to this one alone.
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM)
	defer signal.Stop(terminate)
	go func() {
		for s := range terminate {
			_ = cmd.Process.Signal(s)
		}
	}()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return 1, failure.From(err, "cannot wait for what runs in "+dir, 1)
	}
	return cmd.ProcessState.ExitCode(), nil
}

// check returns dir free of links, or an error if no root file system can begin there.
func check(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if err != nil {
		return "", err
	}
	for _, path := range []string{abs, filepath.Join(abs, "usr"), filepath.Join(abs, "etc")} {
		fi, err := os.Lstat(path)
		if err != nil {
			return "", fmt.Errorf("it holds no root file system: %w", err)
		}
		if !fi.IsDir() {
			return "", fmt.Errorf("it holds no root file system: %s is not a directory", path)
		}
	}
	return abs, nil
}

// environ returns the variables of this process that what runs in a root gets.
func (r Root) environ() (env []string) {
	if r.Dir == "/" {
		return os.Environ()
	}
	for _, v := range os.Environ() {
		switch key, _, _ := strings.Cut(v, "="); {
		case key == "TERM", key == "NO_COLOR", key == "LANG", key == "SOURCE_DATE_EPOCH",
			strings.HasPrefix(key, "LC_"), strings.HasPrefix(key, "KERNEL_INSTALL_") && key != "KERNEL_INSTALL_ROOT":
			env = append(env, v)
		}
	}
	return append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
}

// command returns the command that enters r and runs this program with args there; in a
// user namespace, if user is set.
func (r Root) command(args, env []string, user bool) *exec.Cmd {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings
	}
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: append([]string{name, string(text)}, args...), Env: env,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL},
	}
	if r.Dir != "/" {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	}
	if user {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return cmd
}

// Main enters a root and runs this program there, if [Run] started this process for that;
// it does not return then. Otherwise it does nothing.
func Main() {
	if len(os.Args) < 3 || os.Args[0] != name {
		return
	}
	child.CloseInherited()
	child.OwnKeyring()
	var r Root
	err := json.Unmarshal([]byte(os.Args[1]), &r)
	if err == nil {
		err = r.enter()
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot enter the root directory %s: %v\n", r.Dir, err)
		os.Exit(1)
	}
	status, err := wait(os.Args[2:], r.Work)
	if err != nil {
		fmt.Fprintf(os.Stderr, "cannot start in the root directory %s: %v\n", r.Dir, err)
	}
	os.Exit(status)
}

// wait runs this program with args to its end, and returns its status. If this process is the
// first of a PID namespace, all that runs there ends with it.
func wait(args []string, dir string) (status int, err error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	runtime.LockOSThread() // see Run
	pid, err := syscall.ForkExec("/proc/self/exe", args, &syscall.ProcAttr{
		Dir: dir, Env: os.Environ(), Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 1, err
	}
	go func() {
		for s := range signals {
			if s == syscall.SIGTERM {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			}
		}
	}()
	for {
		var state syscall.WaitStatus
		switch got, err := syscall.Wait4(-1, &state, 0, nil); {
		case err != nil && err != syscall.EINTR:
			return 1, err
		case got != pid || err != nil:
		case state.Exited():
			return state.ExitStatus(), nil
		case state.Signaled():
			return 128 + int(state.Signal()), nil
		}
	}
}
