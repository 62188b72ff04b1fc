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
// kernel changes little. Only the order of builds, how many run at a time, and what is
// said of how long they will take, depend on it. It may be lost at any time.
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
	Elapsed float64 // seconds from its start to its end
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

// last returns what the last build of the package called name took, from its start to its
// end and of processor time; zero values if that is not known.
func (c *costs) last(name string) (elapsed, processor time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.known[name]
	if known.Seconds <= 0 || known.Seconds >= 1e6 || known.Elapsed <= 0 || known.Elapsed >= 1e6 {
		return 0, 0
	}
	return time.Duration(known.Elapsed * float64(time.Second)), time.Duration(known.Seconds * float64(time.Second))
}

// note remembers what a build of the package called name used, and how long it took.
func (c *costs) note(name string, used build.Usage, elapsed time.Duration) {
	if used.Processor <= 0 {
		return // nothing was built
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known[name] = cost{Seconds: used.Processor.Seconds(), Elapsed: elapsed.Seconds(), Memory: used.Memory}
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
