// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"slices"
	"time"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/tree"
)

// Outcome is how the work on a package for a kernel ended.
type Outcome int

const (
	Done    Outcome = iota // all that was to do is done
	Current                // there was nothing to do
	Skipped                // the package does not want this kernel, or the kernel's module is newer
	Failed
	Removed
	Planned // would be done
	spared  // there was no need, as a newer version is installed; not told
)

func (o Outcome) String() string {
	return [...]string{"done", "current", "skipped", "failed", "removed", "planned"}[o]
}

// Result is what became of a package for a kernel. ID is empty in a result that is about
// the kernel alone.
type Result struct {
	tree.ID
	Kernel  tree.Target
	Outcome Outcome

	// Built reports whether a build was made, or got from the store if Stored is set.
	// It is Resigned if it is what was in the tree, and only its signatures are new.
	Built, Stored, Resigned, Signed bool
	Compression                     codec.Compression
	// Installed reports whether the package now counts as installed. One that names no
	// module does, though nothing is placed.
	Installed bool
	Placed    []string // paths of modules put into the kernel's directory
	Kept      []string // why modules of the kernel's own were kept
	Removed   []string // paths of modules taken out
	Restored  []string // paths of modules put back, also in the place of one taken out
	// NoWeakModules reports whether the conf keeps other kernels from sharing the
	// modules.
	NoWeakModules bool
	// Deferred reports whether the package is skipped until one that it depends on is
	// registered; Waited, whether nobody asked for it, and it may have waited for one
	// that somebody asked for.
	Deferred, Waited bool
	// New reports whether no version of the package was installed for the kernel
	// before. Modules are the names of those that a dry run would place.
	New     bool
	Modules []string
	Took    time.Duration

	// Instead is the version that this one is installed in place of, because that cannot
	// be; empty if there is none.
	Instead string
	// Why explains Skipped and Planned, and Current if there is something to know;
	// Failure explains Failed.
	Why     string
	Failure *failure.Failure
	// Warnings are about what failed without making the work fail.
	Warnings []string
	// Unkept is why the cache of builds does not keep the build, if that is something
	// that the build did.
	Unkept string
}

// Missing reports whether the kernel lacks the modules of the package: they were not
// installed, and the kernel has none of its own that are as new.
func (r Result) Missing() bool {
	return r.Outcome == Failed || r.Outcome == Skipped && len(r.Kept) == 0
}

// Lacking returns those of results that are Missing, and that are about packages of which
// the kernel has no other version either.
func Lacking(results []Result) (list []Result) {
	for _, r := range results {
		if r.Missing() && !slices.ContainsFunc(results, func(other Result) bool {
			return other.Name == r.Name && other.Kernel == r.Kernel && !other.Missing()
		}) {
			list = append(list, r)
		}
	}
	return list
}

// warn adds a warning, unless it is empty.
func (r *Result) warn(warning string) {
	if warning != "" {
		r.Warnings = append(r.Warnings, warning)
	}
}
