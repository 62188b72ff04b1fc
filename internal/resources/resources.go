// SPDX-License-Identifier: GPL-2.0-or-later

// Package resources knows how much of the machine this process may use. It respects
// control groups of both versions: see cgroups(7) and, in the documentation of the
// kernel, admin-guide/cgroup-v2 and admin-guide/cgroup-v1.
package resources

import (
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Processors returns how many processors this process may keep busy, at least 1: those
// that it may run on, but no more than the quota of its control group, rounded up. It finds
// out once.
func Processors() int { return ownProcessors() }

var ownProcessors = sync.OnceValue(func() int { return processors("/", runtime.NumCPU()) })

// Memory returns how many bytes this process and those that it starts can take before
// the machine, or their control group, has to swap or to kill. It reports false if that
// is not known.
func Memory() (bytes int64, ok bool) { return memory("/") }

// RAM returns how many bytes of memory the machine has, and how many of them it can
// give to programs before it has to swap, whatever control groups say. It reports false
// if that is not known.
func RAM() (total, available int64, ok bool) { return ram("/") }

func ram(root string) (total, available int64, ok bool) {
	text := read(root, "proc/meminfo") // in KiB
	total, okTotal := Stat(text, "MemTotal:")
	available, ok = Stat(text, "MemAvailable:")
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
		// No limit is "max" in version 2, and -1 in version 1.
		q, errQ := strconv.ParseInt(quota, 10, 64)
		p, errP := strconv.ParseInt(period, 10, 64)
		if errQ == nil && errP == nil && q > 0 && p > 0 {
			n = int(min(int64(n), (q-1)/p+1))
		}
	}
	return max(1, n)
}

func memory(root string) (bytes int64, ok bool) {
	free, ok := Stat(read(root, "proc/meminfo"), "MemAvailable:")
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
		// The page cache counts as used, but is freed when memory is short.
		text := read(dir, "memory.stat")
		for _, name := range []string{"active_file", "inactive_file", "slab_reclaimable"} {
			cache, _ := Stat(text, prefix+name)
			u -= cache
		}
		bytes, ok = min(bytes, max(0, l-max(0, u))), true
	}
	return bytes, ok
}

// ControlGroups returns the top directory of the control groups of version 2. It reports
// false if there are none, or if one that this process is in limits its memory or its
// processors: the limit would not hold for what runs elsewhere.
func ControlGroups() (dir string, ok bool) { return controlGroups("/") }

func controlGroups(root string) (dir string, ok bool) {
	dirs, v2 := groups(root, "memory")
	for _, d := range dirs {
		for _, limit := range []string{"memory.max", "memory.high", "cpu.max"} {
			if value := read(d, limit); value != "" && !strings.HasPrefix(value, "max") {
				return "", false
			}
		}
		dir = d
	}
	return dir, v2 && dir != ""
}

// groups returns the directory of the control group of this process for controller,
// and those of its visible ancestors. v2 reports whether they are of version 2.
func groups(root, controller string) (dirs []string, v2 bool) {
	// Each line is HIERARCHY:CONTROLLERS:PATH. That of version 2 is 0::PATH.
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

// mount returns where the hierarchy of controller is mounted, and the path of the
// group path below that, which is "." if the group is not below what is mounted. top
// is "" if the hierarchy is not mounted.
func mount(root, controller string, v2 bool, path string) (top, dir string) {
	// proc_pid_mountinfo(5) describes the fields: the fourth is the directory of
	// the hierarchy that is mounted, and the fifth where. After a lone dash come the
	// type, the source and the options of the file system.
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

// Stat returns the number after name at the beginning of a line of text, which is that of
// a file such as memory.stat or /proc/meminfo. It reports false if there is no such line,
// or no such number that is not negative.
func Stat(text, name string) (int64, bool) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) >= 2 && f[0] == name {
			n, err := strconv.ParseInt(f[1], 10, 64)
			return n, err == nil && n >= 0
		}
	}
	return 0, false
}

// read returns the text of a file, trimmed, or "" if it cannot be read.
func read(dir, file string) string {
	b, _ := os.ReadFile(filepath.Join(dir, file))
	return strings.TrimSpace(string(b))
}
