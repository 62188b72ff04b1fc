// SPDX-License-Identifier: GPL-2.0-or-later

package resources

import (
	"maps"
	"os"
	"path/filepath"
	"testing"
)

const (
	mounts1 = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n" +
		"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n" +
		"35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	mounts2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
)

func TestProcessors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		n     int
		files map[string]string
		want  int
	}{
		{"no /proc", 4, nil, 4},
		{"no control groups", 4, map[string]string{"proc/self/cgroup": "", "proc/self/mountinfo": mounts2}, 4},
		{"no mount of them", 4, map[string]string{"proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": ""}, 4},
		{"v2, no limit", 4, map[string]string{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, 4},
		{"v2", 4, map[string]string{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 2},
		{"v2, rounded up", 4, map[string]string{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/b/cpu.max": "200001 100000\n"}, 3},
		{"v2, at least one", 4, map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/cpu.max": "1000 100000\n"}, 1},
		{"v2, more than there are", 4, map[string]string{"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/cpu.max": "9000000 100000\n"}, 4},
		{"v2, the group above", 8, map[string]string{"proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/b/cpu.max": "600000 100000\n", "sys/fs/cgroup/a/cpu.max": "500000 100000\n"}, 5},
		{"v2, seen from a container", 8, map[string]string{"proc/self/cgroup": "0::/../other\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/cpu.max": "300000 100000\n", "sys/fs/other/cpu.max": "100000 100000\n"}, 3},
		{"v1", 8, map[string]string{"proc/self/cgroup": "3:cpuset:/\n2:cpu,cpuacct:/a\n0::/u\n", "proc/self/mountinfo": mounts1,
			"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "150000\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "50000\n"}, 3},
		{"v1, no limit", 8, map[string]string{"proc/self/cgroup": "2:cpu,cpuacct:/a\n", "proc/self/mountinfo": mounts1,
			"sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "50000\n"}, 8},
		{"v1, bind mount", 8, map[string]string{"proc/self/cgroup": "2:cpu:/docker/1\n",
			"proc/self/mountinfo":                      "32 31 0:29 /docker/1 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
			"sys/fs/cgroup/cpu/cpu.cfs_quota_us":       "100000\n",
			"sys/fs/cgroup/cpu/cpu.cfs_period_us":      "50000\n",
			"sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota": "-1\n"}, 2},
		{"nonsense", 4, map[string]string{"proc/self/cgroup": "x\n0::/\n::\n", "proc/self/mountinfo": "1 2 - cgroup2\n" + mounts2,
			"sys/fs/cgroup/cpu.max": "-9223372036854775808 0\n"}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := processors(lay(t, tt.files), tt.n); got != tt.want {
				t.Errorf("%d processors, want %d", got, tt.want)
			}
		})
	}
}

func TestControlGroups(t *testing.T) {
	session := map[string]string{"proc/self/cgroup": "0::/user.slice/session\n", "proc/self/mountinfo": mounts2,
		"sys/fs/cgroup/user.slice/session/memory.max": "max\n", "sys/fs/cgroup/user.slice/cpu.max": "max 100000\n"}
	limited := maps.Clone(session)
	limited["sys/fs/cgroup/user.slice/memory.high"] = "1000000\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", nil, ""},
		{"a session", session, "sys/fs/cgroup"},
		{"a limit above", limited, ""},
		{"v1", map[string]string{"proc/self/cgroup": "2:memory:/a\n0::/u\n", "proc/self/mountinfo": mounts1}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := lay(t, tt.files)
			dir, ok := controlGroups(root)
			if rel, _ := filepath.Rel(root, dir); ok != (tt.want != "") || ok && rel != tt.want {
				t.Errorf("%q, %v, want %q", dir, ok, tt.want)
			}
		})
	}
}

func TestMemory(t *testing.T) {
	const meminfo = "MemTotal:       9999 kB\nMemAvailable:   1000 kB\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  int64
	}{
		{"not known", nil, -1},
		{"no limit", map[string]string{"proc/meminfo": meminfo}, 1024000},
		{"v2, no limit", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/memory.max": "max\n", "sys/fs/cgroup/a/memory.current": "7\n"}, 1024000},
		{"v2", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/memory.max": "5000\n", "sys/fs/cgroup/a/memory.current": "4000\n"}, 1000},
		{"v2, cache is free", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/memory.max": "5000\n", "sys/fs/cgroup/a/memory.current": "4000\n",
			"sys/fs/cgroup/a/memory.stat": "anon 5\nfile 3000\ninactive_file 1000\nactive_file 500\nslab_reclaimable 100\n"}, 2600},
		{"v2, over the limit above", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/b/memory.max": "5000\n", "sys/fs/cgroup/a/b/memory.current": "4000\n",
			"sys/fs/cgroup/a/memory.max": "5000\n", "sys/fs/cgroup/a/memory.current": "5001\n"}, 0},
		{"v1", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/a\n", "proc/self/mountinfo": mounts1,
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes": "5000\n", "sys/fs/cgroup/memory/a/memory.usage_in_bytes": "4000\n",
			"sys/fs/cgroup/memory/a/memory.stat": "inactive_file 9\ntotal_inactive_file 1000\n"}, 2000},
		{"v1, no limit", map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:memory:/\n", "proc/self/mountinfo": mounts1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n", "sys/fs/cgroup/memory/memory.usage_in_bytes": "4000\n"}, 1024000},
		{"a limit alone", map[string]string{"proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/memory.max": "5000\n", "sys/fs/cgroup/a/memory.current": "4000\n"}, 1000},
		{"nonsense", map[string]string{"proc/meminfo": "MemAvailable: -5 kB\n", "proc/self/cgroup": "0::/a\n", "proc/self/mountinfo": mounts2,
			"sys/fs/cgroup/a/memory.max": "-5\n", "sys/fs/cgroup/a/memory.current": "x\n"}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := memory(lay(t, tt.files))
			if !ok {
				got = -1
			}
			if got != tt.want {
				t.Errorf("%d bytes, want %d", got, tt.want)
			}
		})
	}
}

func TestRAM(t *testing.T) {
	for _, tt := range []struct {
		name, meminfo    string
		total, available int64
		ok               bool
	}{
		{"both", "MemTotal: 9 kB\nMemFree: 1 kB\nMemAvailable: 3 kB\n", 9 << 10, 3 << 10, true},
		{"nothing left", "MemTotal: 9 kB\nMemAvailable: 0 kB\n", 9 << 10, 0, true},
		{"an old kernel", "MemTotal: 9 kB\nMemFree: 1 kB\n", 9 << 10, 0, false},
		{"not known", "", 0, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			total, available, ok := ram(lay(t, map[string]string{"proc/meminfo": tt.meminfo}))
			if total != tt.total || available != tt.available || ok != tt.ok {
				t.Errorf("%d, %d, %v, want %d, %d, %v", total, available, ok, tt.total, tt.available, tt.ok)
			}
		})
	}
}

// TestHere looks at this machine, whatever that has.
func TestHere(t *testing.T) {
	if n := Processors(); n < 1 {
		t.Errorf("%d processors", n)
	}
	if bytes, ok := Memory(); ok && bytes < 0 {
		t.Errorf("%d bytes", bytes)
	}
}

// lay writes files below a new directory and returns that.
func lay(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}
