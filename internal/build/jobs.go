// SPDX-License-Identifier: GPL-2.0-or-later

package build

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"dkms-kernel-install/internal/lazy"
)

// Bare reports whether the command that builds the modules gets arguments of this
// program, such as the number of jobs: it begins with the bare word make, or is empty,
// which means the usual command. Packages put make in quotes to avoid them, because
// their Makefiles cannot be run with many jobs.
func Bare(command string) bool {
	args, bare := strings.CutPrefix(command, "make")
	return command == "" || bare && (args == "" || strings.ContainsAny(args[:1], " \t\n"))
}

// ownJobs matches a number of jobs in a shell command that runs make: -j, alone or
// after short options of make without arguments, or --jobs; and then the number, or
// what the shell expands to one.
var ownJobs = lazy.Regexp(`(?:^|[\s;&|("'=])-(?:[BbdeikLmnpqrRsStvw]*j|-jobs=?)["']?[ \t]*(\d+|$|[\s;&|)"'$` + "`" + `\\])`)

// OwnJobs reports whether the command that builds the modules gives make a number of
// jobs, and returns that number; 0 if it names none, or one that only a shell can
// expand. Such a make does not use the jobserver.
func OwnJobs(command string) (n int, own bool) {
	for _, m := range ownJobs().FindAllStringSubmatch(command, -1) {
		jobs, err := strconv.Atoi(m[1])
		if err != nil || jobs == 0 {
			return 0, true
		}
		n, own = max(n, jobs), true
	}
	return n, own
}

// Usage is what processes used of the machine.
type Usage struct {
	// Processor is the time that they kept processors busy.
	Processor time.Duration
	// Memory is what the largest of them had in memory, in bytes.
	Memory int64
}

// add adds what a process that has ended used, and what its children used.
func (u *Usage) add(p *os.ProcessState) {
	if p == nil {
		return // it did not start
	}
	u.Processor += p.UserTime() + p.SystemTime()
	if r, ok := p.SysUsage().(*syscall.Rusage); ok {
		u.Memory = max(u.Memory, int64(r.Maxrss)*1024) // which is in KiB
	}
}
