package build

import (
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Bare reports whether the command that builds the modules is one which is given the
// number of jobs and the kernel's release: it begins with the bare word make, or
// is empty, which means the usual one. To others it would come as a surprise:
// packages put make in quotes because their Makefiles are not made for many jobs.
func Bare(command string) bool {
	args, bare := strings.CutPrefix(command, "make")
	return command == "" || bare && (args == "" || strings.ContainsAny(args[:1], " \t\n"))
}

// ownJobs finds a number of jobs in a shell command that runs make: -j as the last
// of some of make's short options that take no argument, or --jobs, and after it
// the number or what the shell is to make one of.
var ownJobs = regexp.MustCompile(`(?:^|[\s;&|("'=])-(?:[BbdeikLmnpqrRsStvw]*j|-jobs=?)["']?[ \t]*(\d+|$|[\s;&|)"'$` + "`" + `\\])`)

// OwnJobs reports whether the command that builds the modules tells make itself how
// many jobs to run; then n is that number, 0 where it names none, or none that can
// be read without a shell. Such a make would not use a jobserver.
func OwnJobs(command string) (n int, own bool) {
	for _, m := range ownJobs.FindAllStringSubmatch(command, -1) {
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

// add adds what a process that has ended used, and those that it waited for.
func (u *Usage) add(p *os.ProcessState) {
	if p == nil {
		return // it did not start
	}
	u.Processor += p.UserTime() + p.SystemTime()
	if r, ok := p.SysUsage().(*syscall.Rusage); ok {
		u.Memory = max(u.Memory, int64(r.Maxrss)*1024) // which is in KiB
	}
}
