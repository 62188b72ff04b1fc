// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/jobserver"
	"dkms-kernel-install/internal/tree"
)

func TestCosts(t *testing.T) {
	dir := t.TempDir()
	small, large := filepath.Join(dir, "small"), filepath.Join(dir, "large")
	for file, size := range map[string]int{small + "/a.c": 10, large + "/x/a.c": 10000, small + "/a.h": 99999} {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(dir, "cache", "costs.json")
	c := openCosts(file)
	s, memory := c.of("small", small)
	l, _ := c.of("large", large)
	if s <= 0 || l <= s || memory != usualMemory {
		t.Errorf("never built: %v and %v, %d bytes", s, l, memory)
	}
	c.note("small", build.Usage{Processor: time.Minute, Memory: 100 << 20}, 40*time.Second)
	c.note("large", build.Usage{Processor: time.Second, Memory: 1}, 2*time.Second)
	c.note("large", build.Usage{}, 0) // from a cache
	c.note("gone", build.Usage{Processor: time.Second}, time.Second)
	if err := c.save([]tree.Package{{ID: tree.ID{Name: "small", Version: "2"}}, {ID: tree.ID{Name: "large", Version: "1"}}}); err != nil {
		t.Fatal(err)
	}
	c = openCosts(file)
	for _, tt := range []struct {
		name, source string
		time         time.Duration
		memory       int64
	}{
		{"small", small, time.Minute, 100 << 20},
		{"large", large, time.Second, leastMemory},
		{"gone", small, s, usualMemory},
	} {
		if took, memory := c.of(tt.name, tt.source); took != tt.time || memory != tt.memory {
			t.Errorf("%s: %v, %d bytes; want %v, %d", tt.name, took, memory, tt.time, tt.memory)
		}
	}
	if elapsed, processor := c.last("small"); elapsed != 40*time.Second || processor != time.Minute {
		t.Errorf("small took %v, and %v of processor time", elapsed, processor)
	}
	for _, text := range []string{"", "{{{", "[]", "null", `{"small":3}`, `{"small":{"Seconds":-1,"Memory":-1}}`, `{"small":{"Seconds":1e300,"Elapsed":1,"Memory":0}}`} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		c := openCosts(file)
		if took, memory := c.of("small", small); took != s || memory != usualMemory {
			t.Errorf("%s: %v, %d bytes", text, took, memory)
		}
		if elapsed, processor := c.last("small"); elapsed != 0 || processor != 0 {
			t.Errorf("%s: it took %v, and %v of processor time", text, elapsed, processor)
		}
		c.note("small", build.Usage{Processor: 1}, 1)
	}
}

func TestJobsFor(t *testing.T) {
	for _, tt := range []struct {
		command, make  string
		n              int
		number, tokens int
		shared         bool
	}{
		{"make all", "GNU Make 4.3", 4, 0, 1, true},
		{"", "GNU Make 4.3", 4, 0, 1, true},
		{"make all", "GNU Make 4.3", 1, 0, 1, false},
		{"make -j3 all", "GNU Make 4.3", 4, 0, 3, false},
		{"make -j8 all", "GNU Make 4.3", 4, 0, 4, false},
		{"make -j$(nproc) all", "GNU Make 4.3", 4, 0, 4, false},
		{"make -j all", "GNU Make 4.3", 1, 0, 1, false},
		{"make all", "", 4, 4, 4, false},
		{"'make' all", "GNU Make 4.3", 4, 0, 1, false},
		{"./make", "", 4, 0, 1, false},
		{"make all", "GNU Make 4.3", conf.NoLimit, -1, 1, false},
		{"make -j3 all", "GNU Make 4.3", conf.NoLimit, -1, 1, false},
	} {
		var s *jobserver.Server
		if tt.n != conf.NoLimit {
			var err error
			if s, err = jobserver.New(tt.n, tt.make); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
		}
		got, tokens := jobsFor(tt.command, s)
		if got.number != tt.number || tokens != tt.tokens || (got.server != nil) != tt.shared {
			t.Errorf("%s of %s with %d: %+v, %d tokens", tt.command, tt.make, tt.n, got, tokens)
		}
	}
}
