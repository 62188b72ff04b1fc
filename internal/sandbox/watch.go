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

// What a command uses of the machine is looked at this often.
const period = 100 * time.Millisecond

// watched are the commands that run now: when something is short, the one that
// uses most of it is ended, and the others go on.
var watched struct {
	sync.Mutex
	list []*command
	// ended is when one was ended last.
	ended time.Time
}

// clearing is how long nobody else is ended: what one used is not free at once.
const clearing = 3 * time.Second

// command is one that runs.
type command struct {
	world *World
	ns    string // its PID namespace
	// reserve is what is to stay free on the disk, in bytes.
	reserve uint64
	end     func(error)
}

// watch watches the command that process pid leads until ctx is done, and calls
// end when it has to end.
func (w *World) watch(ctx context.Context, pid int, end func(error)) {
	c := &command{world: w, end: end}
	c.ns, _ = os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if own, err := os.Readlink("/proc/self/ns/pid"); err != nil || own == c.ns {
		c.ns = ""
	}
	if free, size, _, ok := room(w.Usage); ok {
		// Where there is that little, the command finds out by itself.
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

func (c *command) look() {
	hidden := sync.OnceValue(unnamed)
	if free, _, inodes, ok := room(c.world.Usage); ok && free < c.reserve {
		least := int64(c.reserve)
		if free == 0 {
			least = min(least, int64(inodes/scarce)*fileCost)
		}
		if n, ok := c.guilty(least, func(o *command) int64 { return o.disk(hidden) }); ok {
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
		if n, ok := c.guilty(total/32, func(o *command) int64 { return used[o.ns].memory + hidden()[o.ns] }); ok {
			c.end(&LimitError{What: fmt.Sprintf("it fills the memory: it used %d MiB", n>>20), Hint: "run it again with fewer jobs (parallel_jobs in framework.conf)"})
		}
	}
	if n := used[c.ns].count; c.world.Processes > 0 && n > c.world.Processes*9/10 {
		c.end(&LimitError{What: fmt.Sprintf("it started too many processes: %d run", n), Hint: "look at the end of the log"})
	}
}

// guilty returns how much c uses, and reports whether it is the one that uses most, of
// those that do the first, and all together no less than least: where they use little,
// it is somebody else's doing. It is to be ended then.
func (c *command) guilty(least int64, uses func(*command) int64) (int64, bool) {
	watched.Lock()
	defer watched.Unlock()
	if time.Since(watched.ended) < clearing {
		return 0, false
	}
	var most *command
	var mine, sum int64
	largest := int64(-1)
	for _, o := range watched.list {
		n := uses(o)
		if n > largest {
			most, largest = o, n
		}
		if o == c {
			mine = n
		}
		sum += min(n, math.MaxInt64-sum)
	}
	if most != c || sum < least {
		return mine, false
	}
	watched.ended = time.Now()
	return mine, true
}

// disk returns how much of the disk c uses, in bytes, with what hidden returns;
// [math.MaxInt64] where its directories are too deep to tell.
func (c *command) disk(hidden func() map[string]int64) int64 {
	bytes := usage(c.world.Usage)
	return bytes + min(hidden()[c.ns], math.MaxInt64-bytes)
}

const (
	scarce   = 64  // files are, where fewer than one in so many can still be made
	fileCost = 512 // bytes that a file counts for beside what it holds
)

// room returns what is free for ordinary users on the file system of dir, and its
// size, in bytes, and how many files it can hold. Nothing is free where there can be
// hardly any more files.
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

// usage returns what the files below dir take, in bytes; each takes some. It is
// [math.MaxInt64] where they are too deep to be counted.
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

// unnamed returns what the files take, in bytes, that processes of the watched commands
// have open and that no directory has, by their PID namespace: removed ones, and those in
// memory alone. The caller holds the lock of watched.
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
		// Threads may have files of their own.
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

// namespaces are the directories of all processes, and the PID namespace of each.
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

// threads returns how many there are on the machine.
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

// used is what the processes of a PID namespace use: how many there are, and the
// memory that is theirs, in bytes.
type used struct {
	count  int
	memory int64
}

// processes returns what all processes use, by their PID namespace.
func processes() map[string]used {
	all := map[string]used{}
	for dir, ns := range namespaces() {
		u := all[ns]
		u.count++
		text, _ := os.ReadFile(dir + "/status")
		for line := range strings.Lines(string(text)) {
			// What it shares with nobody, and what is in no file.
			if name, value, _ := strings.Cut(line, ":"); name == "RssAnon" || name == "RssShmem" {
				kib, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
				u.memory += kib << 10
			}
		}
		all[ns] = u
	}
	return all
}
