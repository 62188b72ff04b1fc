// SPDX-License-Identifier: GPL-2.0-or-later

package jobserver

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/testskip"
)

const version = "GNU Make 4.3"

func open(t *testing.T, n int) *Server {
	t.Helper()
	s, err := New(n, version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func acquire(t *testing.T, s *Server, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.Acquire(ctx, n); err != nil {
		t.Fatalf("%d tokens: %v", n, err)
	}
}

// waits checks that n tokens cannot be had now.
func waits(t *testing.T, s *Server, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Acquire(ctx, n); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%d tokens could be had: %v", n, err)
	}
}

// pipe is the pipe as the make of a build has it.
type pipe struct {
	t    *testing.T
	r, w int
}

func share(t *testing.T, s *Server) pipe {
	t.Helper()
	cmd := exec.Command("true")
	done, err := s.Share(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(done)
	return pipe{t, int(cmd.ExtraFiles[0].Fd()), int(cmd.ExtraFiles[1].Fd())}
}

func (p pipe) there() int {
	n, err := unix.IoctlGetInt(p.r, unix.TIOCINQ)
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p pipe) take(n int) {
	p.t.Helper()
	if got, err := unix.Read(p.r, make([]byte, n)); got != n || err != nil {
		p.t.Fatalf("%d of %d tokens are in the pipe, %v", got, n, err)
	}
}

func (p pipe) add(n int) {
	p.t.Helper()
	if got, err := unix.Write(p.w, make([]byte, n)); got != n || err != nil {
		p.t.Fatal(got, err)
	}
}

func TestTokens(t *testing.T) {
	s := open(t, 3)
	p := share(t, s)
	acquire(t, s, 1)
	if p.there() != 2 {
		t.Errorf("%d tokens are left of three", p.there())
	}
	acquire(t, s, 1)
	p.take(1)
	waits(t, s, 1)
	p.add(1)
	acquire(t, s, 1)
	waits(t, s, 1)
	s.Release(1)
	if p.there() != 1 {
		t.Errorf("%d tokens came back, want one", p.there())
	}
	waits(t, s, 2)
	if p.there() != 1 {
		t.Error("the one that gave up kept a token")
	}
	s.Release(1)
	acquire(t, s, 2)
	s.Release(2)
	s.Release(1)
	acquire(t, s, 99) // of three
	if p.there() != 0 {
		t.Error("all are taken")
	}
	waits(t, s, 1)
	s.Release(99)
	if p.there() != 3 {
		t.Errorf("%d tokens in the end", p.there())
	}
}

// Tokens that a killed build had are lost, until no build holds any.
func TestLost(t *testing.T) {
	s := open(t, 4)
	p := share(t, s)
	acquire(t, s, 1)
	acquire(t, s, 1)
	p.take(2)
	s.Release(1)
	acquire(t, s, 1)
	waits(t, s, 1)
	got := make(chan error)
	go func() { got <- s.Acquire(t.Context(), 3) }()
	s.Release(1)
	s.Release(1)
	// Nobody holds any: the pipe is filled again, even for one that waits already.
	if err := <-got; err != nil {
		t.Fatal(err)
	}
	if p.there() != 1 {
		t.Errorf("%d tokens in the pipe, want one", p.there())
	}
	s.Release(3)
}

// A build that takes all tokens and keeps them does not keep others from starting.
func TestDrained(t *testing.T) {
	s := open(t, 3)
	s.patience = 10 * time.Millisecond
	p := share(t, s)
	acquire(t, s, 1)
	p.take(2)
	acquire(t, s, 1)
	acquire(t, s, 1)
	waits(t, s, 1) // builds hold all by now
	p.add(2)
	s.Release(1)
	if p.there() != 1 {
		t.Errorf("%d tokens in the pipe, want one", p.there())
	}
	s.Release(1)
	s.Release(1)
	if p.there() != 3 {
		t.Errorf("%d tokens in the end", p.there())
	}
}

// A build may put tokens into the pipe that it did not take.
func TestAdded(t *testing.T) {
	s := open(t, 3)
	p := share(t, s)
	acquire(t, s, 1)
	p.add(5)
	acquire(t, s, 1)
	acquire(t, s, 1)
	waits(t, s, 1)
	s.Release(1)
	if p.there() != 1 {
		t.Errorf("%d tokens in the pipe while two of three are held", p.there())
	}
	s.Release(1)
	s.Release(1)
	p.add(1)
	acquire(t, s, 1)
	if p.there() != 2 {
		t.Errorf("%d tokens in the pipe, want two", p.there())
	}
	s.Release(1)
}

// A build may clog the pipe in several ways. To give tokens back must not block even
// then, none may get lost, and no make of another build may block for good.
func TestClogged(t *testing.T) {
	// fill writes tokens until there is no room, and returns how many.
	fill := func(p pipe, flags int) (n int) {
		if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETFL, flags|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := unix.Write(p.w, []byte("+")); err != nil {
				return n
			}
			n++
		}
	}
	for name, clog := range map[string]func(p pipe){
		"full": func(p pipe) { fill(p, 0) },
		"shrunk, and at the end of its only page": func(p pipe) {
			if _, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, 1); err != nil {
				t.Fatal(err)
			}
			p.take(fill(p, 0))
		},
		"each token in a page of its own": func(p pipe) { fill(p, unix.O_DIRECT) },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, 20)
			hostile, other := share(t, s), share(t, s)
			acquire(t, s, 1)
			acquire(t, s, 1)
			other.take(1)
			s.mu.Lock() // keeps the watch away until the pipe is clogged
			clog(hostile)
			s.mu.Unlock()
			other.add(1) // may have to wait for the watch
			s.Release(1)
			if n := other.there(); n < 15 || n > 19 {
				t.Errorf("%d tokens in the pipe", n)
			}
			s.Release(1)
			acquire(t, s, 1)
			if n := other.there(); n != 19 {
				t.Errorf("%d tokens in the pipe, want 19", n)
			}
			s.Release(1)
		})
	}
}

// A build cannot make the pipe block, or not block, for another build or the server.
func TestDescriptions(t *testing.T) {
	s := open(t, 2)
	one, two := share(t, s), share(t, s)
	for _, fd := range []int{one.r, one.w} {
		if err := unix.SetNonblock(fd, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, fd := range []int{two.r, two.w} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK != 0 {
			t.Errorf("flags of another build are %o, %v", flags, err)
		}
	}
	for _, fd := range []int{s.r, s.w} {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
			t.Errorf("flags of the server are %o, %v", flags, err)
		}
	}
}

// Each of several builds that want many tokens gets them, and they never hold more
// than there are.
func TestMany(t *testing.T) {
	const n = 5
	s := open(t, n)
	var mu sync.Mutex
	held, most := 0, 0
	var wg sync.WaitGroup
	for i := range 60 {
		want := []int{1, n, 3, 1, n - 1}[i%5]
		wg.Go(func() {
			if err := s.Acquire(t.Context(), want); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			held += want
			most = max(most, held)
			mu.Unlock()
			time.Sleep(time.Millisecond)
			mu.Lock()
			held -= want
			mu.Unlock()
			s.Release(want)
		})
	}
	wg.Wait()
	if most > n {
		t.Errorf("%d of %d tokens were held", most, n)
	}
	if got := share(t, s).there(); got != n {
		t.Errorf("%d tokens in the end, want %d", got, n)
	}
}

func TestAuth(t *testing.T) {
	for _, tt := range []struct{ version, want string }{
		{"GNU Make 3.82", " -j --jobserver-fds=3,4"},
		{"GNU Make 4.1", " -j --jobserver-fds=3,4"},
		{"GNU Make 4.2.1", " -j7 --jobserver-auth=3,4"},
		{"GNU Make 4.4.1", " -j7 --jobserver-auth=3,4"},
		{"GNU Make 10.0", " -j7 --jobserver-auth=3,4"},
		{"bmake", ""},
		{"", ""},
	} {
		s, err := New(7, tt.version)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("true")
		cmd.Env = []string{"A=b"}
		done, err := s.Share(cmd)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"A=b"}
		if tt.want != "" {
			want = append(want, "MAKEFLAGS="+tt.want)
		}
		if s.Shares() != (tt.want != "") || len(cmd.ExtraFiles) != len(want)*2-2 {
			t.Errorf("%s: shares: %v, %d files", tt.version, s.Shares(), len(cmd.ExtraFiles))
		}
		if diff := cmp.Diff(want, cmd.Env); diff != "" {
			t.Errorf("%s: %s", tt.version, diff)
		}
		done()
		s.Close()
	}
}

func TestWithMakeflags(t *testing.T) {
	for _, tt := range []struct{ there, want string }{
		{"", " -j2 X"},
		{"k", " -j2 X -k"},
		{"ks V=1", " -j2 X -ks V=1"},
		{"V=1", " -j2 X V=1"},
		{"--silent -- V=1", " -j2 X --silent -- V=1"},
	} {
		env := withMakeflags([]string{"MAKEFLAGS=lost", "MAKEFLAGS=" + tt.there}, "-j2 X")
		if got := env[len(env)-1]; got != "MAKEFLAGS="+tt.want {
			t.Errorf("MAKEFLAGS=%s: %s, want %q", tt.there, got, tt.want)
		}
	}
}

// TestMake has the make of this machine share the tokens. The jobs of one target only
// end if they run all at once, and no more jobs run than there are tokens.
func TestMake(t *testing.T) {
	out, err := exec.Command("make", "--version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(string(out), "\n")
	const n = 3
	for _, tt := range []struct{ name, command string }{
		{"bash", "make -f jobs.mk meet && make -f jobs.mk many"},
		{"submake", "echo 'all: ; +$(MAKE) -f jobs.mk meet && $(MAKE) -f jobs.mk many' >outer.mk; make -f outer.mk"},
		{"flags of the user", "MAKEFLAGS=\"$MAKEFLAGS V=1\" make -f jobs.mk meet many"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "running"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "jobs.mk"), []byte(jobs), 0o644); err != nil {
				t.Fatal(err)
			}
			s, err := New(n, version)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if !s.Shares() {
				testskip.For(t, version+" knows no jobserver")
			}
			acquire(t, s, 1)
			cmd := exec.Command("bash", "-c", tt.command)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=0")
			done, err := s.Share(cmd)
			if err != nil {
				t.Fatal(err)
			}
			defer done()
			out, err := cmd.CombinedOutput()
			if err != nil || strings.Contains(string(out), "warning") {
				t.Errorf("%v\n%s", err, out)
			}
			text, err := os.ReadFile(filepath.Join(dir, "counts"))
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.FieldsSeq(string(text)) {
				if got, err := strconv.Atoi(line); err != nil || got > n {
					t.Errorf("%s jobs of %d ran at once", line, n)
				}
			}
			if got := share(t, s).there(); got != n-1 {
				t.Errorf("make gave back %d tokens of %d", got, n-1)
			}
			s.Release(1)
		})
	}
}

const jobs = `
many: 1 2 3 4 5 6 7 8 9
meet: a b c
1 2 3 4 5 6 7 8 9:
	@touch running/$@; ls running | wc -l >>counts; sleep 0.05; rm running/$@
a b c:
	@touch $@.here
	@for i in $$(seq 1000); do test -e a.here -a -e b.here -a -e c.here && exit; sleep 0.01; done; exit 1
`
