package sandbox

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/machine"
)

// What a command uses of the machine is looked at this often.
const period = 100 * time.Millisecond

// watched are the commands that run now: when something is short, the one that
// uses most of it is ended, and the others go on.
var watched struct {
	sync.Mutex
	list []*command
}

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
	if free, size, ok := room(w.Usage); ok {
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
	if free, _, ok := room(c.world.Usage); ok && free < c.reserve && c.first(func(o *command) int64 { return usage(o.world.Usage) }) {
		c.end(&LimitError{fmt.Sprintf("it fills the disk: it wrote %d MiB", usage(c.world.Usage)>>20), "make room on the file system, if that was not too much"})
	}
	total, available, known := machine.RAM()
	short := known && available <= total/32
	many := c.world.Processes > 0 && threads() > c.world.Processes*9/10
	if c.ns == "" || !short && !many {
		return
	}
	used := processes()
	if short && c.first(func(o *command) int64 { return used[o.ns].memory }) {
		c.end(&LimitError{fmt.Sprintf("it fills the memory: it used %d MiB", used[c.ns].memory>>20), "run it again with fewer jobs (parallel_jobs in framework.conf)"})
	}
	if n := used[c.ns].count; c.world.Processes > 0 && n > c.world.Processes*9/10 {
		c.end(&LimitError{fmt.Sprintf("it started too many processes: %d run", n), "look at the end of the log"})
	}
}

// first says whether c is the one that uses most.
func (c *command) first(uses func(*command) int64) bool {
	watched.Lock()
	defer watched.Unlock()
	mine := uses(c)
	for _, o := range watched.list {
		if o != c && uses(o) > mine {
			return false
		}
	}
	return true
}

// room returns what is free for ordinary users on the file system of dir, and its
// size, in bytes. Nothing is free where there can be hardly any more files.
func room(dir string) (free, size uint64, ok bool) {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return 0, 0, false
	}
	if st.Ffree < st.Files/64 {
		return 0, st.Blocks * uint64(st.Bsize), true
	}
	return st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize), true
}

// usage returns what the files below dir take, in bytes; each takes some.
func usage(dir string) (bytes int64) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			if fi, err := d.Info(); err == nil {
				bytes += fi.Sys().(*syscall.Stat_t).Blocks*512 + 512
			}
		}
		return nil
	})
	return bytes
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
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		ns, err := os.Readlink(dir + "/ns/pid")
		if err != nil {
			continue
		}
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
