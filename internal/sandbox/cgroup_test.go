// SPDX-License-Identifier: GPL-2.0-or-later

//go:build vm

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/resources"
)

func init() { commands["send"], commands["busy"] = send, busy }

// TestGroup is for the virtual machine of the integration tests, which has little memory
// and lets root make control groups of version 2.
func TestGroup(t *testing.T) {
	w := &World{Features: Features{PID: true, Net: true}, Usage: t.TempDir(), Processes: 500}
	g := newGroup(w)
	if g == nil {
		t.Fatal("this machine has no control groups of version 2 for memory and processes")
	}
	ours := filepath.Dir(g.dir.Name())
	// hold returns a command of the test itself. See TestMain.
	hold := func(args ...string) *exec.Cmd { return &exec.Cmd{Path: "/proc/self/exe", Args: args} }

	t.Run("what is out of sight counts", func(t *testing.T) {
		done := make(chan error)
		go func() { done <- w.Run(t.Context(), hold("send", "64")) }()
		most := int64(0)
		for end := false; !end; {
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
				end = true
			case <-time.After(10 * time.Millisecond):
				watched.Lock()
				for _, c := range watched.list {
					most = max(most, c.group.memory())
				}
				watched.Unlock()
			}
		}
		if most < 64<<20 {
			t.Errorf("it holds %d bytes", most)
		}
	})
	t.Run("too much", func(t *testing.T) {
		total, _, _ := resources.RAM()
		if total > 2<<30 {
			t.Fatal("this machine has too much memory to fill it")
		}
		err := w.Run(t.Context(), hold("send", fmt.Sprint(total>>20)))
		var limit *LimitError
		if !errors.As(err, &limit) || !strings.Contains(limit.What, "memory") {
			t.Errorf("%v", err)
		}
	})
	t.Run("processors", func(t *testing.T) {
		many := make(chan error)
		go func() { many <- w.Run(t.Context(), hold("busy", "60")) }()
		one := hold("busy", "1")
		if err := w.Run(t.Context(), one); err != nil {
			t.Error(err)
		}
		if err := <-many; err != nil {
			t.Error(err)
		}
		// Of two seconds of one processor, half are its own. Sixty-one threads that share
		// alike get 33 ms each.
		if used := one.ProcessState.UserTime() + one.ProcessState.SystemTime(); used < 400*time.Millisecond {
			t.Errorf("one busy thread beside sixty got %v of two seconds", used)
		}
	})
	t.Run("nothing is left", func(t *testing.T) {
		killed := filepath.Join(ours, "999999999-1")
		if err := os.Mkdir(killed, 0o755); err != nil {
			t.Fatal(err)
		}
		newGroup(w).remove()
		g.remove()
		if _, err := os.Stat(ours); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%v", err)
		}
	})
}

// send holds so many MiB in a file in memory that is in flight between two sockets, for
// half a second.
func send(mib int) error {
	fd, err := unix.MemfdCreate("held", 0)
	if err != nil {
		return err
	}
	for range mib {
		if _, err := unix.Write(fd, make([]byte, 1<<20)); err != nil {
			return err
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err == nil {
		err = unix.Sendmsg(pair[0], []byte("x"), unix.UnixRights(fd), nil, 0)
	}
	unix.Close(fd)
	time.Sleep(500 * time.Millisecond)
	return err
}

// busy keeps n threads busy for two seconds.
func busy(n int) error {
	runtime.GOMAXPROCS(n)
	end := time.Now().Add(2 * time.Second)
	var threads sync.WaitGroup
	for range n {
		threads.Go(func() {
			for time.Now().Before(end) {
			}
		})
	}
	threads.Wait()
	return nil
}
