// SPDX-License-Identifier: GPL-2.0-or-later

// Package follow does what changes to a kernel's modules entail: depmod, weak
// modules, a new initramfs, and post_transaction. What is due is noted on the disk
// before the first module changes.
package follow

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"dkms-kernel-install/internal/child"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// Policy says what is to follow.
type Policy struct {
	NoDepmod bool // leave depmod to somebody else
	// DepmodIsNext leaves depmod to kernel-install's own plugin, if that is about
	// to run it; it is not if ours fails.
	DepmodIsNext bool
	Modprobe     bool // load what was installed for the running kernel
	Initramfs    Initramfs
	DryRun       bool // change nothing, and say what would be done
}

// Initramfs says when a kernel's initramfs is made again.
type Initramfs int

// When an initramfs is made again.
const (
	Leave      Initramfs = iota // never: somebody else does it
	Carried                     // if it carries a module that changed
	Renew                       // also if it would get one that is new to the kernel
	RenewEntry                  // the same, if kernel-install made it: somebody else makes others
)

// Change is what became of a package's modules in the directory of a kernel.
type Change struct {
	Package         tree.ID
	Kernel          tree.Target
	Placed, Removed []string // paths
	Restored        []string // paths of modules of the kernel's own that are back
	Fresh           string   // the package, if it was not installed for the kernel before
	NoWeakModules   bool     // its conf keeps other kernels from sharing them
}

// Failed is what has failed that concerns a kernel as a whole.
type Failed struct {
	Kernel  tree.Target
	Failure *failure.Failure
}

// Rest is what is left to do for a kernel once its changes are indexed: it is done
// without the lock of the tree, by [Rest.Renew].
type Rest struct {
	Kernel tree.Target
	due    Due
	way    renewal
}

// Index makes kernels know their modules: those of changes, and those of kernels
// for which an earlier run owes it, as owed says. It notes what is left to do. The
// caller holds the lock of the tree.
func Index(ctx context.Context, m *machine.Machine, p Policy, owed map[tree.Target]Due, changes []Change) ([]Rest, []Failed) {
	var steps []*indexing
	for k, due := range owed {
		steps = append(steps, &indexing{Rest: Rest{Kernel: k, due: due}})
	}
	slices.SortFunc(steps, func(a, b *indexing) int { return strings.Compare(a.Kernel.String(), b.Kernel.String()) })
	for _, c := range changes {
		i := slices.IndexFunc(steps, func(s *indexing) bool { return s.Kernel == c.Kernel })
		if i < 0 {
			i, steps = len(steps), append(steps, &indexing{Rest: Rest{Kernel: c.Kernel}})
		}
		steps[i].changes = append(steps[i].changes, c)
	}
	for _, s := range steps {
		s.tellWeak(ctx, m, p)
	}
	var group errgroup.Group // it takes seconds of one processor for each kernel
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, s := range steps {
		s.decide(m, p)
		if s.runs {
			s.depmod = sync.OnceValue(func() error { return Depmod(ctx, m.Kernel(s.Kernel).Dir) })
			group.Go(s.depmod)
		}
	}
	_ = group.Wait() // each is asked for its own
	var rest []Rest
	var failed []Failed
	for _, s := range steps {
		if f := s.finish(ctx, m, p); f != nil {
			failed = append(failed, Failed{s.Kernel, f})
		}
		rest = append(rest, s.Rest)
	}
	return rest, failed
}

// indexing is how one kernel gets to know its modules.
type indexing struct {
	Rest
	changes []Change
	runs    bool // depmod runs here
	depmod  func() error
}

// decide finds out what is due, and who runs depmod.
func (s *indexing) decide(m *machine.Machine, p Policy) {
	k := s.Kernel
	if s.due.Depmod && len(s.changes) == 0 {
		if err := m.Modules(k).Tidy(); err != nil {
			m.Note("warning: " + err.Error())
		}
	}
	if p.Initramfs != Leave {
		for _, c := range s.changes {
			s.due = s.due.And(Due{Modules: ModuleNames(slices.Concat(c.Placed, c.Removed, c.Restored)...), Fresh: c.Fresh})
		}
	}
	s.runs = (len(s.changes) > 0 || s.due.Depmod) && !p.NoDepmod
	s.way = findRenewal(m, p, k, s.due)
	command := postTransaction(m, k)
	s.due.Transaction = command != "" && (s.due.Transaction || len(s.changes) > 0)
	switch {
	case !s.runs:
	case s.way.depmod:
		s.runs, s.due.Depmod = false, true
	case p.DepmodIsNext && DepmodPlugin(m, k) && command == "":
		s.runs, s.due.Depmod = false, false
	}
}

// finish notes what is left to do, and loads what was placed, if that is wanted.
func (s *indexing) finish(ctx context.Context, m *machine.Machine, p Policy) (failed *failure.Failure) {
	if s.runs {
		err := s.depmod()
		if s.due.Depmod = err != nil; err != nil {
			failed = failure.From(err, "depmod failed", failure.StatusInstall)
		}
	}
	var err error
	if s.due, err = Owe(m, s.Kernel, s.due); err != nil {
		m.Note(fmt.Sprintf("warning: %s: cannot note what is left to do: %v", s.Kernel.Release, err))
	}
	var placed []string
	for _, c := range s.changes {
		placed = append(placed, c.Placed...)
	}
	if s.runs && failed == nil && len(placed) > 0 && loads(m, p, s.Kernel) {
		if err := modprobe(ctx, placed); err != nil {
			m.Note("warning: " + err.Error())
		}
	}
	return failed
}

// loads reports whether modules are loaded once they are placed.
func loads(m *machine.Machine, p Policy, k tree.Target) bool {
	return k.Release == m.Running && (p.Modprobe || m.Settings.ModprobeOnInstall)
}

// DepmodPlugin reports whether kernel-install's own plugin is about to run depmod
// for k: it is there, neither masked nor left out, and sees a kernel.
func DepmodPlugin(m *machine.Machine, k tree.Target) bool {
	const name = "50-depmod.install"
	if list, set := os.LookupEnv("KERNEL_INSTALL_PLUGINS"); set && list != "" {
		if !slices.ContainsFunc(strings.Fields(list), func(path string) bool { return filepath.Base(path) == name }) {
			return false
		}
	}
	kernel, err := os.Stat(filepath.Join(m.Kernel(k).Dir, "kernel"))
	if err != nil || !kernel.IsDir() || m.Kernels.Modules != m.StandardModules() {
		return false
	}
	for _, dir := range []string{"/etc/kernel/install.d", "/usr/lib/kernel/install.d"} {
		fi, err := os.Stat(filepath.Join(m.Path(dir), name))
		if err == nil {
			// A link to /dev/null masks the file in later directories.
			return fi.Mode().IsRegular() && fi.Size() > 0 && fi.Mode()&0o111 != 0
		}
	}
	return false
}

// modprobe loads the modules in the files called paths, but for those that the
// administrator has blacklisted.
func modprobe(ctx context.Context, paths []string) error {
	cmd := exec.Command("modprobe", append([]string{"--all", "--use-blacklist", "--"}, ModuleNames(paths...)...)...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := child.Run(ctx, cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out.lastLine())
	}
	return nil
}

// postTransaction returns the command to run after changes to the modules of k; "" if there
// is none, or if the settings of k cannot be read.
func postTransaction(m *machine.Machine, k tree.Target) string {
	set, _ := m.SettingsFor(k.Release)
	return set.PostTransaction
}

// Transaction runs post_transaction of framework.conf for the kernels of rest whose modules
// changed: once, or, if the command depends on $kernelver, once for each kernel. Then it
// forgets that this was due. The caller does not hold the lock of the tree, since the command
// may need it; lock takes it. If the command fails, there is a warning, and no more.
func Transaction(ctx context.Context, m *machine.Machine, rest []Rest, lock func() (release func(), err error)) {
	rest = slices.DeleteFunc(slices.Clone(rest), func(r Rest) bool { return !r.due.Transaction })
	if len(rest) == 0 || ctx.Err() != nil {
		return // the next run does it
	}
	var commands []transaction
	for _, r := range rest {
		command := postTransaction(m, r.Kernel)
		again := slices.ContainsFunc(commands, func(c transaction) bool { return c.command == command })
		if !again || namesKernel().MatchString(command) {
			commands = append(commands, transaction{r.Kernel, command})
		}
	}
	runCommands(ctx, m, commands)
	for _, r := range rest {
		if err := r.forget(m, lock, func(due *Due) { due.Transaction = false }); err != nil {
			m.Note(fmt.Sprintf("warning: %s: the next run will run post_transaction again: %v", r.Kernel.Release, err))
		}
	}
}

// runCommands runs commands, and keeps their output.
func runCommands(ctx context.Context, m *machine.Machine, commands []transaction) {
	file := filepath.Join(m.Tree.Dir, "post_transaction.log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		m.Note("warning: post_transaction was not run: cannot keep its output: " + err.Error())
		return
	}
	defer log.Close()
	for _, c := range commands {
		k := c.kernel
		fmt.Fprintf(log, "# kernel: %s\n# command: %s\n", k.Release, c.command)
		cmd := exec.CommandContext(ctx, "bash", "-c", `eval "$1"`, "dkms", c.command)
		cmd.Env = append(os.Environ(), "kernelver="+k.Release, "arch="+k.Arch)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			m.Note(fmt.Sprintf("warning: post_transaction failed for %s: %v (log: %s)", k.Release, err, file))
		}
	}
}

// transaction is a command to run for a kernel.
type transaction struct {
	kernel  tree.Target
	command string
}

// namesKernel matches a command in which a shell has yet to expand $kernelver.
var namesKernel = lazy.Regexp(`\$\{?kernelver`)
