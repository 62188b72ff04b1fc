// SPDX-License-Identifier: GPL-2.0-or-later

// Package resources tells how much of the machine this process may use. Control
// groups count, of both versions; see cgroups(7) and, in the kernel's
// documentation, admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
package resources

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Processors returns how many processors this process may keep busy: those that
// it may run on, and no more than the quota of its control group, rounded up. It
// is at least 1.
func Processors() int { return processors("/", runtime.NumCPU()) }

// Memory returns how many bytes this process and those that it starts can take
// before the machine, or their control group, has to swap or to kill; ok is false
// where nobody says so.
func Memory() (bytes int64, ok bool) { return memory("/") }

// RAM returns how many bytes the machine has, and how many it can give to programs
// before it has to swap, whatever control groups say; ok is false where nobody
// says so.
func RAM() (total, available int64, ok bool) { return ram("/") }

func ram(root string) (total, available int64, ok bool) {
	text := read(root, "proc/meminfo") // in KiB
	total, okTotal := stat(text, "MemTotal:")
	available, ok = stat(text, "MemAvailable:")
	return total * 1024, available * 1024, ok && okTotal
}

func processors(root string, n int) int {
	dirs, v2 := groups(root, "cpu")
	for _, dir := range dirs {
		var quota, period string
		if v2 {
			quota, period, _ = strings.Cut(read(dir, "cpu.max"), " ")
		} else {
			quota, period = read(dir, "cpu.cfs_quota_us"), read(dir, "cpu.cfs_period_us")
		}
		// No limit is "max" in the one version and -1 in the other.
		q, errQ := strconv.ParseInt(quota, 10, 64)
		p, errP := strconv.ParseInt(period, 10, 64)
		if errQ == nil && errP == nil && q > 0 && p > 0 {
			n = int(min(int64(n), (q-1)/p+1))
		}
	}
	return max(1, n)
}

func memory(root string) (bytes int64, ok bool) {
	free, ok := stat(read(root, "proc/meminfo"), "MemAvailable:")
	bytes = math.MaxInt64
	if ok {
		bytes = free * 1024
	}
	dirs, v2 := groups(root, "memory")
	for _, dir := range dirs {
		limit, used, prefix := "memory.max", "memory.current", ""
		if !v2 {
			limit, used, prefix = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
		}
		l, errL := strconv.ParseInt(read(dir, limit), 10, 64)
		u, errU := strconv.ParseInt(read(dir, used), 10, 64)
		if errL != nil || errU != nil || l < 0 || u < 0 {
			continue
		}
		// The cache of files counts as used, and goes when there is need.
		text := read(dir, "memory.stat")
		for _, name := range []string{"active_file", "inactive_file", "slab_reclaimable"} {
			cache, _ := stat(text, prefix+name)
			u -= cache
		}
		bytes, ok = min(bytes, max(0, l-max(0, u))), true
	}
	return bytes, ok
}

// groups returns the directories of the control group of this process that has the
// controller, and of those above it that can be seen.
func groups(root, controller string) (dirs []string, v2 bool) {
	// Each line is HIERARCHY:CONTROLLERS:PATH; that of version 2, 0::PATH.
	path, found := "", false
	for line := range strings.Lines(read(root, "proc/self/cgroup")) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(f) < 3:
		case slices.Contains(strings.Split(f[1], ","), controller):
			path, found, v2 = f[2], true, false
		case f[0] == "0" && f[1] == "" && !found:
			path, found, v2 = f[2], true, true
		}
	}
	if !found {
		return nil, false
	}
	top, dir := mount(root, controller, v2, path)
	for top != "" {
		dirs = append(dirs, filepath.Join(root, top, dir))
		if dir == "." {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dirs, v2
}

// mount returns where the hierarchy of a controller is mounted, and the path of a
// group below there: "." where all that can be seen of it is the mount itself.
func mount(root, controller string, v2 bool, path string) (top, dir string) {
	// Fields are as in proc_pid_mountinfo(5): the fourth is what of the
	// hierarchy is mounted, the fifth where; after a lone dash come the type,
	// the source and the options of the file system.
	for line := range strings.Lines(read(root, "proc/self/mountinfo")) {
		first, second, _ := strings.Cut(line, " - ")
		f, fs := strings.Fields(first), strings.Fields(second)
		if len(f) < 5 || len(fs) < 3 {
			continue
		}
		if v2 && fs[0] == "cgroup2" || !v2 && fs[0] == "cgroup" && slices.Contains(strings.Split(fs[2], ","), controller) {
			rel, err := filepath.Rel(f[3], path)
			if err != nil || !filepath.IsLocal(rel) {
				rel = "."
			}
			return f[4], rel
		}
	}
	return "", "."
}

// stat returns the number after the word name at the begin of a line.
func stat(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

func read(dir, file string) string {
	b, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b))
}
