// SPDX-License-Identifier: GPL-2.0-or-later

// Command dkms-kernel-install builds, signs, compresses and installs the kernel
// modules of registered packages. It has three faces, and the name that it is called
// by chooses one:
//
//	40-dkms.install       (any *.install) a plugin of kernel-install(8)
//	dkms                  the classic command
//	dkms-kernel-install   commands for people and programs (any other name)
package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/packages"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/root"
	"dkms-kernel-install/internal/sandbox"
)

// version is set by the linker: see the Makefile.
var version = "devel"

// program is what the faces have in common.
type program struct {
	machine        machine.Options // its root, Elsewhere, Args, Toolchain, timeouts, SignPIN and Passed are those of every face
	stdout, stderr io.Writer
	raw            io.Writer        // stdout as it is: a terminal is asked for its width
	attended       bool             // stdout or stderr is a terminal
	progress       *report.Progress // on stdout; nil if that is none, or not for people alone
}

// open opens the machine that a face works on. Events hears of its runs.
func (p *program) open(o machine.Options, events engine.Events) (*engine.Engine, error) {
	o.Root, o.Elsewhere, o.Args, o.Again = p.machine.Root, p.machine.Elsewhere, p.machine.Args, p.machine.Again
	o.ConfTimeout, o.WeakTimeout = p.machine.ConfTimeout, p.machine.WeakTimeout
	o.SignTimeout, o.TellTimeout = p.machine.SignTimeout, p.machine.TellTimeout
	o.SignPIN, o.Passed, o.Attended = p.machine.SignPIN, p.machine.Passed, p.attended
	return engine.Open(o, events)
}

// in runs the program with args in the root file system that begins at dir, and returns
// its exit status.
func (p *program) in(dir string, args ...string) (status int, err error) {
	var env []string
	if p.machine.SignPIN != "" {
		env = []string{conf.SignPIN + "=" + p.machine.SignPIN}
	}
	return root.Root{Dir: dir}.Run(args, env)
}

// terminal reports whether w is one.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// screen returns the width of the terminal w, and whether text on it is to be colored:
// see no-color.org.
func screen(w io.Writer) (width int, color bool) {
	width, _ = size(w)
	return width, os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// size returns the size of the terminal w; that of most if it does not say.
func size(w io.Writer) (columns, rows int) {
	var size unix.Winsize
	if f, ok := w.(*os.File); ok {
		if known, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			size = *known
		}
	}
	return cmp.Or(int(size.Col), 80), cmp.Or(int(size.Row), 24)
}

// newProgress returns what shows the progress of a run on w; nil if that is no terminal, one
// that cannot erase, or a package manager's, which has a progress of its own.
func newProgress(w io.Writer) *report.Progress {
	term := os.Getenv("TERM")
	if !terminal(w) || term == "" || term == "dumb" || packages.InPackageManager() {
		return nil
	}
	fd := int(w.(*os.File).Fd())
	return report.NewProgress(w, func() (columns, rows int) {
		if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil && group != unix.Getpgrp() {
			return 0, 0 // in the background
		}
		return size(w)
	})
}

func main() {
	sandbox.Main()
	root.Main()
	tune()
	os.Setenv("PATH", path(os.Getenv("PATH")))
	p := program{stdout: os.Stdout, stderr: os.Stderr}
	os.Exit(p.main(os.Args))
}

// tune sets up the garbage collector.
func tune() {
	// Compression makes much garbage. Collecting it early costs little next to
	// the compilers that run at the same time.
	debug.SetMemoryLimit(32 << 20)
	// Below that limit, short runs need no collection at all.
	debug.SetGCPercent(400)
}

// path returns the search path value with the system's directories that it lacks at the
// end: callers such as package managers and su leave out those that depmod is in.
func path(value string) string {
	dirs := filepath.SplitList(value)
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return strings.Join(dirs, string(filepath.ListSeparator))
}

// errSignal is the cause of a context that a signal ends.
var errSignal = errors.New("interrupted by a signal")

// main runs the face that args[0] asks for and returns the exit status.
func (p *program) main(args []string) int {
	// All that is printed goes through these. No text of a package gets around them.
	p.raw, p.attended = p.stdout, terminal(p.stdout) || terminal(p.stderr)
	p.progress = newProgress(p.stdout)
	if terminal(p.stderr) {
		p.stderr = p.progress.Above(p.stderr)
	}
	p.stdout, p.stderr = report.Clean(p.progress.Above(p.stdout)), report.Clean(p.stderr)
	// The modes of the files that are made do not depend on the caller's umask.
	syscall.Umask(0o022)
	// What the caller has open is not for what a package brings.
	child.CloseInherited()
	// The pass phrase is for what signs, and for no other program that runs.
	p.machine.SignPIN = os.Getenv(conf.SignPIN)
	os.Unsetenv(conf.SignPIN)
	p.machine.Args = args
	p.machine.Elsewhere, p.machine.Again = root.Entered()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	// Who reads the output may go away. The work is done all the same. It is not ignored:
	// what this process runs would inherit that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		<-signals
		cancel(errSignal)
		// A second signal kills this process. The kernel then kills its children.
		signal.Reset()
	}()

	switch name := filepath.Base(args[0]); {
	case strings.HasSuffix(name, ".install"):
		return p.plugin(ctx, name, args[1:])
	case name == "dkms":
		return p.dkms(ctx, args[1:])
	default:
		return p.native(ctx, args[1:])
	}
}
