package engine

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
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/tree"
)

// settle makes the kernels whose modules changed know their modules again, and
// those of kernels that an earlier run left so. It returns what failed.
func (e *Engine) settle(ctx context.Context, kernels []tree.Target, results []Result, depmodFollows func(tree.Target) bool) []Result {
	if e.Options.DryRun {
		return nil
	}
	var failed []Result
	placed := map[tree.Target][]string{}
	owes := map[tree.Target]unsettled{}
	for _, r := range results {
		if !slices.Contains(kernels, r.Kernel) {
			kernels = append(slices.Clip(kernels), r.Kernel)
		}
		if len(r.Placed) == 0 && len(r.Removed) == 0 {
			continue
		}
		placed[r.Kernel] = append(placed[r.Kernel], r.Placed...)
		if e.renews {
			u := unsettled{Modules: moduleNames(slices.Concat(r.Placed, r.Removed)...)}
			if r.New {
				u.Fresh = r.ID.String()
			}
			owes[r.Kernel] = owes[r.Kernel].and(u)
		}
		if !slices.Contains(e.changed, r.Kernel) {
			e.changed = append(e.changed, r.Kernel)
		}
	}
	type pending struct {
		k      tree.Target
		owed   unsettled
		depmod func() error // nil where it does not run
	}
	var all []pending
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, k := range kernels {
		_, changed := placed[k]
		owed := e.owed(k)
		if owed.Depmod && !changed {
			if err := e.placer(k).Tidy(); err != nil {
				e.Events.Note("warning: " + err.Error())
			}
		}
		owed = owed.and(owes[k])
		depmod := (changed || owed.Depmod) && !e.Options.NoDepmod
		if depmod && e.renewal(k, owed).depmod {
			depmod, owed.Depmod = false, true
		} else if depmod && depmodFollows != nil && depmodFollows(k) && e.Settings.PostTransaction == "" {
			depmod, owed.Depmod = false, false
		}
		p := pending{k: k, owed: owed}
		if depmod {
			// It takes seconds of one processor for each kernel.
			p.depmod = sync.OnceValue(func() error { return place.Depmod(ctx, filepath.Join(e.Settings.InstallTree, k.Release)) })
			group.Go(p.depmod)
		}
		all = append(all, p)
	}
	_ = group.Wait() // each is asked for its own
	for _, p := range all {
		k := p.k
		if p.depmod != nil {
			err := p.depmod()
			if p.owed.Depmod = err != nil; err != nil {
				failed = append(failed, e.failedKernel(k, failure.From(err, "depmod failed", failure.StatusInstall)))
			}
		}
		if err := e.owe(k, p.owed); err != nil {
			e.Events.Note(fmt.Sprintf("warning: %s: cannot note what is left to do: %v", k.Release, err))
		}
		if p.depmod == nil || p.owed.Depmod {
			continue
		}
		if paths := placed[k]; k.Release == e.Running && len(paths) > 0 && (e.Options.Modprobe || e.Settings.ModprobeOnInstall) {
			if err := modprobe(ctx, paths); err != nil {
				e.Events.Note("warning: " + err.Error())
			}
		}
	}
	return failed
}

// DepmodPlugin says whether kernel-install's own plugin is about to run depmod
// for k: it is there, neither masked nor left out, and sees a kernel.
func (e *Engine) DepmodPlugin(k tree.Target) bool {
	const name = "50-depmod.install"
	if list, set := os.LookupEnv("KERNEL_INSTALL_PLUGINS"); set && list != "" {
		if !slices.ContainsFunc(strings.Fields(list), func(path string) bool { return filepath.Base(path) == name }) {
			return false
		}
	}
	kernel, err := os.Stat(filepath.Join(e.Settings.InstallTree, k.Release, "kernel"))
	if err != nil || !kernel.IsDir() || e.Settings.InstallTree != e.System.Modules {
		return false
	}
	for _, dir := range e.System.KernelInstall {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err == nil {
			// A link to /dev/null masks the file in later folders.
			return fi.Mode().IsRegular() && fi.Size() > 0 && fi.Mode()&0o111 != 0
		}
	}
	return false
}

// failedKernel tells that something failed that concerns kernel k as a whole.
func (e *Engine) failedKernel(k tree.Target, f *failure.Failure) Result {
	r := Result{Kernel: k, Outcome: Failed, Failure: f}
	e.done(r)
	return r
}

// modprobe loads the modules in the files called paths, but for those that the
// administrator has blacklisted.
func modprobe(ctx context.Context, paths []string) error {
	cmd := exec.Command("modprobe", "--all", "--use-blacklist", "--")
	for _, path := range paths {
		name, _, _ := kmod.SplitName(filepath.Base(path))
		cmd.Args = append(cmd.Args, name)
	}
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := child.Run(ctx, cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, out.lastLine())
	}
	return nil
}

// Finish runs what framework.conf wants run after a transaction that changed a
// kernel's modules: once, or, where the command is about $kernelver, once for
// each kernel. The caller does not hold the lock: the command may need it.
// It is not part of the work: that it fails is told, and no more.
func (e *Engine) Finish(ctx context.Context) {
	command := e.Settings.PostTransaction
	if command == "" || len(e.changed) == 0 {
		return
	}
	kernels := e.changed
	e.changed = nil
	if conf.ForKernel(command, "") == command {
		kernels = kernels[:1]
	}
	file := filepath.Join(e.Tree.Dir, "post_transaction.log")
	log, err := os.OpenFile(file, os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		e.Events.Note("warning: post_transaction was not run: cannot keep its output: " + err.Error())
		return
	}
	defer log.Close()
	for _, k := range kernels {
		fmt.Fprintf(log, "# kernel: %s\n# command: %s\n", k.Release, command)
		cmd := exec.CommandContext(ctx, "bash", "-c", `eval "$1"`, "dkms", command)
		cmd.Env = append(os.Environ(), "kernelver="+k.Release, "arch="+k.Arch)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			e.Events.Note(fmt.Sprintf("warning: post_transaction failed for %s: %v (log: %s)", k.Release, err, file))
		}
	}
}
