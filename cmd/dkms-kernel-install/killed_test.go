// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
)

// machineDirs are the directories below $WORK that are saved, restored and compared.
var machineDirs = []string{"etc", "usr", "var", "lib", "boot", "odd"}

// cmdEndures is
//
//	endures N COMMAND...
//
// It runs the command, which must succeed. Then, N times, it restores the machine, runs
// the command, and kills it at a random moment, with everything that it started. After
// that "dkms status" must work, and the next run of the command must succeed, or find the
// work done, and leave the machine as the first run did, without temporaries.
func cmdEndures(ts *testscript.TestScript, neg bool, args []string) {
	n := 0
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[0])
	}
	if neg || n == 0 {
		ts.Fatalf("usage: endures n command...")
	}
	if testing.Short() {
		n = 1
	}
	command := args[1:]
	ts.Check(ts.Exec("env"))
	env := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	work := ts.Getenv("WORK")
	run := func(args ...string) *exec.Cmd {
		// Bash finds the command by $PATH in env; exec keeps the process ID.
		cmd := exec.Command("bash", append([]string{"-c", `exec "$@"`, "bash"}, args...)...)
		cmd.Dir, cmd.Env = work, env
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		return cmd
	}
	saved := work + ".saved"
	ts.Check(os.RemoveAll(saved))
	defer os.RemoveAll(saved)
	copyMachine(ts, work, saved)

	start := time.Now()
	if out, err := run(command...).CombinedOutput(); err != nil {
		ts.Fatalf("%v\n%s", err, out)
	}
	took := time.Since(start)
	want := state(ts, work)

	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	early := 0
	for i := range n {
		copyMachine(ts, saved, work)
		after := time.Duration(random.Int64N(int64(took) * 11 / 10))
		fail := func(format string, args ...any) {
			ts.Fatalf("kill %d of %d (seed %d), after %v of %v: %s", i+1, n, seed, after, took, fmt.Sprintf(format, args...))
		}
		cmd := run(command...)
		ts.Check(cmd.Start())
		time.Sleep(after)
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if cmd.Wait() != nil {
			early++
		}
		for start := time.Now(); len(running(work)) > 0; time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				fail("still there: %q", running(work))
			}
		}
		if out, err := run("dkms", "status").CombinedOutput(); err != nil {
			fail("dkms status: %v\n%s", err, out)
		}
		out, err := run(command...).CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && (exit.ExitCode() == 3 || exit.ExitCode() == 5) {
			err = nil // already added, built, installed, or gone
		}
		if err != nil {
			fail("the next run: %v\n%s", err, out)
		}
		if diff := cmp.Diff(want, state(ts, work)); diff != "" {
			fail("the next run says\n%s\nand leaves (+):\n%s", out, diff)
		}
	}
	ts.Logf("%d of %d kills came before the end, which is after %v", early, n, took)
}

// copyMachine replaces the machine in the directory to by a copy of the one in from.
func copyMachine(ts *testscript.TestScript, from, to string) {
	ts.Check(os.MkdirAll(to, 0o755))
	for _, dir := range machineDirs {
		ts.Check(os.RemoveAll(filepath.Join(to, dir)))
		if _, err := os.Stat(filepath.Join(from, dir)); err != nil {
			continue
		}
		if out, err := exec.Command("cp", "-a", filepath.Join(from, dir), to).CombinedOutput(); err != nil {
			ts.Fatalf("%v: %s", err, out)
		}
	}
}

// state returns the paths of the machine, and for each the mode and a hash of the content
// or the target of the link. It leaves out what differs from run to run: times, logs,
// keys and caches.
func state(ts *testscript.TestScript, work string) map[string]string {
	list := map[string]string{}
	for _, top := range machineDirs {
		err := filepath.WalkDir(filepath.Join(work, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				return err
			}
			name, err := filepath.Rel(work, path)
			if err != nil {
				return err
			}
			fi, err := d.Info()
			if err != nil {
				return err
			}
			list[name] = fi.Mode().String()
			switch {
			case d.Name() == ".lock", d.Name() == ".fingerprint.json", strings.HasPrefix(d.Name(), ".placed-"):
				// Fingerprints also hold times; if one is missing, the next automatic
				// run makes it. After a run that was cut short, .placed-K-A may know more.
				delete(list, name)
			case name == "var/cache":
				delete(list, name)
				return fs.SkipDir
			case d.Type() == fs.ModeSymlink:
				to, err := os.Readlink(path)
				list[name] += " " + to
				return err
			case d.Type().IsRegular() && !slices.Contains([]string{"make.log", "mok.key", "mok.pub"}, d.Name()):
				b, err := os.ReadFile(path)
				list[name] += fmt.Sprintf(" %x", sha256.Sum256(b))
				return err
			}
			return nil
		})
		ts.Check(err)
	}
	return list
}

// running returns the command lines of the processes whose $TESTROOT is work.
func running(work string) []string {
	var list []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		environ, err := os.ReadFile(dir + "/environ")
		if err == nil && strings.Contains(string(environ)+"\x00", "TESTROOT="+work+"\x00") {
			cmdline, _ := os.ReadFile(dir + "/cmdline")
			list = append(list, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return list
}
