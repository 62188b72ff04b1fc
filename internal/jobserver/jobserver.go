// SPDX-License-Identifier: GPL-2.0-or-later

// Package jobserver shares the processors of the machine between all builds of a
// run: it is the jobserver of GNU make for them, as the chapter "POSIX Jobserver"
// of make's manual describes it. A token is the right to keep one processor busy.
// Each build holds one of its own from start to end, and its make takes more of
// them from a pipe, and gives them back.
//
// Builds are not trusted: one that is killed takes its tokens along, and a hostile
// one may take, add, or clog the pipe. So what is in the pipe is never believed.
// Builds hold no more own tokens than there are; what is too much in the pipe is
// taken out; and when no build holds any, the pipe is filled again: as long as
// builds end, others start.
package jobserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Max is how many tokens there can be: no more than can be written to a pipe at
// once.
const Max = 4096

// Server is a jobserver. Close it.
type Server struct {
	n int
	// auth is how make is told of the pipe, given the two ends; empty where
	// make cannot use it.
	auth string
	r, w int // the pipe; neither end ever blocks
	size int // its capacity in bytes
	// wait is the pipe's end for reading once more, for whoever waits.
	wait *os.File
	turn chan struct{} // held by the one who waits
	quit chan struct{}

	mu      sync.Mutex    // guards what follows
	held    int           // own tokens of builds
	taken   int           // those of whoever waits
	changed chan struct{} // closed when held or the pipe did
}

// New returns a jobserver of n tokens, at most [Max], for the make that gives
// this as its version, in the first line of what make --version says.
func New(n int, version string) (*Server, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("cannot make a pipe for the jobserver: %w", err)
	}
	s := &Server{
		n: max(1, min(n, Max)), auth: auth(version), r: fds[0], w: fds[1],
		turn: make(chan struct{}, 1), quit: make(chan struct{}), changed: make(chan struct{}),
	}
	s.size, _ = unix.FcntlInt(uintptr(s.w), unix.F_GETPIPE_SZ, 0)
	fd, err := reopen(s.r, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		// Without /proc there is but one open file description for the pipe,
		// and what one make sets on it would hold for all and for us.
		s.auth = ""
		fd, err = unix.FcntlInt(uintptr(s.r), unix.F_DUPFD_CLOEXEC, 0)
	}
	if err != nil {
		unix.Close(s.r)
		unix.Close(s.w)
		return nil, fmt.Errorf("cannot open the pipe of the jobserver: %w", err)
	}
	s.wait = os.NewFile(uintptr(fd), "jobserver")
	s.put(s.n)
	go s.watch()
	return s, nil
}

// Close ends the jobserver. No build may hold a token or wait for one any more.
func (s *Server) Close() {
	close(s.quit)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wait.Close()
	unix.Close(s.r)
	unix.Close(s.w)
	s.r, s.w = -1, -1
}

// Tokens returns how many tokens there are.
func (s *Server) Tokens() int { return s.n }

// Shares reports whether [Server.Share] works: this make knows jobservers, and the
// machine has a /proc.
func (s *Server) Shares() bool { return s.auth != "" }

var gnu = regexp.MustCompile(`^GNU Make (\d+)\.(\d+)`)

// auth returns the format of the arguments that make is given for a pipe with the
// two ends %d, besides the number of jobs.
func auth(version string) string {
	m := gnu.FindStringSubmatch(version)
	if m == nil {
		return ""
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < 4 || major == 4 && minor < 2 {
		// It takes a number for one that its user gave, and would rather
		// have that than a jobserver.
		return "-j --jobserver-fds=%d,%d"
	}
	return "--jobserver-auth=%d,%d"
}

// Share lets each make that cmd starts, which is about to, take tokens. The files
// that it adds to cmd are closed by done, after cmd was started.
func (s *Server) Share(cmd *exec.Cmd) (done func(), err error) {
	if s.n == 1 || s.auth == "" {
		return func() {}, nil // there is nothing to take
	}
	// Each build gets the pipe opened again: some makes set O_NONBLOCK, others
	// cannot live with it.
	r, err := reopen(s.r, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	w, err := reopen(s.w, unix.O_WRONLY)
	if err != nil {
		unix.Close(r)
		return nil, err
	}
	fd := 3 + len(cmd.ExtraFiles)
	files := []*os.File{os.NewFile(uintptr(r), "jobserver"), os.NewFile(uintptr(w), "jobserver")}
	cmd.ExtraFiles = append(cmd.ExtraFiles, files...)
	flags := fmt.Sprintf(s.auth, fd, fd+1)
	if !strings.HasPrefix(flags, "-j") {
		flags = fmt.Sprintf("-j%d %s", s.n, flags)
	}
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = withMakeflags(cmd.Env, flags)
	return func() {
		files[0].Close()
		files[1].Close()
	}, nil
}

// withMakeflags returns env with flags in MAKEFLAGS, before those that are there.
func withMakeflags(env []string, flags string) []string {
	value := " " + flags
	for _, e := range env {
		there, ok := strings.CutPrefix(e, "MAKEFLAGS=")
		if !ok {
			continue
		}
		value = " " + flags
		if first, _, _ := strings.Cut(there, " "); first != "" && first[0] != '-' && !strings.Contains(first, "=") {
			there = "-" + there // letters may stand without a dash, but at the begin only
		}
		if there != "" {
			value += " " + there
		}
	}
	return append(env[:len(env):len(env)], "MAKEFLAGS="+value)
}

// Acquire takes n tokens for a build, as many as there are at most. It waits for
// them, but not when no build holds any: then the tokens are counted again. Builds
// are served one after the other, so that of two that want many each gets them.
// The only error is the cause of ctx.
func (s *Server) Acquire(ctx context.Context, n int) error {
	n = max(1, min(n, s.n))
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wake()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case ctx.Err() != nil:
			back := s.taken
			s.taken = 0
			s.put(back)
			return context.Cause(ctx)
		case s.held == 0:
			s.held, s.taken = n, 0
			s.drain()
			s.put(s.n - n)
			return nil
		case s.taken == n:
			s.held, s.taken = s.held+n, 0
			return nil
		}
		// Whatever is in the pipe, builds hold no more than there are.
		failed := s.held+s.taken >= s.n
		if !failed {
			var token [1]byte
			_ = s.wait.SetReadDeadline(time.Time{})
			s.mu.Unlock()
			got, err := s.wait.Read(token[:])
			s.mu.Lock()
			s.taken += max(0, got)
			failed = err != nil && !os.IsTimeout(err)
		}
		if failed {
			changed := s.changed
			s.mu.Unlock()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			s.mu.Lock()
		}
	}
}

// Release gives back the tokens of a build that got n of them from [Server.Acquire].
func (s *Server) Release(n int) {
	n = max(1, min(n, s.n))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
	s.put(n)
	s.wake()
}

// wake has whoever waits look again.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
	_ = s.wait.SetReadDeadline(time.Unix(1, 0))
}

// watch puts right, once a second, what builds did to the pipe: a build that fills
// it must not keep the make of another, which gives back a token, waiting.
func (s *Server) watch() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		s.put(0)
		s.mu.Unlock()
	}
}

// put puts n tokens into the pipe, and takes out what is more than there can be.
func (s *Server) put(n int) {
	if s.w < 0 {
		return // closed
	}
	if size, err := unix.FcntlInt(uintptr(s.w), unix.F_GETPIPE_SZ, 0); err == nil && size < s.size {
		_, _ = unix.FcntlInt(uintptr(s.w), unix.F_SETPIPE_SZ, s.size)
	}
	most := s.n - s.held - s.taken
	there, err := unix.IoctlGetInt(s.r, unix.TIOCINQ)
	if err == nil && there+n <= most {
		if n == 0 && s.writable() || n > 0 && s.write(n) {
			return
		}
	}
	s.write(min(s.drain()+n, most))
}

func (s *Server) write(n int) bool {
	if n <= 0 {
		return true
	}
	_, err := unix.Write(s.w, []byte(strings.Repeat("+", n)))
	return err == nil
}

func (s *Server) writable() bool {
	fds := []unix.PollFd{{Fd: int32(s.w), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// drain takes out what is in the pipe and returns how much that was.
func (s *Server) drain() (n int) {
	var b [1 << 16]byte
	for range 64 { // somebody may write as fast as we read
		got, err := unix.Read(s.r, b[:])
		if got <= 0 || err != nil {
			break
		}
		n += got
	}
	return n
}

// reopen opens the file of fd once more, with an open file description of its own.
func reopen(fd, flags int) (int, error) {
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC, 0)
}
