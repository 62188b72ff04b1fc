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
	picked     time.Time // when commands were last ended
}

// clearing is how long no other command is ended: what one used is not free at once.
const clearing = 3 * time.Second

// command is a command that runs.
type command struct {
	world   *World
	group   *group // nil if it has none
	ns      string // its PID namespace; "" if it has none of its own
	reserve uint64 // bytes that are to stay free on its disk
	tight   bool   // memory was short before it began
	end     func(error)
}

// watch watches the command of process pid until ctx is done. It calls end if the
// command has to end.
func (w *World) watch(ctx context.Context, pid int, g *group, end func(error)) {
	c := &command{world: w, group: g, end: end}
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
	_, c.tight = ramShort()
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

const fewerJobs = "run it again with fewer jobs (parallel_jobs in framework.conf)"

// look ends c if it is to blame for a shortage, or has too many threads.
func (c *command) look() {
	hidden := sync.OnceValue(unnamed)
	if free, _, inodes, ok := room(c.world.Usage); ok && free < c.reserve {
		least := int64(c.reserve)
		if inodes > 0 {
			least = min(least, int64(inodes/scarce)*fileCost)
		}
		c.blame(least, func(o *command) int64 { return o.disk(hidden) },
			LimitError{What: "it fills the disk", Hint: "make room on the file system, if that was not too much", Disk: true})
	}
	total, short := ramShort()
	many := c.world.Processes > 0 && threads() > c.world.Processes*9/10
	if c.ns == "" || !short && !many {
		return
	}
	used := processes()
	if short && !c.tight {
		c.blame(total/32, func(o *command) int64 {
			if o.group != nil {
				return o.group.memory()
			}
			return used[o.ns].memory + hidden()[o.ns]
		}, LimitError{What: "it fills the memory", Hint: fewerJobs})
	}
	if n := used[c.ns].count; c.world.Processes > 0 && n > c.world.Processes*9/10 {
		c.end(&LimitError{What: fmt.Sprintf("it started too many processes: %d run, with their threads", n), Hint: "look at the end of the log"})
	}
}

// ramShort reports whether the memory of the machine is short, and how many bytes it
// has.
func ramShort() (total int64, short bool) {
	total, available, known := resources.RAM()
	return total, known && available <= total/32
}

// blame finds out who is to blame for a shortage. If c uses most of what is short, it
// ends c with the error limit; of several that use the same, the first. If all commands
// together use less than least, what is to blame does not show: then blame ends a
// command that is alone, and otherwise all that can be run again, one at a time.
func (c *command) blame(least int64, uses func(*command) int64, limit LimitError) {
	watched.Lock()
	defer watched.Unlock()
	if time.Since(watched.picked) < clearing {
		return
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
	var ended []*command
	switch {
	case sum < least && c.world.Usage == "":
		return
	case sum >= least && most != c:
		return
	case largest == math.MaxInt64:
		limit.What += fmt.Sprintf(", with directories more than %d deep", files.Depth)
		ended = append(ended, c)
	case sum >= least:
		limit.What += fmt.Sprintf(": it holds %d MiB", largest>>20)
		ended = append(ended, c)
	case len(watched.list) == 1:
		limit.What += ": there was room before, no other build runs, and it holds what cannot be seen"
		ended = append(ended, c)
	default:
		limit.Again = true
		for _, o := range watched.list {
			if o.world.Usage != "" {
				ended = append(ended, o)
			}
		}
	}
	watched.picked = time.Now()
	for _, o := range ended {
		o.end(&limit)
	}
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

// room returns how many bytes of the file system of dir are free for ordinary users, and
// how many it has. If files are scarce, no bytes are free, and inodes is how many files
// it can hold; else 0. It reports false if dir is "" or cannot be looked at.
func room(dir string) (free, size, inodes uint64, ok bool) {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return 0, 0, 0, false
	}
	if free = st.Bavail * uint64(st.Bsize); st.Ffree < st.Files/scarce {
		free, inodes = 0, st.Files
	}
	return free, st.Blocks * uint64(st.Bsize), inodes, true
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
// commands have open or mapped but that are in no directory: removed files, and files in
// memory. It returns them by PID namespace. The caller holds the lock of watched.
func unnamed() map[string]int64 {
	type inode struct {
		ns       string
		dev, ino uint64
	}
	bytes, seen := map[string]int64{}, map[inode]bool{}
	for dir, ns := range namespaces() {
		if !slices.ContainsFunc(watched.list, func(c *command) bool { return c.ns == ns }) {
			continue
		}
		// A thread may have its own table of files.
		open, _ := filepath.Glob(dir + "/task/*/fd/*")
		mapped, _ := filepath.Glob(dir + "/map_files/*")
		for _, file := range append(open, mapped...) {
			var st unix.Stat_t
			err := unix.Stat(file, &st)
			f := inode{ns, st.Dev, st.Ino}
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
