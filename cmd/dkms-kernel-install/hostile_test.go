// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
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

// statuses are the exit statuses of the dkms face.
var statuses = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 21, 77, 101}

// cmdHostile is
//
//	hostile OPTION COMMAND...
//
// It runs the command with each of many odd values for the option, or, if that is empty,
// for an argument. The command must end soon, with one of the statuses, and if it fails,
// with a message that is not too long. It must not change the machine, unless it succeeds
// and is one that writes.
// With -short it takes every eighth value.
func cmdHostile(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: hostile option command...")
	}
	option, command := args[0], args[1:]
	work := ts.Getenv("WORK")
	values := []string{"", ".", "..", "../..", "-", "--", "-x", "--force", " ", "a b", "a\nb", "\n", "a\tb", "\x1b[2J",
		strings.Repeat("a", 256), strings.Repeat("a", 5000), strings.Repeat("a/", 3000), "$(touch evil)", "`touch evil`", ";touch evil", "'", `"`, `\`,
		"*", "[", "?", "{a,b}", "\xff\xfe", "a\xffb", "%s%n", "a/b/c/d", "/dev/null", "/proc/self/mem", "/proc/none/a/b",
		"../file", "../directory", "../fifo", "../loop", "../dangling", "../fifo/x", "../loop/x", "../file/x",
		work + "/odd/file", work + "/odd/directory", work + "/odd/fifo", work + "/odd/loop", work + "/odd/dangling"}
	if !strings.HasSuffix(option, "tree") {
		values = append(values, "/", "../../../../../../../../etc") // trees of the real machine
	}
	ts.Check(ts.Exec("env"))
	env := strings.Split(strings.TrimSuffix(ts.ReadFile("stdout"), "\n"), "\n")
	saved := work + ".saved"
	ts.Check(os.RemoveAll(saved))
	defer os.RemoveAll(saved)
	copyMachine(ts, work, saved)
	want := state(ts, work)
	every := 1
	if testing.Short() {
		every = 8 // of the values, from a random one on
	}
	first := rand.IntN(every)
	for i, value := range values {
		if i%every != first {
			continue
		}
		forms := [][]string{{option, value}}
		switch {
		case option == "":
			forms = [][]string{{value}}
		case strings.HasPrefix(option, "--") && i%2 == 0:
			forms = [][]string{{option + "=" + value}}
		}
		for _, form := range forms {
			line := slices.Concat(command, form)
			fail := func(format string, args ...any) {
				ts.Fatalf("%.300q: %.3000s", line, fmt.Sprintf(format, args...))
			}
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			cmd := exec.CommandContext(ctx, "bash", append([]string{"-c", `exec "$@"`, "bash"}, line...)...)
			cmd.Dir, cmd.Env = filepath.Join(work, "odd/deep"), env
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			out, err := cmd.CombinedOutput()
			hung := ctx.Err() != nil
			cancel()
			var exit *exec.ExitError
			switch {
			case hung:
				fail("hangs\n%s", out)
			case err != nil && !errors.As(err, &exit):
				ts.Check(err)
			case !slices.Contains(statuses, cmd.ProcessState.ExitCode()):
				fail("exit status %d\n%s", cmd.ProcessState.ExitCode(), out)
			case err != nil && len(strings.TrimSpace(string(out))) == 0:
				fail("fails without a word")
			case strings.Contains(string(out), "panic") || strings.Contains(string(out), "goroutine"):
				fail("%s", out)
			case err != nil && len(out) > 20000:
				fail("prints too much: %d bytes", len(out))
			}
			if _, err := os.Lstat(filepath.Join(cmd.Dir, "evil")); err == nil {
				fail("a shell ran it\n%s", out)
			}
			if diff := cmp.Diff(want, state(ts, work)); diff != "" {
				if err != nil && !slices.Contains(command, "build") { // whose log stays
					fail("failed with %v, and changed:\n%s\n%s", err, diff, out)
				}
				if !writes(command) {
					fail("changed:\n%s\n%s", diff, out)
				}
				copyMachine(ts, saved, work)
			}
		}
	}
}

// writes reports whether a command may change the machine if it succeeds. With an odd
// value it may: an empty one is as if it were not given.
func writes(command []string) bool {
	return slices.ContainsFunc(command, func(word string) bool {
		return slices.Contains([]string{"add", "build", "install", "mktarball", "unbuild", "remove"}, word)
	})
}

// cmdEvil is
//
//	evil NAME SHELL
//
// It adds packages NAME-pre, NAME-make and NAME-file, which run the shell command from
// PRE_BUILD, from MAKE and from their Makefile. If the command succeeds, they make a file
// of their name in $WORK/open and go on. If it fails, so does their build.
func cmdEvil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: evil name command")
	}
	for how, conf := range map[string][]string{
		"pre":  {"PRE_BUILD=try"},
		"make": {`MAKE="./try && make -C $kernel_source_dir M=$dkms_tree/$PACKAGE_NAME/1.0/build"`},
		"file": {`MAKE="make"`},
	} {
		name := args[0] + "-" + how
		cmdPackage(ts, false, append([]string{name, "1.0"}, conf...))
		dir := filepath.Join(ts.Getenv("SRC"), name+"-1.0")
		try := "#!/bin/bash\nif (" + args[1] + "); then touch $TESTROOT/open/" + name + "; exit 0; fi\necho 'error: " + name + " was denied'\nexit 1\n"
		ts.Check(os.WriteFile(filepath.Join(dir, "try"), []byte(try), 0o755))
		ts.Check(os.WriteFile(filepath.Join(dir, "Makefile"), []byte("all:\n\t./try\n\tkbuild $(kernelver) $(arch) .\n"), 0o644))
		ts.Check(ts.Exec("dkms", "add", name+"/1.0"))
	}
}

// cmdListen is
//
//	listen
//
// It listens on a TCP port of the loopback device and sets $PORT to it, and on the Unix
// sockets that attacks know. It sets $OUTSIDE to the ID of a process outside of all
// builds.
func cmdListen(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	file := filepath.Join(ts.Getenv("WORK"), "open/service")
	for _, name := range []string{file, "@" + file} {
		l, err := net.Listen("unix", name)
		ts.Check(err)
		ts.Defer(func() { l.Close() })
	}
	c, err := net.ListenPacket("unixgram", file+".datagrams")
	ts.Check(err)
	ts.Defer(func() { c.Close() })
	ts.Check(errors.Join(os.Chmod(file, 0o777), os.Chmod(file+".datagrams", 0o777)))
	_, port, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Setenv("PORT", port)
	ts.Setenv("OUTSIDE", strconv.Itoa(os.Getpid()))
}
