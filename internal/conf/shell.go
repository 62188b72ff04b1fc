// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"bufio"
	"crypto/rand"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"dkms-kernel-install/internal/child"
)

//go:embed driver.bash
var driver string

const (
	// maxNoise bounds what is kept of the text that a file prints; the rest
	// is read and dropped.
	maxNoise = 16 << 10
	// maxResult bounds what a file may set, in bytes.
	maxResult = 8 << 20
)

// DefaultTimeout is how long one evaluation may take.
const DefaultTimeout = 30 * time.Second

// A Shell evaluates shell files in one bash process, which starts with the
// first evaluation and is replaced when a file has killed it. It must be
// closed, and is safe for use by several goroutines: they take turns.
type Shell struct {
	// Timeout bounds one evaluation; zero means DefaultTimeout.
	Timeout time.Duration

	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *os.File
	read  *bufio.Reader
	nonce string
}

// request is one evaluation: assignments in NAME=VALUE form made before the
// files are sourced and after, and the names whose values are wanted.
type request struct {
	before, files, after, names []string
}

// values holds what was set: by name, then by array index. A scalar stands at
// index 0.
type values map[string]map[int]string

// get returns the value of name at index 0.
func (v values) get(name string) string { return v[name][0] }

// eval sources the files of r in order. The error says what is wrong with them,
// in the words of bash where it has any.
func (s *Shell) eval(r request) (values, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cmd == nil {
		if err := s.start(); err != nil {
			return nil, fmt.Errorf("cannot run bash, which reads configuration files: %w", err)
		}
	}
	v, err := s.ask(r)
	var dead deadShell
	if errors.As(err, &dead) {
		s.stop()
	}
	return v, err
}

// deadShell reports that bash cannot be asked again.
type deadShell struct{ error }

func (s *Shell) start() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	s.nonce = rand.Text()
	// -p: functions and BASH_ENV of the caller's environment stay outside.
	cmd := exec.Command("bash", "--norc", "--noprofile", "-p", "-s", s.nonce)
	// What a conf does not set is not set, whatever the environment has.
	cmd.Env = slices.DeleteFunc(Environ(os.Environ(), "LC_MESSAGES=C"), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(confNames, name)
	})
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		r.Close()
		return err
	}
	if err := child.Start(cmd); err != nil {
		r.Close()
		return err
	}
	s.cmd, s.stdin, s.out, s.read = cmd, stdin, r, bufio.NewReader(r)
	_, err = io.WriteString(stdin, driver)
	return err
}

// Close ends the bash process, if there is one.
func (s *Shell) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
}

func (s *Shell) stop() {
	if s.cmd == nil {
		return
	}
	s.stdin.Close()
	child.Kill(s.cmd)
	s.cmd.Wait()
	s.out.Close()
	s.cmd = nil
}

func (s *Shell) ask(r request) (values, error) {
	var b strings.Builder
	for _, list := range [][]string{r.before, r.files, r.after, r.names} {
		fmt.Fprintf(&b, "%d\x00", len(list))
		for _, item := range list {
			if strings.ContainsRune(item, 0) {
				return nil, fmt.Errorf("%q contains a NUL byte", item)
			}
			b.WriteString(item + "\x00")
		}
	}
	if _, err := io.WriteString(s.stdin, b.String()); err != nil {
		return nil, deadShell{fmt.Errorf("bash went away: %w", err)}
	}

	timeout := s.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	// The reader blocks in the kernel; the deadline on the pipe wakes it.
	s.out.SetReadDeadline(time.Now().Add(timeout))
	defer s.out.SetReadDeadline(time.Time{})

	var (
		noise  []byte
		result values
		status string
	)
	for {
		field, err := s.field(maxResult)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil, deadShell{fmt.Errorf("it did not end within %v", timeout)}
		}
		if err != nil {
			return nil, deadShell{fmt.Errorf("bash went away while reading it (%w)%s", err, lastLine(noise))}
		}
		if field != s.nonce {
			noise = append(noise, field...)
			noise = noise[:min(len(noise), maxNoise)]
			continue
		}
		kind, err := s.field(maxResult)
		if err == nil {
			status, err = s.field(maxResult)
		}
		if err == nil && kind == "set" {
			result, err = s.result()
		}
		if errors.Is(err, errTooMuch) {
			return nil, deadShell{err}
		}
		if err != nil {
			return nil, deadShell{fmt.Errorf("bash gave no full answer: %w", err)}
		}
		switch kind {
		case "set":
			if status != "0" {
				return nil, s.drain(fmt.Errorf("it is not a text file%s", lastLine(noise)))
			}
		case "end":
			switch {
			case syntaxError.Match(noise):
				return nil, errors.New(string(syntaxError.Find(noise)))
			case result == nil:
				return nil, fmt.Errorf("it ended bash itself (exit status %s)%s", status, lastLine(noise))
			}
			return result, nil
		}
	}
}

// drain reads to the end of the current answer and returns err.
func (s *Shell) drain(err error) error {
	for {
		field, e := s.field(maxResult)
		if e != nil {
			return deadShell{err}
		}
		if field != s.nonce {
			continue
		}
		if kind, e := s.field(maxResult); e != nil {
			return deadShell{err}
		} else if kind == "end" {
			s.field(maxResult)
			return err
		}
	}
}

// result reads the fields of a "set" message, up to the empty name.
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
			continue // an associative array's key
		}
		if v[name] == nil {
			v[name] = map[int]string{}
		}
		// Files written with CR LF line ends leave the CR in the value.
		v[name][i] = strings.TrimRight(value, "\r")
	}
}

var errTooMuch = fmt.Errorf("it sets more than %d MiB", maxResult>>20)

// field reads up to the next NUL byte, limit bytes at most.
func (s *Shell) field(limit int) (string, error) {
	var b []byte
	for {
		part, err := s.read.ReadSlice(0)
		if len(b) < limit {
			b = append(b, part...)
		}
		switch {
		case err == nil && len(b) > limit:
			return "", errTooMuch
		case err == nil:
			return string(b[:len(b)-1]), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return "", err
		}
	}
}

// syntaxError finds what bash says of a file that it cannot parse.
var syntaxError = regexp.MustCompile(`(?m)^.*: line \d+: (?:syntax error|unexpected EOF).*$`)

// lastLine returns the last line of noise as a parenthesis to a message.
func lastLine(noise []byte) string {
	lines := strings.Split(strings.TrimSpace(string(noise)), "\n")
	last := strings.ToValidUTF8(lines[len(lines)-1], "?")
	if last == "" {
		return ""
	}
	return ": " + last[:min(len(last), 300)]
}

// Environ returns env without the variables that steer a compiler or a make
// that called us, which must not reach configuration files and builds, and with
// extra added.
func Environ(env []string, extra ...string) []string {
	var out []string
	_, inKbuild := lookup(env, "sub_make_done")
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if dropped[name] || strings.HasPrefix(name, "BASH_FUNC_") {
			continue
		}
		if inKbuild && (strings.HasPrefix(name, "KBUILD_") || kbuild[name]) {
			continue
		}
		out = append(out, e)
	}
	return append(out, extra...)
}

func lookup(env []string, name string) (string, bool) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

var dropped = set("CC CXX CFLAGS CXXFLAGS LDFLAGS MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES GNUMAKEFLAGS " +
	"sub_make_done BASH_ENV ENV CDPATH GREP_OPTIONS LC_ALL LANGUAGE " +
	"kernelver arch module module_version kernel_source_dir kernel_config dkms_tree source_tree install_tree parallel_jobs")

// kbuild lists what the kernel's top Makefile exports besides KBUILD_*.
var kbuild = set("ARCH SRCARCH CROSS_COMPILE KERNELRELEASE KERNELVERSION VERSION PATCHLEVEL SUBLEVEL EXTRAVERSION " +
	"srctree objtree abs_srctree abs_objtree srcroot abs_output VPATH building_out_of_srctree need-config " +
	"LD AR NM STRIP OBJCOPY OBJDUMP READELF AS CPP HOSTCC HOSTCXX HOSTLD HOSTAR CHECK CHECKFLAGS MAKE Q quiet " +
	"LLVM LLVM_SUFFIX LINUXINCLUDE NOSTDINC_FLAGS USERINCLUDE CLANG_FLAGS INSTALL_MOD_PATH INSTALL_PATH MODLIB")

func set(words string) map[string]bool {
	m := map[string]bool{}
	for w := range strings.FieldsSeq(words) {
		m[w] = true
	}
	return m
}
