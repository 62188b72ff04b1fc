package engine

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/initramfs"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// SyncRequest narrows a Sync. Its zero value takes every kernel that has headers
// and every package that wants automatic work.
type SyncRequest struct {
	Kernels []tree.Target
	// Match accepts names of packages, Only names packages that are taken
	// whether they want automatic work or not, with those that depend on them.
	Match func(name string) bool
	Only  []tree.ID
	// KeepStale leaves builds alone that are only stale, not missing.
	KeepStale bool
	// NoInitramfs leaves the initramfs of each kernel to somebody else;
	// CarriedOnly renews it only where it carries a module that changed, not
	// where it would get one that is new to the kernel.
	NoInitramfs, CarriedOnly bool
}

// Sync brings packages and kernels together: what is missing is built, what is
// stale is built again, older versions are replaced, and every kernel whose
// modules changed gets depmod and, where need be, a new initramfs. It takes the
// lock. Results are as those of [Engine.Work].
func (e *Engine) Sync(ctx context.Context, r SyncRequest) ([]Result, error) {
	kernels := r.Kernels
	if kernels == nil {
		var err error
		if kernels, err = e.WithHeaders(); err != nil {
			return nil, err
		}
	}
	unlock := func() {}
	if !e.Options.DryRun {
		var err error
		if unlock, err = e.Lock(ctx); err != nil {
			return nil, err
		}
	}
	defer func() { unlock() }()
	e.renews, e.carried = !r.NoInitramfs, r.CarriedOnly
	results, err := e.Work(ctx, kernels, plan.Request{
		Goal: plan.Installed, Only: r.Only, Dependents: r.Only != nil, Match: r.Match, Renew: !r.KeepStale,
	}, nil)
	if err != nil || ctx.Err() != nil {
		return results, err
	}
	// What makes an initramfs may call us again, by kernel-install.
	unlock()
	unlock = func() {}
	for _, k := range kernels {
		owed := e.owed(k)
		if e.Options.DryRun {
			if owed = owed.and(planned(results, k)); owed.Depmod {
				e.Events.Note(k.Release + ": would run depmod")
			}
		}
		way := e.renewal(k, owed)
		if r.NoInitramfs || len(owed.Modules) == 0 || owed.Depmod && !e.Options.DryRun && !way.depmod {
			continue // without depmod, it would be made from indexes that are out of date
		}
		if failed := e.renewInitramfs(ctx, k, way); failed != nil {
			results = append(results, *failed)
			if owed.Depmod {
				results = append(results, e.depmodAfterAll(ctx, k)...)
			}
		} else if err := e.settled(ctx, k, owed); err != nil {
			e.Events.Note(fmt.Sprintf("warning: %s: the next run will make the initramfs again: %v", k.Release, err))
		}
	}
	return results, nil
}

// planned returns what the results of a dry run would lead to.
func planned(results []Result, k tree.Target) (u unsettled) {
	for _, r := range results {
		if r.Kernel == k && r.Outcome == Planned {
			more := unsettled{Depmod: true, Modules: r.Modules}
			if r.New {
				more.Fresh = r.ID.String()
			}
			u = u.and(more)
		}
	}
	return u
}

// settled forgets what was owed to k, unless another run has changed it since.
func (e *Engine) settled(ctx context.Context, k tree.Target, owed unsettled) error {
	if e.Options.DryRun {
		return nil
	}
	unlock, err := e.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if e.readUnsettled(k).Changed != owed.Changed {
		return nil
	}
	return e.owe(k, unsettled{})
}

// depmodAfterAll runs depmod for k where what was to run it has failed. It returns
// what failed.
func (e *Engine) depmodAfterAll(ctx context.Context, k tree.Target) []Result {
	unlock, err := e.Lock(ctx)
	if err != nil {
		return nil // we are stopped, and the next run will do it
	}
	defer unlock()
	e.ways[k] = renewal{}
	delete(e.notes, k) // our plugin may have been called, and counted on what did not come
	owed := e.owed(k)
	owed.Depmod = true
	_ = e.owe(k, owed) // settle says so where it cannot be noted
	return e.settle(ctx, []tree.Target{k}, nil, nil)
}

// WithHeaders returns the kernels that have headers, oldest first.
func (e *Engine) WithHeaders() ([]tree.Target, error) {
	releases, err := kernel.List(e.Settings.InstallTree)
	if err != nil {
		return nil, failure.From(err, "cannot list the kernels", failure.StatusNoPerm)
	}
	var kernels []tree.Target
	for _, release := range releases {
		if k := e.Target(release); e.Kernel(k).HasHeaders() {
			kernels = append(kernels, k)
		}
	}
	return kernels, nil
}

// renewal is how a kernel's initramfs is made anew, and why; it is not where why
// is empty.
type renewal struct {
	initramfs.Initramfs
	why    string
	depmod bool // it runs depmod too
	err    error
}

// renewal decides whether the initramfs of k is made anew for what is owed to k.
// The first answer of a run holds.
func (e *Engine) renewal(k tree.Target, owed unsettled) renewal {
	if !e.renews || len(owed.Modules) == 0 {
		return renewal{}
	}
	if w, ok := e.ways[k]; ok {
		return w
	}
	w := e.findRenewal(k, owed)
	e.ways[k] = w
	return w
}

func (e *Engine) findRenewal(k tree.Target, owed unsettled) (w renewal) {
	system := initramfs.System{Root: e.System.Root}
	if system.Root == "" {
		system.Modules = e.Settings.InstallTree
	}
	i, ok, err := system.Find(k.Release)
	if err != nil || !ok {
		return renewal{err: err}
	}
	w.Initramfs = i
	switch carries, err := i.Carries(owed.Modules); {
	case err != nil:
		w.why = "it may carry " + strings.Join(owed.Modules, ", ") + ": " + err.Error()
	case carries:
		w.why = "it carries a module that changed"
	case owed.Fresh != "" && !e.carried:
		w.why = owed.Fresh + " is new to it"
	}
	// What is loaded right after depmod cannot wait for it.
	modprobe := k.Release == e.Running && (e.Options.Modprobe || e.Settings.ModprobeOnInstall)
	w.depmod = w.why != "" && i.Generator == initramfs.KernelInstall && !modprobe && e.DepmodPlugin(k)
	return w
}

// renewInitramfs makes a new initramfs for k. It returns what failed.
func (e *Engine) renewInitramfs(ctx context.Context, k tree.Target, w renewal) *Result {
	fail := func(f *failure.Failure) *Result {
		r := e.failedKernel(k, f)
		return &r
	}
	if w.err != nil {
		return fail(failure.From(w.err, "cannot tell how the initramfs is made", failure.StatusInstall))
	}
	if w.why == "" {
		return nil
	}
	if e.Options.DryRun {
		e.Events.Note(fmt.Sprintf("%s: would make a new initramfs by %s: %s", k.Release, w.Generator, w.why))
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
			return fail(&failure.Failure{
				What: "making the initramfs failed", Why: fmt.Sprintf("%s: %v: %s", command[0], err, out.lastLine()),
				Hint: "run: " + strings.Join(command, " "), Status: failure.StatusInstall, Err: err,
			})
		}
	}
	e.Events.Note(fmt.Sprintf("%s: new initramfs by %s in %.1f s: %s", k.Release, w.Generator, time.Since(start).Seconds(), w.why))
	return nil
}
