// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/lazy"
)

//go:embed driver.bash
var driver string

const (
	// maxNoise bounds what is kept of what a file prints to standard error, in
	// bytes. The rest is read and dropped.
	maxNoise = 16 << 10
	// maxResult bounds what files may set in one evaluation, in bytes.
	maxResult = 8 << 20
)

// DefaultTimeout is how long one evaluation may take if Timeout is 0.
const DefaultTimeout = 30 * time.Second

// A Shell evaluates shell files in one bash process, which starts with the
// first evaluation. The next evaluation starts another one if a file killed it.
// Close it. Several goroutines may use it: they take turns.
type Shell struct {
	// Timeout bounds one evaluation; 0 means DefaultTimeout.
	Timeout time.Duration
	// Environ is the environment of bash, NAME=VALUE.
	Environ []string
	// Run runs bash to its end, or until the context is done; nil means [child.Run].
	Run func(context.Context, *exec.Cmd) error

	mu     sync.Mutex // held for a whole evaluation; guards the fields below
	cancel func()     // ends bash; nil if it does not run
	ended  chan error // gets what Run returns
	stdin  *os.File
	out    *os.File
	read   *bufio.Reader
	nonce  string // begins each message of driver.bash
}

// request is one evaluation: assignments of the form NAME=VALUE to make before and
// after the files are sourced, the names of the variables that are wanted, and those of
// variables that files find, but not exported.
type request struct {
	before, files, after, names, unexport []string
}

// exported is the only name of a request that wants all variables that are exported.
const exported = "*"

// values are the values of variables by name, then by array index. A scalar has
// index 0. What driver.bash says of a pattern is under "matches NAME", and the first line
// that the files printed under [printed].
type values map[string]map[int]string

// printed is no name of a variable.
const printed = "it printed"

// get returns the value of name at index 0.
func (v values) get(name string) string { return v[name][0] }

// eval sources the files of r in order. The error says what is wrong with them, in
// the words of bash if it has any.
func (s *Shell) eval(r request) (values, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel == nil {
		if err := s.start(); err != nil {
			return nil, fmt.Errorf("cannot run bash, which reads configuration files: %w", err)
		}
	}
	v, err := s.ask(r)
	var dead deadShell
	if errors.As(err, &dead) {
		s.cancel()
		if why := s.stop(); why != nil {
			err = why
		}
	}
	return v, err
}

// ErrUnreadable is the error if bash may not read a file.
var ErrUnreadable = errors.New("it cannot be read")

// deadShell is the error if bash cannot be asked again.
type deadShell struct{ error }

// start starts bash with driver.bash. The caller holds the lock.
func (s *Shell) start() error {
	s.nonce = rand.Text()
	// -p: ignore functions and BASH_ENV in the environment.
	cmd := exec.Command("bash", "--norc", "--noprofile", "-p", "-s", s.nonce)
	if cmd.Err != nil {
		return cmd.Err
	}
	stdin, stdinW, err := os.Pipe()
	if err != nil {
		return err
	}
	out, outW, err := os.Pipe()
	if err != nil {
		stdin.Close()
		stdinW.Close()
		return err
	}
	cmd.Env = append(slices.Clip(s.Environ), "LC_MESSAGES=C")
	cmd.Dir, cmd.Stdin, cmd.ExtraFiles = "/", stdin, []*os.File{outW}
	run := s.Run
	if run == nil {
		run = child.Run
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, cmd)
		// Whoever reads what bash says waits until nobody can say anything.
		stdin.Close()
		outW.Close()
	}()
	s.cancel, s.ended, s.stdin, s.out, s.read = cancel, ended, stdinW, out, bufio.NewReader(out)
	_, err = io.WriteString(s.stdin, driver)
	return err
}

// Close ends the bash process, if there is one. It waits for an evaluation that
// runs.
func (s *Shell) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

// stopping is how long bash may take to end by itself when nothing is left to do.
const stopping = time.Second

// stop ends bash, if it runs, and returns why it could not run. The caller holds the
// lock.
func (s *Shell) stop() error {
	if s.cancel == nil {
		return nil
	}
	s.stdin.Close()
	timer := time.AfterFunc(stopping, s.cancel)
	err := <-s.ended
	timer.Stop()
	s.cancel()
	s.cancel = nil
	s.out.Close()
	var exit *exec.ExitError
	if errors.As(err, &exit) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// ask sends r to bash and returns its answer.
func (s *Shell) ask(r request) (values, error) {
	text, err := r.encode()
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(s.stdin, text); err != nil {
		return nil, deadShell{fmt.Errorf("bash went away: %w", err)}
	}
	timeout := cmp.Or(s.Timeout, DefaultTimeout)
	s.out.SetReadDeadline(time.Now().Add(timeout))
	defer s.out.SetReadDeadline(time.Time{})
	return s.answer(timeout)
}

// encode returns r as driver.bash reads it.
func (r request) encode() (string, error) {
	var b strings.Builder
	for _, list := range [][]string{r.before, r.files, r.after, r.names, r.unexport} {
		fmt.Fprintf(&b, "%d\x00", len(list))
		for _, item := range list {
			if strings.ContainsRune(item, 0) {
				return "", fmt.Errorf("%q contains a NUL byte", item)
			}
			b.WriteString(item + "\x00")
		}
	}
	return b.String(), nil
}

// answer reads what driver.bash says about a request: a "set" message, unless the
// files ended bash, and an "end" message. Between them is what the files print.
// Reads fail timeout after the request.
func (s *Shell) answer(timeout time.Duration) (values, error) {
	var noise []byte
	var result values
	var wrong error
	for {
		m, err := s.message(&noise)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, deadShell{fmt.Errorf("it did not end within %v", timeout)}
		case errors.Is(err, errTooMuch):
			return nil, deadShell{err}
		case err != nil:
			return nil, deadShell{fmt.Errorf("bash went away while reading it (%w)%s", err, lastLine(noise))}
		case m.kind == "set":
			result = m.values
			if m.status == "125" {
				wrong = fmt.Errorf("%w%s", ErrUnreadable, lastLine(noise))
			} else if m.status != "0" {
				wrong = fmt.Errorf("it is not a text file%s", lastLine(noise))
			}
		case m.kind == "end":
			if wrong == nil && syntaxError().Match(noise) {
				wrong = errors.New(string(syntaxError().Find(noise)))
			} else if wrong == nil && result == nil {
				wrong = fmt.Errorf("it ended bash itself (exit status %s)%s", m.status, lastLine(noise))
			}
			if wrong != nil {
				return nil, wrong
			}
			first, _, _ := strings.Cut(strings.TrimSpace(string(noise)), "\n")
			result[printed] = map[int]string{0: first[:min(len(first), 300)]}
			return result, nil
		}
	}
}

// message is one message of driver.bash.
type message struct {
	kind, status string
	values       values // of a "set" message
}

// message reads up to the end of the next message. It adds what comes before it to
// noise, as far as there is room.
func (s *Shell) message(noise *[]byte) (m message, err error) {
	for {
		field, err := s.field(maxNoise)
		if field == s.nonce {
			break
		}
		*noise = append(*noise, field...)
		*noise = (*noise)[:min(len(*noise), maxNoise)]
		if err != nil && err != errTooMuch {
			return m, err
		}
	}
	if m.kind, err = s.field(maxResult); err != nil {
		return m, err
	}
	if m.status, err = s.field(maxResult); err != nil {
		return m, err
	}
	if m.kind == "set" {
		m.values, err = s.result()
	}
	return m, err
}

// result reads the values of a "set" message, up to the empty name.
func (s *Shell) result() (values, error) {
	v := values{}
	room := maxResult
	for {
		name, err := s.field(room)
		if err != nil || name == "" {
			return v, err
		}
		index, err := s.field(room)
		if err != nil {
			return nil, err
		}
		value, err := s.field(room)
		if err != nil {
			return nil, err
		}
		if room -= len(name) + len(index) + len(value); room <= 0 {
			return nil, errTooMuch
		}
		i, err := strconv.Atoi(index)
		if err != nil {
			continue // the key of an associative array
		}
		if v[name] == nil {
			v[name] = map[int]string{}
		}
		v[name][i] = withoutCR(value)
	}
}

// withoutCR removes what CR LF line ends leave in values, and in values that are made
// of others.
func withoutCR(value string) string { return strings.ReplaceAll(value, "\r", "") }

var errTooMuch = fmt.Errorf("it sets more than %d MiB", maxResult>>20)

// field reads up to the next NUL byte and returns what is before that. If it is
// more than limit bytes, field returns the first of them and errTooMuch.
func (s *Shell) field(limit int) (string, error) {
	var b []byte
	for {
		part, err := s.read.ReadSlice(0)
		if len(b) <= limit+1 {
			b = append(b, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return string(b[:min(len(b), limit)]), err
		case len(b) > limit+1:
			return string(b[:limit]), errTooMuch
		}
		return string(b[:len(b)-1]), nil
	}
}

// syntaxError matches what bash prints about a file that it cannot parse.
var syntaxError = lazy.Regexp(`(?m)^.*: line \d+: (?:syntax error|unexpected EOF).*$`)

// lastLine returns the last line of noise, to be appended to a message.
func lastLine(noise []byte) string {
	lines := strings.Split(strings.TrimSpace(string(noise)), "\n")
	last := strings.ToValidUTF8(lines[len(lines)-1], "?")
	if last == "" {
		return ""
	}
	return ": " + last[:min(len(last), 300)]
}
