// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/lazy"
)

// causes match the lines that explain a failed build, the most telling kind first.
var causes = []func() *regexp.Regexp{
	lazy.Regexp(`: (fatal )?error: `),
	lazy.Regexp(`^ERROR: modpost: `),
	lazy.Regexp(`(?i)\b(undefined reference|undefined symbol)`),
	lazy.Regexp(`No space left on device|Killed|out of memory|Cannot allocate memory`),
	lazy.Regexp(`: (command )?not found$|: Permission denied$|: No such file or directory$`),
	lazy.Regexp(`(?i)^(configure: )?error\b`),
	lazy.Regexp(`(?i)\berror:`),
	lazy.Regexp(`^make(\[\d+\])?: \*\*\* .*No rule to make target`),
	lazy.Regexp(`\*\*\*`),
}

// passing are words of a log that tell of a trouble which may be gone the next time.
// They are no regular expression: one of so many takes a second for a few megabytes.
var passing = []string{
	"No space left on device", "Killed", "killed", "out of memory", "memory exhausted", "Cannot allocate memory",
	"Resource temporarily unavailable", "Too many open files", "Disk quota", "disk quota", "Input/output error", "Read-only file system",
	"Permission denied", "Operation not permitted", "Text file busy", "Stale file handle", "Timed out", "timed out", "Temporary failure",
	"Could not resolve", "Connection refused", "Network is unreachable", "internal compiler error", "Segmentation fault", "Bus error",
	"Terminated", "Interrupt",
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
		missing := bytes.HasSuffix(line, []byte(": not found")) || bytes.HasSuffix(line, []byte(": command not found"))
		if missing || bytes.HasSuffix(line, []byte(": No such file or directory")) && makes().Match(line) {
			return false
		}
	}
	return true
}

// makes matches what make says, and not a compiler.
var makes = lazy.Regexp(`^make(\[\d+\])?: `)

// decisive returns the line of a log that tells why it ends in a failure: the
// first of the most telling kind, else the last line of all.
func decisive(log io.Reader) string {
	best, rank, last := "", len(causes), ""
	r := bufio.NewReader(log)
	for {
		// A line longer than the buffer comes in parts.
		part, _, err := r.ReadLine()
		if err != nil {
			break
		}
		line := strings.ToValidUTF8(string(bytes.TrimSpace(part)), "?")
		if line == "" || strings.HasPrefix(line, "# ") {
			continue
		}
		last = line
		for i, re := range causes[:rank] {
			if re().MatchString(line) {
				best, rank = line, i
				break
			}
		}
	}
	if best == "" {
		best = last
	}
	if len(best) > 300 {
		best = strings.ToValidUTF8(best[:300], "") + "…"
	}
	return best
}

var notFound = lazy.Regexp(`(?:^|[\s/])([\w.+-]+): (?:command )?not found$`)

// hint says what to do about the cause that a log line shows, if it is known.
func hint(line string) string {
	switch m := notFound().FindStringSubmatch(line); {
	case m != nil:
		return "install the program " + m[1]
	case strings.Contains(line, "No space left on device"):
		return "make room on the file system, then run it again"
	case strings.Contains(line, "out of memory"), strings.Contains(line, "Cannot allocate memory"), strings.Contains(line, "Killed"):
		return "the build ran out of memory: run it again with fewer jobs (parallel_jobs in framework.conf)"
	case strings.Contains(line, "Bad system call"):
		return "it may run a program of another ABI, such as one of 32 bits, which only a build without a sandbox can (build_sandbox in framework.conf)"
	}
	return ""
}
