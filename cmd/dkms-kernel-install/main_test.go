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
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/testskip"
)

// The scripts in testdata/script tell, each, of one behaviour of the whole
// program. A script's work directory $WORK stands for the root of a machine: its
// settings, trees and kernels are below it, and nothing of the real machine is
// read or touched. toy_test.go has the kernels that packages are built for.

func TestMain(m *testing.M) {
	sandbox.Main()
	testscript.Main(m, map[string]func(){
		// The program by its three names.
		"dkms":                face,
		"dkms-kernel-install": face,
		"40-dkms.install":     face,
		// What it runs.
		"depmod": depmod,
		"kbuild": kbuild,
		// A machine that denies something.
		"without": without,
		"full":    full,
	})
}

// face runs the program on the machine below $TESTROOT.
func face() {
	root := os.Getenv("TESTROOT")
	if root == "" {
		panic("TESTROOT is not set: this would work on the real machine")
	}
	p := program{
		machine: machine.Options{Root: root, ConfTimeout: 2 * time.Second},
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
			"listen":  cmdListen,

			"initramfs": cmdInitramfs,
			"tarball":   cmdTarball,
		},
	})
}

// raceLog is the begin of the names of files with what the race detector found.
const raceLog = "races"

// setup makes the machine: settings, empty trees, and no kernel yet. What a
// script wants to set itself goes into framework.conf.d.
func setup(env *testscript.Env) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	// Another user runs commands here too.
	if err := os.Chmod(env.WorkDir, 0o755); err != nil {
		return err
	}
	for _, dir := range []string{"etc/dkms/framework.conf.d", "usr/src", "var/lib/dkms", "lib/modules"} {
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
		// With -race, each command would take a second to end, and what is found
		// in one that may fail would pass unnoticed.
		"GORACE=atexit_sleep_ms=0 log_path="+filepath.Join(env.WorkDir, raceLog),
	)
	env.Defer(func() {
		logs, _ := filepath.Glob(filepath.Join(env.WorkDir, raceLog+".*"))
		for _, file := range logs {
			text, _ := os.ReadFile(file)
			env.T().Fatal(string(text))
		}
	})
	// Without try_sign_modules, signing would depend on whether the tests
	// run in a chroot.
	conf := fmt.Sprintf("try_sign_modules=true\nbuild_sandbox=\"*=write:%s/open\"\n", env.WorkDir)
	// Where builds leave word for a script.
	open := filepath.Join(env.WorkDir, "open")
	if err := errors.Join(os.Mkdir(open, 0o777), os.Chmod(open, 0o777)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(env.WorkDir, "etc/dkms/framework.conf"), []byte(conf), 0o644)
}

// condition knows
//
//	[root]   the tests run as root
//	[mount]  file systems can be mounted, and mounted again in another size, in a
//	         namespace of one's own; an ordinary user can rarely do the latter
//	[pidns]  processes can get a namespace of their own
func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "mount":
		return can("unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt && mount -o remount,size=1m /mnt")
	case "pidns":
		return can("unshare", "-pf", "true")
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

// can reports whether a command succeeds on this machine; in CI it has to.
func can(args ...string) (bool, error) {
	err := exec.Command(args[0], args[1:]...).Run()
	if err != nil && testskip.CI {
		return false, fmt.Errorf("%q: %w, and in CI that is a failure", args, err)
	}
	return err == nil, nil
}

// status N COMMAND... runs a command that must end with exit status N.
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

// user N COMMAND... runs a command as an ordinary user, and it must end with
// exit status N. Where the tests are run by root, the user is another one.
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
	// The way to the commands and to the work directory is root's alone.
	for _, dir := range []string{filepath.Dir(ts.Getenv("WORK")), filepath.Dir(filepath.SplitList(ts.Getenv("PATH"))[0])} {
		ts.Check(os.Chmod(dir, 0o711))
	}
	checkStatus(ts, want, ts.Exec("setpriv", append([]string{"--reuid=65534", "--regid=65534", "--clear-groups"}, args[1:]...)...))
}

// signal NAME sends a signal to the commands in the background.
func cmdSignal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || unix.SignalNum(args[0]) == 0 {
		ts.Fatalf("usage: signal SIGTERM")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(syscall.Kill(cmd.Process.Pid, unix.SignalNum(args[0])))
	}
}

// waitfor FILE waits until there is such a file, "! waitfor FILE" until there is
// none.
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

// files DIR... lists everything below directories but the directories themselves and
// what only this program makes in the tree, as
// paths relative to $WORK, links with where they lead.
func cmdFiles(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: files directory...")
	}
	out := ts.Stdout() // also when nothing is written: what was there goes
	root := ts.Getenv("WORK")
	var list []string
	for _, dir := range args {
		err := filepath.WalkDir(ts.MkAbs(dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || path == ts.MkAbs(dir) || d.Name() == ".lock" || d.Name() == ".fingerprint.json" {
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

// running TEXT checks that some process has the text in its command line, with !
// that none has, or soon has none: a process is gone a little after its last
// signal.
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

// TestEveryOption finds each command and each option of our own face in a script: nothing is there that is not tried.
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
