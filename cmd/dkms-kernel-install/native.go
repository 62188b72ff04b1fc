package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alecthomas/kong"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

const nativeHelp = `Builds, signs, compresses and installs the kernel modules of registered packages.

A package is what one dkms.conf describes; it is named NAME/VERSION and registered
by "dkms add". Of each package that sets AUTOINSTALL, the newest version goes into
every kernel. kernel-install does this for each kernel that comes and goes; the
commands below do it by hand.

Exit status: 0 when all is done; 1 when nothing was done, because the command line
is wrong, or for lack of permission; 2 when a package failed and the others are done.`

// native is the command line of our own face.
type native struct {
	Verbose bool             `short:"v" help:"Also say what is current, and which files are touched."`
	Version kong.VersionFlag `help:"Print the version."`

	Add    nativeAdd    `cmd:"" help:"Install packages for kernels, building what is missing."`
	AddAll nativeAddAll `cmd:"" help:"Do so for every kernel whose headers are installed."`
	Sync   nativeSync   `cmd:"" help:"Build what is missing or out of date, for every kernel that has headers, and renew each initramfs that carries it."`
	Remove nativeRemove `cmd:"" help:"Take all that was built for a kernel out of its folder and out of the tree."`
	Status nativeStatus `cmd:"" help:"Show what is registered, built and installed."`

	Postinst nativePostinst `cmd:"" help:"For maintainer scripts: register a package and sync it."`
	Init     nativeInit     `cmd:"" help:"Write a dkms.conf for a source tree of kernel modules."`
}

type nativeAdd struct {
	Kernel []string `arg:"" help:"Kernel releases, as uname -r prints them."`
	Force  bool     `help:"Install modules even when the kernel's own are as new."`
}

type nativeAddAll struct {
	Force bool `help:"Install modules even when the kernel's own are as new."`
}

type nativeRemove struct {
	Kernel string `arg:"" help:"Kernel release. The kernel may be gone already."`
}

type nativeStatus struct {
	Kernel string `arg:"" optional:"" help:"Only this kernel."`
	JSON   bool   `name:"json" help:"Write a JSON array, for programs."`
}

// nativeRun is one call of the native face.
type nativeRun struct {
	p    *program
	ctx  context.Context
	text *report.Text
}

// errSome says that packages failed and were told of.
var errSome = told{&failure.Failure{What: "some packages failed", Status: 2}}

// native is the face for people and programs.
func (p *program) native(ctx context.Context, args []string) int {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var cli native
	k, status := p.parse(&cli, "dkms-kernel-install", nativeHelp, args, failure.StatusUsage)
	if k == nil {
		return status
	}
	err := k.Run(&nativeRun{p, ctx, report.NewText(p.stdout, "", cli.Verbose, false)})
	status = p.exit(err)
	if !errors.Is(err, errSome) {
		status = min(status, 1) // the other statuses are the classic command's
	}
	return status
}

// Run installs packages for the kernels named on the command line.
func (c *nativeAdd) Run(r *nativeRun) error {
	return r.with(engine.Options{Force: c.Force}, func(e *engine.Engine) error {
		for _, release := range c.Kernel {
			if err := knownKernel(e, release); err != nil {
				return err
			}
		}
		return r.add(e, targets(e, c.Kernel))
	})
}

// Run installs packages for all kernels that have headers.
func (c *nativeAddAll) Run(r *nativeRun) error {
	return r.with(engine.Options{Force: c.Force}, func(e *engine.Engine) error {
		ks, err := withHeaders(e)
		if err != nil {
			return err
		}
		return r.add(e, ks)
	})
}

// Run takes back what was built for a kernel.
func (c *nativeRemove) Run(r *nativeRun) error {
	return r.with(engine.Options{}, func(e *engine.Engine) error {
		if err := tree.CheckTarget(e.Target(c.Kernel)); err != nil {
			return &failure.Failure{What: "this is no kernel release", Why: err.Error(), Status: 1}
		}
		unlock, err := e.Lock(r.ctx)
		if err != nil {
			return err
		}
		defer unlock()
		results, err := e.RemoveKernel(r.ctx, c.Kernel, nil)
		return r.told(results, err)
	})
}

// Run prints the status.
func (c *nativeStatus) Run(r *nativeRun) error {
	return r.with(engine.Options{}, func(e *engine.Engine) error {
		matchKernel := func(k tree.Target) bool { return c.Kernel == "" || k.Release == c.Kernel }
		list, err := e.Status(func(tree.ID) bool { return true }, matchKernel)
		if err != nil {
			return err
		}
		if c.JSON {
			return report.StatusJSON(r.p.stdout, list)
		}
		if len(list) == 0 {
			r.text.Note("no packages are registered; to register one: dkms add NAME/VERSION")
		}
		for _, s := range list {
			fmt.Fprintln(r.p.stdout, report.StatusLine(s))
		}
		for _, f := range e.FailedBuilds(matchKernel) {
			r.text.Note(fmt.Sprintf("%s for %s: %s: %s (to try again: %s)", f.ID, f.Kernel.Release, f.What, f.Why, f.TryAgain))
		}
		return nil
	})
}

// with runs do with an engine.
func (r *nativeRun) with(o engine.Options, do func(*engine.Engine) error) error {
	e, err := engine.New(r.p.system, o, r.text)
	if err != nil {
		return err
	}
	defer e.Close()
	defer e.Finish(r.ctx)
	return do(e)
}

// knownKernel says whether a kernel of that name is installed; a wrong name is
// more likely a slip of the finger than a kernel to come.
func knownKernel(e *engine.Engine, release string) error {
	if tree.CheckTarget(e.Target(release)) == nil && e.Kernel(e.Target(release)).Exists() {
		return nil
	}
	return &failure.Failure{What: fmt.Sprintf("there is no kernel %q", release), Why: e.Settings.InstallTree + "/" + release + " does not exist",
		Hint: "ls " + e.Settings.InstallTree + " shows the kernels", Status: 1}
}

// withHeaders returns the kernels that have headers; that there is none is an error.
func withHeaders(e *engine.Engine) ([]tree.Target, error) {
	ks, err := e.WithHeaders()
	if err == nil && len(ks) == 0 {
		err = &failure.Failure{What: "no kernel has its headers installed", Why: "no " + e.Settings.InstallTree + "/*/build/include exists",
			Hint: "install the headers of a kernel", Status: 1}
	}
	return ks, err
}

func targets(e *engine.Engine, releases []string) []tree.Target {
	var ks []tree.Target
	for _, release := range releases {
		if k := e.Target(release); !slices.Contains(ks, k) {
			ks = append(ks, k)
		}
	}
	return ks
}

func (r *nativeRun) add(e *engine.Engine, ks []tree.Target) error {
	unlock, err := e.Lock(r.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	results, err := e.Work(r.ctx, ks, plan.Request{Goal: plan.Installed, Renew: true}, nil)
	return r.told(results, err)
}

// told tells the failures among results.
func (r *nativeRun) told(results []engine.Result, err error) error {
	r.text.Failures(results)
	if err == nil && slices.ContainsFunc(results, func(r engine.Result) bool { return r.Outcome == engine.Failed }) {
		return errSome
	}
	return err
}
