package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

// plugin is the face for kernel-install(8), which calls
//
//	40-dkms.install add    K ENTRY-DIR KERNEL-IMAGE [INITRD...]
//	40-dkms.install remove K ENTRY-DIR
//
// Any status but 0 (and 77) ends an add before the initramfs is made. So a
// failure of ours is said loudly and the status is 0, unless the machine's
// administrator named a package that failed as required.
func (p *program) plugin(ctx context.Context, args []string) (status int) {
	text := report.NewText(p.stdout, "dkms: ", os.Getenv("KERNEL_INSTALL_VERBOSE") == "1", false)
	if len(args) < 1 || args[0] != "add" && args[0] != "remove" {
		return 0 // a verb for other plugins
	}
	if len(args) < 2 || args[1] == "" || strings.ContainsAny(args[1], "/\x00") || args[1] == "." || args[1] == ".." {
		text.Failure("called without a kernel release", &failure.Failure{Hint: "this is a plugin of kernel-install: run kernel-install " + args[0]})
		return 0
	}
	verb, release := args[0], args[1]
	var required func(name string) bool // nil while the settings are unknown
	defer func() {
		if r := recover(); r != nil {
			// A mistake in this program is no reason to lose a kernel.
			fmt.Fprintf(p.stderr, "dkms: internal error, modules for %s may be missing: %v\n%s", release, r, debug.Stack())
			status = 0
		}
	}()
	fail := func(err error) int {
		f := failure.From(err, "dkms did not run", 0)
		text.Failure(fmt.Sprintf("%s; modules for %s may be missing", f.What, release), f)
		// A remove that fails would leave a boot entry without a kernel.
		if verb == "add" && (required != nil || ctx.Err() != nil) {
			return 1
		}
		return 0
	}

	e, err := engine.New(p.system, engine.Options{}, text)
	if err != nil {
		return fail(err)
	}
	defer e.Close()
	if len(e.Settings.RequiredPackages) > 0 {
		required = e.Settings.Required
	}

	if verb == "remove" {
		if os.Getenv("KERNEL_INSTALL_BOOT_ENTRY_TYPE") != "" && isDir(filepath.Join(e.Settings.InstallTree, release, "kernel")) {
			text.Debug("one of several boot entries of " + release + " goes, its modules stay")
			return 0
		}
		if _, err := os.Stat(e.Tree.Dir); errors.Is(err, fs.ErrNotExist) {
			return 0
		}
		unlock, err := e.Lock(ctx)
		if err != nil {
			return fail(err)
		}
		defer unlock()
		results, err := e.RemoveKernel(ctx, release, e.DepmodPlugin)
		text.Failures(results)
		unlock()
		e.Finish(ctx)
		if err != nil {
			return fail(err)
		}
		return 0
	}

	if file := e.Disabled(); file != "" {
		text.Debug(file + " exists: nothing is built automatically")
		return 0
	}
	if _, err := os.Stat(e.Tree.Dir); errors.Is(err, fs.ErrNotExist) {
		text.Debug("no packages are registered")
		return 0
	}
	unlock, err := e.Lock(ctx)
	if err != nil {
		return fail(err)
	}
	defer unlock()
	results, err := e.Work(ctx, []tree.Target{e.Target(release)}, plan.Request{Goal: plan.Installed, Renew: true}, e.DepmodPlugin)
	text.Failures(results)
	unlock()
	e.Finish(ctx)
	if err != nil {
		return fail(err)
	}
	if ctx.Err() != nil {
		return 1
	}
	for _, r := range results {
		if required != nil && required(r.Name) && missing(r) {
			text.Note(fmt.Sprintf("%s is required (required_packages in framework.conf): kernel %s gets no boot entry", r.ID, release))
			status = 1
		}
	}
	return status
}

// missing says that the kernel does not have the modules of a package.
func missing(r engine.Result) bool {
	return r.Outcome == engine.Failed || r.Outcome == engine.Skipped && len(r.Kept) == 0
}

func isDir(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
