// SPDX-License-Identifier: GPL-2.0-or-later

package follow

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/initramfs"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// renewal is how a kernel's initramfs is made again, and why; an empty why means
// that it is not.
type renewal struct {
	initramfs.Initramfs
	why    string
	depmod bool // it runs depmod too
	err    error
}

// findRenewal decides whether the initramfs of k is made again for what is due.
func findRenewal(m *machine.Machine, p Policy, k tree.Target, due Due) (w renewal) {
	if p.Initramfs == Leave || len(due.Modules) == 0 {
		return renewal{}
	}
	system := initramfs.System{Root: m.Root, Modules: strings.TrimPrefix(m.Kernels.Modules, m.Root)}
	i, ok, err := system.Find(k.Release)
	if err != nil || !ok {
		return renewal{err: err}
	}
	if p.Initramfs == RenewEntry && i.Generator != initramfs.KernelInstall {
		return renewal{}
	}
	w.Initramfs = i
	switch carries, err := i.Carries(due.Modules); {
	case err != nil:
		w.why = "it may carry " + strings.Join(due.Modules, ", ") + ": " + err.Error()
	case carries:
		w.why = "it carries a module that changed"
	case due.Fresh != "" && p.Initramfs != Carried:
		w.why = due.Fresh + " is new to it"
	}
	// What is loaded right after depmod cannot wait for it.
	w.depmod = w.why != "" && i.Generator == initramfs.KernelInstall && !loads(m, p, k) && DepmodPlugin(m, k)
	return w
}

// Plan says what would be left to do for k after changes, without doing anything.
func Plan(m *machine.Machine, p Policy, k tree.Target, more Due) Rest {
	due := Owed(m, k).And(more)
	return Rest{Kernel: k, due: due, way: findRenewal(m, p, k, due)}
}

// Renew makes a new initramfs for the kernel, if it needs one, and then forgets what
// was due. The caller does not hold the lock of the tree, for the generator may call
// this program again by kernel-install; lock takes it. Renew returns what failed.
func (r Rest) Renew(ctx context.Context, m *machine.Machine, p Policy, lock func() (release func(), err error)) (failed []Failed) {
	if p.DryRun && r.due.Depmod {
		m.Note(r.Kernel.Release + ": would run depmod")
	}
	if p.Initramfs == Leave || len(r.due.Modules) == 0 || r.due.Depmod && !p.DryRun && !r.way.depmod {
		return nil // without depmod, it would be made from indexes that are out of date
	}
	if f := r.make(ctx, m, p); f != nil {
		failed = append(failed, Failed{r.Kernel, f})
		if r.due.Depmod {
			failed = append(failed, r.indexAfterAll(ctx, m, lock)...)
		}
		return failed
	}
	if p.DryRun {
		return nil
	}
	if err := r.forget(m, lock, func(due *Due) { *due = Due{Transaction: due.Transaction} }); err != nil {
		m.Note(fmt.Sprintf("warning: %s: the next run will make the initramfs again: %v", r.Kernel.Release, err))
	}
	return nil
}

// make makes a new initramfs, if there is a reason to. It returns what failed.
func (r Rest) make(ctx context.Context, m *machine.Machine, p Policy) *failure.Failure {
	w := r.way
	if w.err != nil {
		return failure.From(w.err, "cannot tell how the initramfs is made", failure.StatusInstall)
	}
	if w.why == "" {
		return nil
	}
	if p.DryRun {
		m.Note(fmt.Sprintf("%s: would make a new initramfs by %s: %s", r.Kernel.Release, w.Generator, w.why))
		return nil
	}
	start := time.Now()
	for _, command := range w.Commands() {
		var out tail
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return &failure.Failure{
				What: "making the initramfs failed", Why: fmt.Sprintf("%s: %v: %s", command[0], err, out.lastLine()),
				Hint: "run: " + strings.Join(command, " "), Status: failure.StatusInstall, Err: err,
			}
		}
	}
	m.Note(fmt.Sprintf("%s: new initramfs by %s in %.1f s: %s", r.Kernel.Release, w.Generator, time.Since(start).Seconds(), w.why))
	return nil
}

// forget notes what is not due any more, which do takes out, unless another run has changed
// the note since.
func (r Rest) forget(m *machine.Machine, lock func() (func(), error), do func(*Due)) error {
	release, err := lock()
	if err != nil {
		return err
	}
	defer release()
	due := Owed(m, r.Kernel)
	if due.Changed != r.due.Changed {
		return nil
	}
	do(&due)
	_, err = Owe(m, r.Kernel, due)
	return err
}

// indexAfterAll runs depmod, since what was to run it has failed. It returns what
// failed.
func (r Rest) indexAfterAll(ctx context.Context, m *machine.Machine, lock func() (func(), error)) []Failed {
	release, err := lock()
	if err != nil {
		return nil // this run is being stopped, and the next one will do it
	}
	defer release()
	due := Owed(m, r.Kernel) // the plugin may have been called, and counted on what did not come
	due.Depmod = true
	_, failed := Index(ctx, m, Policy{}, map[tree.Target]Due{r.Kernel: due}, nil)
	return failed
}
