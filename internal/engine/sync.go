package engine

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
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
	e.renews = !r.NoInitramfs
	results, err := e.Work(ctx, kernels, plan.Request{
		Goal: plan.Installed, Only: r.Only, Dependents: r.Only != nil, Match: r.Match, Renew: !r.KeepStale,
	}, func(tree.Target) bool { return false })
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
		if r.NoInitramfs || len(owed.Modules) == 0 || owed.Depmod && !e.Options.DryRun {
			continue // without depmod, it would be made from indexes that are out of date
		}
		if failed := e.renewInitramfs(ctx, k, owed, r.CarriedOnly); failed != nil {
			results = append(results, *failed)
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

// settled forgets what was owed to k, unless another run has added to it since.
func (e *Engine) settled(ctx context.Context, k tree.Target, owed unsettled) error {
	if e.Options.DryRun {
		return nil
	}
	unlock, err := e.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if now := e.readUnsettled(k); now.Depmod || !slices.Equal(now.Modules, owed.Modules) {
		return nil
	}
	return e.owe(k, unsettled{})
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

// renewInitramfs makes a new initramfs for k where it carries, or may carry, a
// module that changed. It returns what failed.
func (e *Engine) renewInitramfs(ctx context.Context, k tree.Target, owed unsettled, carriedOnly bool) *Result {
	fail := func(f *failure.Failure) *Result {
		r := e.failedKernel(k, f)
		return &r
	}
	system := initramfs.System{Root: e.System.Root}
	if system.Root == "" {
		system.Modules = e.Settings.InstallTree
	}
	i, ok, err := system.Find(k.Release)
	if err != nil {
		return fail(failure.From(err, "cannot tell how the initramfs is made", failure.StatusInstall))
	}
	if !ok {
		return nil
	}
	why := ""
	switch carries, err := i.Carries(owed.Modules); {
	case err != nil:
		why = "it may carry " + strings.Join(owed.Modules, ", ") + ": " + err.Error()
	case carries:
		why = "it carries a module that changed"
	case owed.Fresh != "" && !carriedOnly:
		why = owed.Fresh + " is new to it"
	default:
		return nil
	}
	if e.Options.DryRun {
		e.Events.Note(fmt.Sprintf("%s: would make a new initramfs by %s: %s", k.Release, i.Generator, why))
		return nil
	}
	start := time.Now()
	for _, command := range i.Commands() {
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
	e.Events.Note(fmt.Sprintf("%s: new initramfs by %s in %.1f s: %s", k.Release, i.Generator, time.Since(start).Seconds(), why))
	return nil
}
