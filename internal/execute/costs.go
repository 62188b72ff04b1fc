// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"maps"
	"sync"
	"time"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/tree"
)

// costs remembers what builds of packages cost, by name: another version or another
// kernel changes little. Only the order of builds, and how many run at a time, depend on
// it. It may be lost at any time.
type costs struct {
	file string

	mu      sync.Mutex
	known   map[string]cost
	changed bool
	sizes   map[string]time.Duration // guesses by directory of the source
}

// cost is what the last successful build of a package used.
type cost struct {
	Seconds float64 // of processor time
	Memory  int64   // bytes of its largest process
}

const (
	// A package that was never built is expected to take the first, and the second
	// for each byte of its source. The figures are from builds of Debian's packages;
	// only which of two packages takes longer counts.
	leastTime   = 2 * time.Second
	timePerByte = 20 * time.Microsecond
	// A job of a build needs this much memory if nothing is known, and at least: what
	// a compiler usually needs, and the least.
	usualMemory = 512 << 20
	leastMemory = 64 << 20
)

func openCosts(file string) *costs {
	c := &costs{file: file, known: map[string]cost{}, sizes: map[string]time.Duration{}}
	if known, ok := files.ReadState[map[string]cost](file); ok && known != nil {
		c.known = known
	}
	return c
}

// of returns what a build of the package called name may need, whose source is in the
// directory source: processor time, and bytes of memory for each job.
func (c *costs) of(name, source string) (time.Duration, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[name]
	// The file may say anything.
	memory := min(max(known.Memory, leastMemory), 1<<40)
	if known.Memory <= 0 {
		memory = usualMemory
	}
	if known.Seconds > 0 && known.Seconds < 1e6 {
		return time.Duration(known.Seconds * float64(time.Second)), memory
	}
	guess, ok := c.sizes[source]
	if !ok {
		guess = leastTime + time.Duration(min(build.Cost(source), 1<<40))*timePerByte
		c.sizes[source] = guess
	}
	return guess, memory
}

// note remembers what a build of the package called name used.
func (c *costs) note(name string, used build.Usage) {
	if used.Processor <= 0 {
		return // nothing was built
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[name] = cost{Seconds: used.Processor.Seconds(), Memory: used.Memory}
	c.changed = true
}

// save writes what is known of the packages that are still registered.
func (c *costs) save(packages []tree.Package) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.changed {
		return nil
	}
	c.changed = false
	there := map[string]bool{}
	for _, p := range packages {
		there[p.Name] = true
	}
	maps.DeleteFunc(c.known, func(name string, _ cost) bool { return !there[name] })
	return files.WriteState(c.file, c.known, files.Options{})
}
