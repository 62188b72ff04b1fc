package engine

import (
	"time"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/tree"
)

// Outcome is how the work on one package for one kernel ended.
type Outcome int

const (
	Done    Outcome = iota // something was done, and all of it
	Current                // nothing was to do
	Skipped                // the package does not want this kernel, or the kernel's module is newer
	Failed
	Removed
	Planned // would be done
)

func (o Outcome) String() string {
	return [...]string{"done", "current", "skipped", "failed", "removed", "planned"}[o]
}

// Result is what became of one package for one kernel. ID is empty in a result
// that is about the kernel alone.
type Result struct {
	tree.ID
	Kernel  tree.Target
	Outcome Outcome

	// Cached says that what was built is from the cache of builds.
	Built, Cached, Signed bool
	Compression           kmod.Compression
	Placed                []string // paths of modules put into the kernel's folder
	Kept                  []string // why modules of the kernel's own were kept
	Removed               []string // paths of modules taken out
	// New says that no version of the package was installed for the kernel
	// before. Modules are the names of those that would be placed.
	New     bool
	Modules []string
	Took    time.Duration

	// Why explains Skipped and Planned, Failure explains Failed.
	Why     string
	Failure *failure.Failure
	// Warnings tell of scripts that failed after the work was done.
	Warnings []string
}
