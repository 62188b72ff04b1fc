// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/testskip"
)

func TestMain(m *testing.M) {
	Main()
	if run, ok := commands[os.Args[0]]; ok {
		n, err := strconv.Atoi(os.Args[1])
		if err := errors.Join(err, run(n)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// commands are what the test does as a command of a world, by the name that it is
// called by. Its argument is a number.
var commands = map[string]func(n int) error{"threads": manyThreads}

// world returns a world with a build directory at DIR/tree/M/V/build, and where that
// really is.
func world(t *testing.T) (w *World, build string) {
	t.Helper()
	top, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for p := top; p != "/tmp" && p != "/"; p = filepath.Dir(p) {
		if err := os.Chmod(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	u, err := LookupUser("nobody")
	if err != nil || os.Geteuid() != 0 {
		u = nil
	}
	w = &World{Features: Probe(u), User: u, Over: filepath.Join(top, "tree/M/V"), Keep: []string{"source", "kept", "gone"}, Processes: 200, Usage: top, Show: []string{top}}
	if !w.Features.Drop {
		w.User = nil
	}
	build = filepath.Join(w.Over, "build")
	from := filepath.Join(top, "staging")
	if !w.Features.Mounts {
		from = build
	}
	for _, dir := range []string{from, w.Over + "/kept", w.Over + "/other", top + "/secret"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for file, text := range map[string]string{w.Over + "/kept/file": "kept", top + "/secret/key": "secret", top + "/mok.key": "secret"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/nowhere", w.Over+"/source"); err != nil {
		t.Fatal(err)
	}
	if w.User != nil {
		if err := os.Chown(from, w.User.UID, w.User.GID); err != nil {
			t.Fatal(err)
		}
	}
	w.Writable = []Bind{{from, build}}
	w.Hide = []string{top + "/secret", top + "/mok.key", top + "/none"}
	t.Setenv("TOP", top)
	return w, from
}

func run(t *testing.T, w *World, script string) (string, error) {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command("bash", "-c", script)
	cmd.Dir = w.Writable[0].To
	cmd.Stdout = out
	cmd.ExtraFiles = []*os.File{out}
	err = w.Run(t.Context(), cmd)
	text, errRead := os.ReadFile(out.Name())
	if errRead != nil {
		t.Fatal(errRead)
	}
	return string(text), err
}

func TestRun(t *testing.T) {
	w, build := world(t)
	t.Logf("%+v", w.Features)
	out, err := run(t, w, `pwd; echo made >file; cat ../kept/file; readlink ../source; echo err >/dev/stderr; echo three >&3; cat $TOP/secret/key $TOP/mok.key; exit 3`)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("exit: %v", err)
	}
	if !w.Features.Mounts {
		testskip.For(t, "no mount namespaces here")
	}
	for _, want := range []string{w.Writable[0].To + "\n", "kept", "/nowhere\n", "err\n", "three\n", "key: No such file"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	if strings.Contains(out, "secret\n") {
		t.Errorf("a secret was read: %s", out)
	}
	if b, _ := os.ReadFile(filepath.Join(build, "file")); string(b) != "made\n" {
		t.Errorf("file: %q", b)
	}
	if out, _ := run(t, w, `kill -9 $$`); out != "" {
		t.Errorf("%s", out)
	}
	if _, err := run(t, w, `kill -9 $$`); !errors.As(err, &exit) || exit.ExitCode() != 137 {
		t.Errorf("killed: %v", err)
	}
}

// TestDenied tries what a command may not do. Each script must fail, and change nothing.
func TestDenied(t *testing.T) {
	w, build := world(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	victim := exec.Command("sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	defer victim.Wait()
	defer victim.Process.Kill()
	key, err := os.Open(os.Getenv("TOP") + "/secret/key")
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	inherited, err := unix.FcntlInt(key.Fd(), unix.F_DUPFD, 100) // as if our caller had it open
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	t.Setenv("INHERITED", strconv.Itoa(inherited))
	t.Setenv("PORT", port)
	t.Setenv("VICTIM", strconv.Itoa(victim.Process.Pid))
	session, err := unix.Getsid(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SESSION", strconv.Itoa(session))
	f := w.Features
	for what, p := range map[string]struct {
		possible bool // possible reports whether this machine can deny it.
		script   string
	}{
		"write beside":       {f.Mounts || f.Drop || f.Landlock > 0, `echo x >$TOP/evil`},
		"write over":         {f.Mounts || f.Drop || f.Landlock > 0, `echo x >../kept/file`},
		"write into etc":     {f.Mounts || f.Drop || f.Landlock > 0, `echo x >/etc/evil`},
		"write into usr":     {f.Mounts || f.Drop || f.Landlock > 0, `echo x >/usr/evil`},
		"remove":             {f.Mounts || f.Drop || f.Landlock > 0, `rm ../kept/file`},
		"chmod":              {f.Mounts || f.Drop, `chmod 777 ../kept`},
		"shadow":             {f.Drop, `cat /etc/shadow`},
		"hidden":             {f.Mounts, `cat $TOP/secret/key || test -s $TOP/mok.key`},
		"inherited":          {true, `cat <&$INHERITED`},
		"loopback":           {f.Net || f.Landlock >= 4, `exec 4<>/dev/tcp/127.0.0.1/$PORT`},
		"kill":               {f.PID || f.Drop || f.Landlock >= 6, `kill -9 $VICTIM`},
		"mount":              {f.Drop || f.Mounts, `mount -t tmpfs none . || mount --bind /etc .`},
		"unmount":            {f.Drop || f.Mounts, `umount ../build || umount /proc`},
		"remount":            {f.Drop || f.Mounts, `mount -o remount,rw,bind /`},
		"mount in namespace": {f.Landlock > 0, `unshare -rm sh -c 'umount '$TOP'/secret || mount -o remount,bind,rw /'`},
		"mknod":              {f.Drop || f.UserNS, `mknod dev b 8 0`},
		"link out":           {f.Mounts || f.Landlock > 1, `ln ../kept/file linked`},
		"oom":                {true, `test "$(cat /proc/self/oom_score_adj)" != 1000`},
		// That has our terminal. A session outside of the PID namespace is 0.
		"our session":   {true, `session=$(cut -d' ' -f6 /proc/self/stat); test $session = 0 || test $session = $SESSION`},
		"core":          {true, `test "$(ulimit -c)" != 0`},
		"processes":     {f.Drop && f.UserNS, `for i in {1..300}; do sleep 5 & done`},
		"shared memory": {f.Net || f.Seccomp, `ipcmk -M 4096`},
		"sysctl":        {f.Drop || f.Mounts, `echo x >/proc/sys/kernel/core_pattern || echo x >/proc/sysrq-trigger`},
	} {
		t.Run(what, func(t *testing.T) {
			if !p.possible {
				testskip.For(t, "this machine cannot deny it")
			}
			if out, err := run(t, w, p.script); err == nil {
				t.Errorf("it was not denied: %s", out)
			}
		})
	}
	if err := victim.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the process outside: %v", err)
	}
	for _, file := range []string{"/etc/evil", "/usr/evil", filepath.Join(filepath.Dir(build), "evil")} {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is there", file)
			os.Remove(file)
		}
	}
}

func TestNothingStays(t *testing.T) {
	w, build := world(t)
	lock := filepath.Join(build, "lock")
	inside := filepath.Join(w.Writable[0].To, "lock")
	start := time.Now()
	out, err := run(t, w, `setsid sh -c 'exec 9>"$1"; flock 9; exec sleep 1000' sh `+inside+` & while ! test -e `+inside+`; do :; done`)
	if err != nil {
		t.Fatal(err, out)
	}
	if !strings.Contains(out, "left running") {
		t.Errorf("the output does not mention it: %q", out)
	}
	if err := exec.Command("flock", "-w", "10", lock, "true").Run(); err != nil {
		t.Errorf("the daemon still holds its lock after %v", time.Since(start))
	}
}

func TestCancelled(t *testing.T) {
	w, _ := world(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	time.AfterFunc(100*time.Millisecond, func() { cancel(cause) })
	var out bytes.Buffer
	cmd := exec.Command("sh", "-c", `trap '' INT TERM; sleep 1000; sleep 1000`)
	cmd.Stdout = &out
	if err := w.Run(ctx, cmd); !errors.Is(err, cause) {
		t.Errorf("Run = %v, want %v", err, cause)
	}
}

func TestOutput(t *testing.T) {
	w, _ := world(t)
	w.Output = 1 << 20
	var limit *LimitError
	if out, err := run(t, w, `yes`); !errors.As(err, &limit) || len(out) != 1<<20 {
		t.Errorf("%v, after %d bytes", err, len(out))
	}
}

// A user that a process runs as is not unused.
func TestUnusedUser(t *testing.T) {
	u, err := unusedUser()
	if err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() != 0 {
		testskip.For(t, "only root can run a process as another user")
	}
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	if other, err := unusedUser(); err != nil || *other == *u {
		t.Errorf("%v is unused again, %v", other, err)
	}
}

// TestPlantedLink checks that a link which a build has put into its /tmp does not lead
// out of that what is made there for what the next command is to see.
func TestPlantedLink(t *testing.T) {
	w, _ := world(t)
	victim, err := os.MkdirTemp("/dev/shm", "")
	if err != nil || !w.Features.Mounts {
		testskip.For(t, "no mount namespaces here, or no /dev/shm")
	}
	defer os.RemoveAll(victim)
	first, _, _ := strings.Cut(strings.TrimPrefix(os.Getenv("TOP"), "/tmp/"), "/")
	w.Tmp = t.TempDir()
	if err := os.Symlink(victim, filepath.Join(w.Tmp, first)); err != nil {
		t.Fatal(err)
	}
	var setup *SetupError
	if _, err := run(t, w, ":"); !errors.As(err, &setup) {
		t.Errorf("the world is made: %v", err)
	}
	if entries, err := os.ReadDir(victim); err != nil || len(entries) > 0 {
		t.Errorf("in the directory that the link leads to: %v, %v", entries, err)
	}
}

func TestNotFound(t *testing.T) {
	w, _ := world(t)
	if err := w.Run(t.Context(), exec.Command("nonexistent")); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("Run = %v, want not found", err)
	}
	w.Writable = append(w.Writable, Bind{"/nonexistent", "/nonexistent"})
	var s *SetupError
	if err := w.Run(t.Context(), exec.Command("true")); w.Features.Mounts && !errors.As(err, &s) {
		t.Errorf("Run = %v, want that it cannot be set up", err)
	}
}

// TestProcesses runs a fork bomb, which must end without harm to another build.
func TestProcesses(t *testing.T) {
	w, _ := world(t)
	if !w.Features.PID || !w.Features.Drop {
		testskip.For(t, "this machine cannot count them")
	}
	other := *w
	other.Tmp = t.TempDir()
	done := make(chan error)
	go func() {
		cmd := exec.Command("bash", "-c", "for i in {1..20}; do sleep 0.1; done")
		done <- other.Run(t.Context(), cmd)
	}()
	out, err := run(t, w, `bomb() { bomb | bomb & bomb | bomb & wait; }; bomb`)
	if err == nil {
		t.Errorf("nothing ended it: %s", out)
	}
	if err := <-done; err != nil {
		t.Errorf("another build: %v", err)
	}
}

// Threads count as processes do.
func TestThreads(t *testing.T) {
	w, _ := world(t)
	if !w.Features.PID {
		testskip.For(t, "this machine cannot count them")
	}
	self, err := os.ReadFile("/proc/self/exe")
	exe := filepath.Join(w.Usage, "threads") // others than root cannot reach ours
	if err := errors.Join(err, os.WriteFile(exe, self, 0o755)); err != nil {
		t.Fatal(err)
	}
	err = w.Run(t.Context(), &exec.Cmd{Path: exe, Args: []string{"threads", strconv.Itoa(w.Processes * 19 / 20)}})
	var limit *LimitError
	if !errors.As(err, &limit) || !strings.Contains(limit.What, "too many processes") {
		t.Errorf("%v", err)
	}
}

// manyThreads keeps n threads for ten seconds.
func manyThreads(n int) error {
	for range n {
		go func() {
			runtime.LockOSThread()
			select {}
		}()
	}
	time.Sleep(10 * time.Second)
	return nil
}
