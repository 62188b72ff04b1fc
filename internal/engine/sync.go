package engine

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/initramfs"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
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
		if e.Options.DryRun && slices.ContainsFunc(results, func(r Result) bool { return r.Kernel == k && r.Outcome == Planned }) {
			e.Events.Note(k.Release + ": would run depmod")
		}
		if r.NoInitramfs {
			continue
		}
		if failed := e.renewInitramfs(ctx, k, results, r.CarriedOnly); failed != nil {
			results = append(results, *failed)
		}
	}
	return results, nil
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

// renewInitramfs makes a new initramfs for k where results say that it carries,
// or may carry, a module that changed. It returns what failed.
func (e *Engine) renewInitramfs(ctx context.Context, k tree.Target, results []Result, carriedOnly bool) *Result {
	fail := func(f *failure.Failure) *Result {
		r := e.failedKernel(k, f)
		return &r
	}
	var modules []string
	fresh := ""
	for _, r := range results {
		if r.Kernel != k || len(r.Placed) == 0 && r.Outcome != Planned {
			continue
		}
		for _, path := range slices.Concat(r.Placed, r.Removed) {
			name, _, _ := kmod.SplitName(filepath.Base(path))
			modules = append(modules, name)
		}
		modules = append(modules, r.Modules...)
		if r.New {
			fresh = r.ID.String() + " is new to it"
		}
	}
	if len(modules) == 0 {
		return nil
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
	switch carries, err := i.Carries(modules); {
	case err != nil:
		why = "it may carry " + strings.Join(modules, ", ") + ": " + err.Error()
	case carries:
		why = "it carries a module that changed"
	case fresh != "" && !carriedOnly:
		why = fresh
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
