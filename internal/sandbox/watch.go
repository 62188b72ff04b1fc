// SPDX-License-Identifier: GPL-2.0-or-later

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/resources"
)

// period is how often the watch looks at what commands use of the machine.
const period = 100 * time.Millisecond

// watched are the commands that run now. If something is short, the one that uses most
// of it is ended, and the others go on.
var watched struct {
	sync.Mutex // guards the fields below
	list       []*command
	picked     time.Time // when a command was last picked to be ended
}

// clearing is how long no other command is picked: what one used is not free at once.
const clearing = 3 * time.Second

// command is a command that runs.
type command struct {
	world   *World
	ns      string // its PID namespace; "" if it has none of its own
	reserve uint64 // bytes that are to stay free on its disk
	end     func(error)
}

// watch watches the command of process pid until ctx is done. It calls end if the
// command has to end.
func (w *World) watch(ctx context.Context, pid int, end func(error)) {
	c := &command{world: w, end: end}
	c.ns, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if own, err := os.Readlink("/proc/self/ns/pid"); err != nil || own == c.ns {
		c.ns = ""
	}
	if free, size, _, ok := room(w.Usage); ok {
		// If there is less than 1 MiB, the command finds out by itself.
		if c.reserve = min(1<<30, size/20, free/4); c.reserve < 1<<20 {
			c.reserve = 0
		}
	}
	watched.Lock()
	watched.list = append(watched.list, c)
	watched.Unlock()
	defer func() {
		watched.Lock()
		defer watched.Unlock()
		watched.list = slices.DeleteFunc(watched.list, func(o *command) bool { return o == c })
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(period):
			c.look()
		}
	}
}

// look ends c if it is to blame for a shortage, or has too many threads.
func (c *command) look() {
	hidden := sync.OnceValue(unnamed)
	if free, _, inodes, ok := room(c.world.Usage); ok && free < c.reserve {
		least := int64(c.reserve)
		if free == 0 {
			least = min(least, int64(inodes/scarce)*fileCost)
		}
		if n, ok := c.pick(least, func(o *command) int64 { return o.disk(hidden) }); ok {
			what := fmt.Sprintf("it fills the disk: it wrote %d MiB", n>>20)
			if n == math.MaxInt64 {
				what = fmt.Sprintf("it fills the disk, with directories more than %d deep", files.Depth)
			}
			c.end(&LimitError{What: what, Hint: "make room on the file system, if that was not too much", Disk: true})
		}
	}
	total, available, known := resources.RAM()
	short := known && available <= total/32
	many := c.world.Processes > 0 && threads() > c.world.Processes*9/10
	if c.ns == "" || !short && !many {
		return
	}
	used := processes()
	if short {
		if n, ok := c.pick(total/32, func(o *command) int64 { return used[o.ns].memory + hidden()[o.ns] }); ok {
			c.end(&LimitError{What: fmt.Sprintf("it fills the memory: it used %d MiB", n>>20), Hint: "run it again with fewer jobs (parallel_jobs in framework.conf)"})
		}
	}
	if n := used[c.ns].count; c.world.Processes > 0 && n > c.world.Processes*9/10 {
		c.end(&LimitError{What: fmt.Sprintf("it started too many processes: %d run, with their threads", n), Hint: "look at the end of the log"})
	}
}

// pick picks c to be ended for a shortage, if c uses most of what is short, and reports
// whether it did; n is how much c uses. All commands together have to use no less than
// least: if they use little, something else is to blame. Of several that use the same,
// it picks the first.
func (c *command) pick(least int64, uses func(*command) int64) (n int64, ok bool) {
	watched.Lock()
	defer watched.Unlock()
	if time.Since(watched.picked) < clearing {
		return 0, false
	}
	var most *command
	var sum int64
	largest := int64(-1)
	for _, o := range watched.list {
		used := uses(o)
		if used > largest {
			most, largest = o, used
		}
		sum += min(used, math.MaxInt64-sum)
	}
	if most != c || sum < least {
		return 0, false
	}
	watched.picked = time.Now()
	return largest, true
}

// disk returns how many bytes of the disk c uses, with those of hidden, which is by
// namespace. It returns [math.MaxInt64] if the directories are too deep to tell.
func (c *command) disk(hidden func() map[string]int64) int64 {
	bytes := usage(c.world.Usage)
	return bytes + min(hidden()[c.ns], math.MaxInt64-bytes)
}

const (
	scarce   = 64  // files are scarce if fewer than one in this many can still be made
	fileCost = 512 // bytes that a file counts besides its content
)

// room returns how many bytes of the file system of dir are free for ordinary users,
// how many it has, and how many files it can hold. If files are scarce, no bytes are
// free. It reports false if dir is "" or cannot be looked at.
func room(dir string) (free, size, inodes uint64, ok bool) {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return 0, 0, 0, false
	}
	if free = st.Bavail * uint64(st.Bsize); st.Ffree < st.Files/scarce {
		free = 0
	}
	return free, st.Blocks * uint64(st.Bsize), st.Files, true
}

// usage returns how many bytes the files below dir take, or [math.MaxInt64] if they
// are too deep to be counted. A file takes some even if it is empty.
func usage(dir string) (bytes int64) {
	err := files.Walk(context.Background(), dir, func(_ int, _ string, st *unix.Stat_t) error {
		bytes += st.Blocks*512 + fileCost
		return nil
	})
	if errors.Is(err, files.ErrDeep) {
		return math.MaxInt64
	}
	return bytes
}

// unnamed returns how many bytes those files take that processes of the watched
// commands have open but that are in no directory: removed files, and files in memory.
// It returns them by PID namespace. The caller holds the lock of watched.
func unnamed() map[string]int64 {
	type file struct {
		ns       string
		dev, ino uint64
	}
	bytes, seen := map[string]int64{}, map[file]bool{}
	for dir, ns := range namespaces() {
		if !slices.ContainsFunc(watched.list, func(c *command) bool { return c.ns == ns }) {
			continue
		}
		// A thread may have its own table of files.
		open, _ := filepath.Glob(dir + "/task/*/fd/*")
		for _, fd := range open {
			var st unix.Stat_t
			err := unix.Stat(fd, &st)
			f := file{ns, st.Dev, st.Ino}
			if err == nil && st.Nlink == 0 && st.Mode&unix.S_IFMT == unix.S_IFREG && !seen[f] {
				seen[f] = true
				bytes[ns] += st.Blocks * 512
			}
		}
	}
	return bytes
}

// namespaces returns the directories of all processes in /proc, with the PID namespace
// of each.
func namespaces() iter.Seq2[string, string] {
	return func(yield func(dir, ns string) bool) {
		dirs, _ := filepath.Glob("/proc/[0-9]*")
		for _, dir := range dirs {
			if ns, err := os.Readlink(dir + "/ns/pid"); err == nil && !yield(dir, ns) {
				return
			}
		}
	}
}

// threads returns how many threads there are on the machine, or 0 if it cannot tell.
func threads() int {
	text, _ := os.ReadFile("/proc/loadavg")
	fields := strings.Fields(string(text))
	if len(fields) < 4 {
		return 0
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, _ := strconv.Atoi(all)
	return n
}

// used is what the processes of a PID namespace use.
type used struct {
	count  int   // threads
	memory int64 // bytes that are in no file
}

// processes returns what all processes use, by their PID namespace.
func processes() map[string]used {
	all := map[string]used{}
	for dir, ns := range namespaces() {
		u := all[ns]
		text, _ := os.ReadFile(dir + "/status")
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			number, _, _ := strings.Cut(strings.TrimSpace(value), " ")
			n, _ := strconv.Atoi(number)
			switch name {
			case "Threads":
				u.count += n
			case "RssAnon", "RssShmem": // memory of its own, and shared memory, in KiB
				u.memory += int64(n) << 10
			}
		}
		all[ns] = u
	}
	return all
}
