// SPDX-License-Identifier: GPL-2.0-or-later

// Package jobserver shares the processors of the machine between all builds of a
// run. It is a jobserver of GNU make, as the chapter "POSIX Jobserver" of make's
// manual describes it. A token is the right to keep one processor busy. Each build
// holds tokens of its own from start to end, at least one. Its make takes more of
// them from a pipe, and gives those back.
//
// Builds are not trusted. One that is killed takes its tokens along, and a hostile
// one may take tokens, add some, or clog the pipe. So the server does not rely on
// what is in the pipe: builds hold no more tokens of their own than there are, what
// is too much in the pipe is taken out, and when no build holds any, the pipe is
// filled again. A build that waits long for a token gets one that others lack. As long
// as builds end, others start.
package jobserver

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/lazy"
)

// Max is how many tokens there can be, which is how many bytes can be written to a
// pipe at once.
const Max = 4096

// Server is a jobserver. Several goroutines may use it at once. Close it.
type Server struct {
	n int // how many tokens there are
	// auth is the format of make's arguments for the two ends of the pipe. It is
	// empty if make cannot use the pipe.
	auth string
	r, w int // the two ends of the pipe, which never block
	size int // capacity of the pipe in bytes
	// wait is the end of the pipe for reading, opened again for Acquire to wait at.
	wait *os.File
	turn chan struct{} // has an element while an Acquire waits or takes
	quit chan struct{} // closed to end watching
	// patience is how long Acquire waits for each token that makes hold.
	patience time.Duration
	// watching is done when watch has returned.
	watching sync.WaitGroup

	// mu guards the fields below, and is held to put tokens into the pipe and to take
	// them out. Only Acquire takes single ones without it, and counts them in taken
	// later. Until then, there seem to be fewer tokens than there are, never more.
	mu      sync.Mutex
	held    int           // tokens that builds hold as their own
	taken   int           // tokens that the waiting Acquire has so far
	changed chan struct{} // closed, and replaced, by wake
}

// New returns a jobserver of n tokens, at least 1 and at most [Max]. The first line
// of what make --version prints is version.
func New(n int, version string) (*Server, error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, fmt.Errorf("cannot make a pipe for the jobserver: %w", err)
	}
	s := &Server{
		n: max(1, min(n, Max)), auth: auth(version), r: fds[0], w: fds[1],
		turn: make(chan struct{}, 1), quit: make(chan struct{}), changed: make(chan struct{}), patience: patience,
	}
	s.size, _ = unix.FcntlInt(uintptr(s.w), unix.F_GETPIPE_SZ, 0)
	fd, err := reopen(s.r, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		// Without /proc all would share one open file description, and what one
		// make sets on it would hold for all.
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
	s.watching.Go(s.watch)
	return s, nil
}

// Close ends the jobserver. Nobody may call another method any more, and no Acquire
// may wait.
func (s *Server) Close() {
	close(s.quit)
	s.watching.Wait()
	s.wait.Close()
	unix.Close(s.r)
	unix.Close(s.w)
}

// Tokens returns how many tokens there are.
func (s *Server) Tokens() int { return s.n }

// Shares reports whether [Server.Share] works, that is whether this make knows
// jobservers and the machine has /proc.
func (s *Server) Shares() bool { return s.auth != "" }

var gnu = lazy.Regexp(`^GNU Make (\d+)\.(\d+)`)

// auth returns the format of make's arguments for the two ends of a pipe, or "" for a
// make that knows no jobserver.
func auth(version string) string {
	m := gnu().FindStringSubmatch(version)
	if m == nil {
		return ""
	}
	major, _ := strconv.Atoi(m[1])
	minor, _ := strconv.Atoi(m[2])
	if major < 4 || major == 4 && minor < 2 {
		// It takes a number after -j for one of its user, and prefers that to a
		// jobserver.
		return "-j --jobserver-fds=%d,%d"
	}
	return "--jobserver-auth=%d,%d"
}

// Share lets each make that cmd starts take tokens. It changes ExtraFiles and Env of
// cmd, which has not started yet. The caller calls done once it has, to close the
// files. If there is nothing to share, Share does nothing.
func (s *Server) Share(cmd *exec.Cmd) (done func(), err error) {
	if s.n == 1 || s.auth == "" {
		return func() {}, nil // there is nothing to take
	}
	// Each build gets an open file description of its own: some makes set
	// O_NONBLOCK, and others cannot cope with it.
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

// withMakeflags returns env with flags in MAKEFLAGS before those that are there.
func withMakeflags(env []string, flags string) []string {
	value := " " + flags
	for _, e := range env {
		there, ok := strings.CutPrefix(e, "MAKEFLAGS=")
		if !ok {
			continue
		}
		value = " " + flags
		if first, _, _ := strings.Cut(there, " "); first != "" && first[0] != '-' && !strings.Contains(first, "=") {
			there = "-" + there // letters need no dash, but only at the beginning
		}
		if there != "" {
			value += " " + there
		}
	}
	return append(env[:len(env):len(env)], "MAKEFLAGS="+value)
}

// patience is how long Acquire waits for a token that the makes of builds hold. A make
// gives it back when a compiler ends, which rarely takes longer.
const patience = 10 * time.Second

// Acquire takes n tokens for a build, at least 1 and at most all. It waits for them,
// unless no build holds any: then it fills the pipe again. Builds are served one
// after the other, so that each of two that want many gets them. When ctx is done,
// Acquire returns its cause. There is no other error.
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
		// Whatever is in the pipe, builds hold no more tokens than there are.
		failed := s.held+s.taken >= s.n
		if !failed {
			var token [1]byte
			late := time.Now().Add(s.patience)
			_ = s.wait.SetReadDeadline(late)
			s.mu.Unlock()
			got, err := s.wait.Read(token[:])
			s.mu.Lock()
			s.taken += max(0, got)
			failed = err != nil && !os.IsTimeout(err)
			if os.IsTimeout(err) && s.held+s.taken < s.n && !time.Now().Before(late) {
				s.taken++ // put takes it out of the pipe, should it come back
			}
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

// Release gives back the tokens of a build that called [Server.Acquire] with n.
func (s *Server) Release(n int) {
	n = max(1, min(n, s.n))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held -= n
	s.put(n)
	s.wake()
}

// wake has the waiting Acquire look again. The caller holds the lock.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
	_ = s.wait.SetReadDeadline(time.Unix(1, 0))
}

// watch repairs the pipe once a second. If a build fills it, the make of another
// build would otherwise wait for good to give back a token.
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

// put puts n tokens into the pipe, and takes out what is more than there can be. The
// caller holds the lock.
func (s *Server) put(n int) {
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

// write writes n tokens into the pipe, all or none, and reports whether it did.
func (s *Server) write(n int) bool {
	if n <= 0 {
		return true
	}
	_, err := unix.Write(s.w, []byte(strings.Repeat("+", n)))
	return err == nil
}

// writable reports whether a token can be written into the pipe.
func (s *Server) writable() bool {
	fds := []unix.PollFd{{Fd: int32(s.w), Events: unix.POLLOUT}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// drain takes out what is in the pipe, and returns how many tokens that was.
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

// reopen opens the file of fd again, with an open file description of its own.
func reopen(fd, flags int) (int, error) {
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC, 0)
}
