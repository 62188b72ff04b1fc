// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/lazy"
)

// A cause is a kind of line in a log that explains a failed build.
type cause struct {
	word string                // what such a line has; searched for first, as it costs least
	line func() *regexp.Regexp // what it matches as well; nil for anything
	// hint says what to do, with $1 for what the first group of line matches. It is ""
	// where only who knows the package can tell.
	hint string
}

const (
	badHeaders    = "the kernel's headers are not whole, or are made for another system: install them again; in a kernel's source, run: make modules_prepare"
	otherCompiler = "the kernel was built with another compiler: install that one, which CONFIG_CC_VERSION_TEXT in the kernel's configuration names"
	fewerJobs     = "the build ran out of memory: run it again with fewer jobs (parallel_jobs in framework.conf)"
	noNetwork     = "builds have a network only where build_sandbox in framework.conf says so, as NAME=network"
	noInterpreter = "$1 is missing, or the program that its first line names; a carriage return at the end of that line counts"
	dosLines      = "a carriage return ends the lines of a script: get the source with the line ends of Unix, such as by dos2unix"
	noModule      = "it builds the kernel, and not a module: M= has to name the module's directory; SUBDIRS= does that no more since Linux 5.4"
)

// notFound is what a shell says of a program that is not there.
var notFound = cause{"not found", lazy.Regexp(`(?:^|\s|bin/)(\w[\w.+-]*): (?:command )?not found$`), "install the program $1"}

// causes are in the order of how telling they are. Faults of the machine come first:
// much else fails by them.
var causes = []cause{
	{"No space left on device", nil, "make room on the file system, then run it again"},
	{"isk quota exceeded", nil, "make room on the file system, then run it again"},
	{"memory", lazy.Regexp(`out of memory|memory exhausted|Cannot allocate memory`), fewerJobs},
	{"Killed", lazy.Regexp(`\bKilled\b`), fewerJobs},
	{"Too many open files", nil, "allow more of them (ulimit -n), or run it again with fewer jobs (parallel_jobs in framework.conf)"},
	{"resolve", lazy.Regexp(`(?:Could not|unable to) resolve host`), noNetwork},
	{"Bad system call", nil, "it may run a program of another ABI, such as one of 32 bits, which only a build without a sandbox can (build_sandbox in framework.conf)"},
	{"GPL-only symbol", lazy.Regexp(`modpost: GPL-incompatible module (\S+) uses GPL-only symbol '?([^' ]+)`),
		"$1 is not under the GPL, and this kernel has $2 for modules that are: use a newer version of the package, or another kernel"},
	{"/", lazy.Regexp(`(?:tools/objtool/objtool|resolve_btfids|scripts/(?:recordmcount|(?:basic|mod|genksyms)/\w+))'?: .*(?:not found|denied|No such file|cannot|format error|error while loading|Syntax error)`), badHeaders},
	{"required by", lazy.Regexp(`\(required by \S*(?:tools|scripts)/`), badHeaders},
	{"No rule to make target", lazy.Regexp(`No rule to make target '[^']*(?:objtool|fixdep|modpost|resolve_btfids|scripts/module\.lds)'`), badHeaders},
	{"onfiguration is invalid", lazy.Regexp(`[Kk]ernel configuration is invalid`), badHeaders},
	{"fatal error: generated/", nil, badHeaders},
	{"The Module.symvers file is missing", nil, badHeaders},
	{"can't open arch/", nil, badHeaders},
	{"arch/", lazy.Regexp(`(?:^|[\s'])(?:/\S*/)?arch/[^/\s]*/Makefile(?:: No such file|')`),
		"the build gives the kernel an ARCH that it does not know: to kernels, aarch64 is arm64, and armv7l is arm; without ARCH, kbuild finds out"},
	{"needed by 'arch/", lazy.Regexp(`No rule to make target 'arch/`), noModule},
	{"an't open ", lazy.Regexp(`Kconfig:\d+: can't open file|Can't open \S*/scripts/mkmakefile`), noModule},
	{"tools/build/Build.include", nil, noModule},
	{"exec", lazy.Regexp(`(?:error trying to exec|cannot execute) '([^']+)'`), "$1, which the compiler starts, is missing: install the compiler and the assembler again"},
	{"please install libelf", nil, "install the headers of libelf"},
	{"Failed CC version check", nil, otherCompiler},
	{"Failed PREEMPT_RT sanity check", nil, "the package refuses kernels with PREEMPT_RT: use another kernel"},
	{"cannot load plugin", lazy.Regexp(`cannot load plugin \S*scripts/gcc-plugins/`), badHeaders},
	{"incompatible gcc/plugin versions", nil, otherCompiler},
	{"unrecognized command", lazy.Regexp(`error: unrecognized command[- ]line option '-[fm]`), otherCompiler},
	{"unknown argument", lazy.Regexp(`error: unknown argument:? '-[fm]`), otherCompiler},
	{"can't find crate", nil, "the headers lack the crates of the kernel's Rust code, or rustc is not the version that they were made with: install both"},
	{"incompatible version of rustc", nil, "the crates of the kernel's Rust code were made with another version of rustc: install that one, which CONFIG_RUSTC_VERSION_TEXT in the kernel's configuration names"},
	{"elf.h", lazy.Regexp(`fatal error: (?:libelf|gelf)\.h`), "install the headers of libelf"},
	{"C compiler", lazy.Regexp(`configure: error: .*(?:no acceptable C compiler|cannot create executables)`), "install a C compiler, and the headers of the C library"},
	{"cannot run C compiled", nil, "what the compiler makes cannot be run here: see whether the file system of the builds is mounted noexec (findmnt)"},
	{": ", lazy.Regexp(`: (?:fatal )?error: `), ""},
	{"parse error in symbol dump file", nil, "a Module.symvers is of another version of Linux: install the headers again; if the package brings or makes one, use a newer version of it"},
	{"ERROR: modpost: ", lazy.Regexp(`^ERROR: modpost: `), ""},
	{"ndefined ", lazy.Regexp(`(?i)\bundefined (?:reference|symbol)`), ""},
	{"configure: error:", nil, ""},
	{"fatal: ", lazy.Regexp(`^fatal: `), ""},
	{"Read-only file system", nil, "it writes outside of the build directory: if it installs, name a target that only builds in MAKE of dkms.conf; what it has to write, build_sandbox in framework.conf allows"},
	{"command not found", lazy.Regexp(`line \d+: (\w\S*) .*: command not found$`), "MAKE in dkms.conf quotes $1 and its arguments as one word: end the inner quotes after $1"},
	{"command not found", lazy.Regexp(`line \d+: (-\S+): command not found$`), "MAKE in dkms.conf has no program before $1"},
	{"\\r': ", lazy.Regexp(`\\r': (?:command not found|No such file or directory)$`), dosLines},
	{"\r: not found", nil, dosLines},
	{"not found", lazy.Regexp(`(?:^|\s)(\S*/\S+): (?:cannot execute: required file )?not found$`), noInterpreter},
	{"bad interpreter", lazy.Regexp(`(\S+): \S+: bad interpreter`), noInterpreter},
	{"No such file or directory", lazy.Regexp(`^make(?:\[\d+\])?: (\.\S*/\S+): No such file or directory$`), noInterpreter},
	notFound,
	{"No such file or directory", lazy.Regexp(`^(?:make(?:\[\d+\])?|\S*env): '?(\w[\w.+-]*)'?: No such file or directory$`), "install the program $1"},
	{"Makefile.build", lazy.Regexp(`Makefile\.build:\d+: \S+/(?:Kbuild|Makefile): No such file`), "there is no Kbuild or Makefile where M= leads: correct MAKE in dkms.conf"},
	{"Permission denied", lazy.Regexp(`([^\s:]+): Permission denied`),
		"everybody has to be able to read $1, and to run it if it is a program; if that is so, see whether its file system is mounted noexec: findmnt"},
	{"tmp/", lazy.Regexp(`(/(?:var/)?tmp/[^\s:]+): No such file or directory$`),
		"a build has a /tmp of its own: put $1 elsewhere, such as into /usr/local/bin"},
	{"No such file or directory", lazy.Regexp(`: No such file or directory$`), ""},
	{"rror", lazy.Regexp(`(?i)^error\b|\berror:`), ""},
	{"No rule to make target", lazy.Regexp(`^make(?:\[\d+\])?: \*\*\* `), ""},
	{"no makefile found", nil, ""},
	{"specified external module directory", nil, "there is no such directory as M= leads to: correct MAKE in dkms.conf"},
	{"Error 126", lazy.Regexp(`\*\*\* .* Error 126$`), "a program that it runs is not executable, or is for another machine"},
	{"***", nil, ""},
}

// matches reports whether line is of kind c.
func (c cause) matches(line string) bool {
	return strings.Contains(line, c.word) && (c.line == nil || c.line().MatchString(line))
}

// advice returns what to do about line, which is of kind c.
func (c cause) advice(line string) string {
	if c.line == nil {
		return c.hint
	}
	return string(c.line().ExpandString(nil, c.hint, line, c.line().FindStringSubmatchIndex(line)))
}

// passing are words of a log that tell of a trouble which may be gone the next time.
// They are no regular expression: one of so many takes a second for a few megabytes.
var passing = []string{
	"No space left on device", "Killed", "killed", "out of memory", "memory exhausted", "Cannot allocate memory",
	"Resource temporarily unavailable", "Too many open files", "Disk quota", "disk quota", "Input/output error", "Read-only file system",
	"Permission denied", "Operation not permitted", "Text file busy", "Stale file handle", "Timed out", "timed out", "Temporary failure",
	"Could not resolve", "Connection refused", "Network is unreachable", "internal compiler error", "Segmentation fault", "Bus error",
	"Terminated", "Interrupt", "bad interpreter", "no acceptable C compiler", "C compiler cannot create", "cannot run C compiled",
}

// endSize is how many bytes are read of each end of what a command printed: that may be
// as much as the log may have, and to search it would take long.
const endSize = 1 << 20

// excerpt returns what a log has from start to end. If that is more than both ends, it
// returns these as lines of their own, and whole is false.
func excerpt(log io.ReaderAt, start, end int64) (text []byte, whole bool, err error) {
	if end-start <= 2*endSize {
		text, err = codec.ReadRange(log, end, start, end-start)
		return text, true, err
	}
	head, err := codec.ReadRange(log, end, start, endSize)
	if err != nil {
		return nil, false, err
	}
	tail, err := codec.ReadRange(log, end, end-endSize, endSize)
	// Its first line has lost its beginning.
	if i := bytes.IndexByte(tail, '\n'); i >= 0 {
		tail = tail[i:]
	}
	return append(head, tail...), false, err
}

// lasting reports whether a command that ended with err and printed log will fail again
// while nothing changes: it ended by itself, and nothing in the log is about the state of
// the machine. In doubt it reports false.
func lasting(err error, log []byte) bool {
	var exit *exec.ExitError
	// Of a shell, 126 and 127 are for a command that cannot be run, and more for
	// signals.
	if !errors.As(err, &exit) || exit.ExitCode() <= 0 || exit.ExitCode() >= 126 {
		return false
	}
	if slices.ContainsFunc(passing, func(p string) bool { return bytes.Contains(log, []byte(p)) }) {
		return false
	}
	for line := range bytes.Lines(log) {
		line = bytes.TrimSpace(line)
		missing := slices.ContainsFunc(absent, func(a string) bool { return bytes.HasSuffix(line, []byte(a)) })
		if missing || bytes.HasSuffix(line, []byte(": No such file or directory")) && makes().Match(line) {
			return false
		}
	}
	return true
}

// absent are ends of lines that tell of a program which is not there.
var absent = []string{": not found", ": command not found", ": required file not found"}

// makes matches what make and env say, and not a compiler.
var makes = lazy.Regexp(`^(?:make(?:\[\d+\])?|\S*env): `)

// fails matches what make says of a command that failed, and not why.
var fails = lazy.Regexp(`^make(?:\[\d+\])?: \*\*\* \[`)

// progress matches what make and kbuild say of what they do, and not how it went.
var progress = lazy.Regexp(`^make(?:\[\d+\])?: |^[A-Z]+ +(?:\[M\] +)?\S+$|recipe for target`)

// decisive returns the line of a log that tells why it ends in a failure: the first of the
// most telling kind, else the last line that a command printed before make said that it
// failed, else the last line of all. Hint says what to do about it, if that is known.
func decisive(log io.Reader) (why, hint string) {
	rank, open := len(causes), false
	var last, said, failed, missing string
	r := bufio.NewReader(log)
	for {
		// A line longer than the buffer comes in parts.
		part, _, err := r.ReadLine()
		if err != nil {
			break
		}
		line := strings.ToValidUTF8(string(bytes.TrimSpace(part)), "?")
		// Make shows a command before it runs, which may be one that prints an error.
		if line == "" || strings.HasPrefix(line, "# ") || strings.HasPrefix(line, "echo ") || strings.Contains(line, inDir) {
			continue
		}
		last = line
		if open {
			why += " " + line
		}
		i := slices.IndexFunc(causes[:rank], func(c cause) bool { return c.matches(line) })
		if i >= 0 {
			why, rank = line, i
		}
		// What configure has to say may begin in the next line.
		open = i >= 0 && strings.HasSuffix(line, "error:")
		if missing == "" && notFound.matches(line) {
			missing = notFound.advice(line)
		}
		switch {
		case failed != "":
		case fails().MatchString(line):
			failed = said
		case !progress().MatchString(line):
			said = line
		}
	}
	if rank == len(causes) {
		why = last
	} else {
		hint = causes[rank].advice(why)
	}
	if fails().MatchString(why) {
		why = cmp.Or(failed, why)
	}
	if hint == "" && missing != "" {
		hint = missing + ", which the build did not find; if that does not help, look into the log"
	}
	if len(why) > maxWhy {
		why = strings.ToValidUTF8(why[:maxWhy], "") + "…"
	}
	return why, hint
}

// inDir is what configure says before an error, of where it runs.
const inDir = "configure: error: in "

// maxWhy is how many bytes decisive returns of a line.
const maxWhy = 300
