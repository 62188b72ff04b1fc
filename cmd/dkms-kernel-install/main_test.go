// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/root"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/testskip"
)

// Each script in testdata/script tests one behaviour of the whole program. A script's
// work directory $WORK is the root of a machine: its settings, trees and kernels are
// below it, and the program leaves those of the real machine alone. toy_test.go makes the
// kernels that packages are built for.

func TestMain(m *testing.M) {
	sandbox.Main()
	root.Main()
	testscript.Main(m, map[string]func(){
		// The program, by its three names.
		"dkms":                face,
		"dkms-kernel-install": face,
		"40-dkms.install":     face,
		"04-dkms.install":     face,
		// Programs that it runs.
		"depmod": depmod,
		"kbuild": kbuild,
		// Programs that run a command with something denied to it, or given, or cut short.
		"without":  without,
		"full":     full,
		"cutshort": cutShort,
		"withkey":  withKey,
		"terminal": onTerminal,
		"screen":   onTerminal,
		// What packages try.
		"attack": attack,
		"hold":   hold,
	})
}

// face runs the program on the machine below $TESTROOT.
func face() {
	dir := os.Getenv("TESTROOT")
	if dir == "" {
		panic("TESTROOT is not set: this would work on the real machine")
	}
	var passed []string // that scripts use in what builds and confs do
	for _, name := range []string{"TESTROOT", "PORT", "OUTSIDE"} {
		if value, ok := os.LookupEnv(name); ok {
			passed = append(passed, name+"="+value)
		}
	}
	p := program{
		machine: machine.Options{Root: dir, ConfTimeout: 5 * time.Second, SignTimeout: 2 * time.Second, TellTimeout: 2 * time.Second, Passed: passed},
		stdout:  os.Stdout,
		stderr:  os.Stderr,
	}
	tune()
	status := p.main(os.Args)
	noteCost()
	os.Exit(status)
}

func TestScript(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		Setup:              setup,
		Condition:          condition,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"kernel":  cmdKernel,
			"package": cmdPackage,
			"ko":      cmdKo,
			"status":  cmdStatus,
			"user":    cmdUser,
			"signal":  cmdSignal,
			"waitfor": cmdWaitFor,
			"files":   cmdFiles,
			"running": cmdRunning,
			"endures": cmdEndures,
			"hostile": cmdHostile,
			"evil":    cmdEvil,
			"filling": cmdFilling,
			"walks":   cmdWalks,
			"crowd":   cmdCrowd,
			"flip":    cmdFlip,
			"damages": cmdDamages,
			"listen":  cmdListen,

			"efi":       cmdEFI,
			"expired":   cmdExpired,
			"initramfs": cmdInitramfs,
			"tarball":   cmdTarball,
		},
	})
}

// raceLog begins the names of files with what the race detector found.
const raceLog = "races"

// setup makes a machine with settings, empty trees, and no kernel yet. Scripts put their
// own settings into framework.conf.d.
func setup(env *testscript.Env) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	// See cmdUser.
	if err := os.Chmod(env.WorkDir, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"etc/dkms/framework.conf.d", "run/systemd/system", "usr/src", "var/lib/dkms", "lib/modules"} {
		if err := os.MkdirAll(filepath.Join(env.WorkDir, dir), 0o755); err != nil {
			return err
		}
	}
	env.Vars = append(env.Vars,
		"TESTROOT="+env.WorkDir,
		"ARCH="+unix.ByteSliceToString(u.Machine[:]),
		"RUNNING="+unix.ByteSliceToString(u.Release[:]),
		"TREE="+filepath.Join(env.WorkDir, "var/lib/dkms"),
		"SRC="+filepath.Join(env.WorkDir, "usr/src"),
		"MODULES="+filepath.Join(env.WorkDir, "lib/modules"),
		// With -race, each command would sleep for a second when it ends, and what
		// is found in a command that may fail would pass unnoticed.
		"GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(env.WorkDir, raceLog),
	)
	env.Defer(func() {
		logs, _ := filepath.Glob(filepath.Join(env.WorkDir, raceLog+".*"))
		for _, file := range logs {
			text, _ := os.ReadFile(file)
			env.T().Fatal(string(text))
		}
	})
	// Without the first two, it would matter whether the tests run in a chroot.
	conf := fmt.Sprintf("image_build=false\ntry_sign_modules=true\nbuild_sandbox=\"*=write:%s/open\"\n", env.WorkDir)
	// Builds may write here, to show a script what they did.
	open := filepath.Join(env.WorkDir, "open")
	if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(env.WorkDir, "etc/dkms/framework.conf"), []byte(conf), 0o644)
}

// condition reports whether a condition of scripts is true:
//
//	[root]   the tests run as root
//	[mount]  a new mount namespace can be made, in which file systems can be
//	         mounted and resized; ordinary users can rarely do the latter
//	[pidns]  a new PID namespace can be made
//	[keys]   the kernel has keys, and lets us make some
func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "mount":
		return can("unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt && mount -o remount,size=1m /mnt")
	case "pidns":
		return can("unshare", "-pf", "true")
	case "keys":
		return can("withkey", "true")
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

// can reports whether a command succeeds on this machine. In CI it is an error if it
// does not.
func can(args ...string) (bool, error) {
	err := exec.Command(args[0], args[1:]...).Run()
	if err != nil && testskip.CI {
		return false, fmt.Errorf("%q: %w, and in CI that is a failure", args, err)
	}
	return err == nil, nil
}

// cmdStatus is
//
//	status N COMMAND...
//
// It runs a command that must end with exit status N.
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	checkStatus(ts, want, ts.Exec(args[1], args[2:]...))
}

func checkStatus(ts *testscript.TestScript, want int, err error) {
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

// cmdUser is
//
//	user N COMMAND...
//
// It runs a command as an ordinary user, which must end with exit status N. That is the
// user who runs the tests, unless it is root.
func cmdUser(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: user N command...")
	}
	if os.Geteuid() != 0 {
		cmdStatus(ts, neg, args)
		return
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	// Only root may enter the directories of the commands and of the work.
	for _, dir := range []string{filepath.Dir(ts.Getenv("WORK")), filepath.Dir(filepath.SplitList(ts.Getenv("PATH"))[0])} {
		ts.Check(os.Chmod(dir, 0o711))
	}
	checkStatus(ts, want, ts.Exec("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups"}, args[1:]...)...))
}

// cmdSignal is
//
//	signal NAME
//
// It sends a signal to the commands in the background.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || unix.SignalNum(args[0]) == 0 {
		ts.Fatalf("usage: signal SIGTERM")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(syscall.Kill(cmd.Process.Pid, unix.SignalNum(args[0])))
	}
}

// cmdWaitFor is
//
//	[!] waitfor FILE
//
// It waits until the file exists; with !, until it does not.
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] waitfor file")
	}
	file := ts.MkAbs(args[0])
	there := func() bool {
		_, err := os.Stat(file)
		return err == nil
	}
	for start := time.Now(); there() == neg; time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 20*time.Second {
			ts.Fatalf("%s: waited too long", args[0])
		}
	}
}

// cmdFiles is
//
//	files DIR...
//
// It lists the paths of everything below the directories, relative to $WORK, and the
// targets of links. It leaves out the locks and records of this program.
func cmdFiles(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: files directory...")
	}
	out := ts.Stdout() // even if nothing is written to it: it empties stdout
	root := ts.Getenv("WORK")
	var list []string
	for _, dir := range args {
		err := filepath.WalkDir(ts.MkAbs(dir), func(path string, d os.DirEntry, err error) error {
			record := d.Name() == ".lock" || d.Name() == ".fingerprint.json" || strings.HasPrefix(d.Name(), ".placed-")
			if err != nil || path == ts.MkAbs(dir) || record {
				return err
			}
			line, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			switch {
			case d.IsDir():
				line += "/"
			case d.Type() == os.ModeSymlink:
				to, err := os.Readlink(path)
				if err != nil {
					return err
				}
				line += " -> " + to
			}
			list = append(list, line)
			return nil
		})
		ts.Check(err)
	}
	slices.Sort(list)
	for _, line := range list {
		fmt.Fprintln(out, line)
	}
}

// cmdRunning is
//
//	[!] running TEXT
//
// It waits a while until some process has the text in its command line; with !, until
// none has.
func cmdRunning(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: [!] running text")
	}
	running := func() bool {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		return slices.ContainsFunc(files, func(file string) bool {
			b, _ := os.ReadFile(file)
			return strings.Contains(string(b), args[0])
		})
	}
	for start := time.Now(); running() == neg; time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			ts.Fatalf("a process with %q runs: %v", args[0], neg)
		}
	}
}

// TestEveryOption checks that scripts use every command and option of the native face.
func TestEveryOption(t *testing.T) {
	files, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			if i := slices.Index(words, "dkms-kernel-install"); i >= 0 {
				for _, word := range words[i+1:] {
					option, _, _ := strings.Cut(word, "=")
					used[option] = true
				}
			}
		}
	}
	parser, err := kong.New(&native{}, kong.Vars{"version": version})
	if err != nil {
		t.Fatal(err)
	}
	var visit func(*kong.Node)
	visit = func(n *kong.Node) {
		if n.Type == kong.CommandNode && !used[n.Name] {
			t.Errorf("no script has %s", n.Name)
		}
		for _, f := range n.Flags {
			if !used["--"+f.Name] && !(f.Short != 0 && used["-"+string(f.Short)]) {
				t.Errorf("no script has --%s of %s", f.Name, n.Path())
			}
		}
		for _, child := range n.Children {
			visit(child)
		}
	}
	visit(parser.Model.Node)
}
