// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/alecthomas/kong"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/machine"
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
	Remove nativeRemove `cmd:"" help:"Take all that was built for a kernel out of its directory and out of the tree."`
	Status nativeStatus `cmd:"" help:"Show what is registered, built and installed."`

	Postinst nativePostinst `cmd:"" help:"For maintainer scripts: register a package and sync it."`
	Init     nativeInit     `cmd:"" help:"Write a dkms.conf for a source tree of kernel modules."`
}

// nativeRun is one call of the native face.
type nativeRun struct {
	p    *program
	ctx  context.Context
	text *report.Text
}

// errSome is the error of a run in which packages failed, each of which is reported.
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

// with runs do with an engine for the machine.
func (r *nativeRun) with(o machine.Options, do func(*engine.Engine) error) error {
	e, err := r.p.open(o, r.text)
	if err != nil {
		return err
	}
	defer e.Close()
	return do(e)
}

// install installs what automatic work wants for the kernels.
func (r *nativeRun) install(e *engine.Engine, ks []tree.Target, force bool) error {
	results, err := e.Sync(r.ctx, engine.Request{
		Request: plan.Request{Goal: plan.Installed, Renew: true, Retry: force},
		Kernels: ks, Execute: execute.Options{Force: force},
	})
	return r.report(results, err)
}

// report prints the failures among results, and returns an error if there are any.
func (r *nativeRun) report(results []execute.Result, err error) error {
	r.text.Failures(results)
	if err == nil && slices.ContainsFunc(results, func(r execute.Result) bool { return r.Outcome == execute.Failed }) {
		return errSome
	}
	return err
}

// knownKernels returns the kernels of these releases, each once. It is an error if one
// is not installed: a wrong name is more likely a slip of the finger than a kernel to
// come.
func knownKernels(m *machine.Machine, releases []string) (ks []tree.Target, err error) {
	for _, release := range releases {
		k := m.Target(release)
		if tree.CheckTarget(k) != nil || !m.Kernel(k).Exists() {
			return nil, &failure.Failure{What: fmt.Sprintf("there is no kernel %q", release), Why: m.Kernels.Modules + "/" + release + " does not exist",
				Hint: "ls " + m.Kernels.Modules + " shows the kernels", Status: 1}
		}
		if !slices.Contains(ks, k) {
			ks = append(ks, k)
		}
	}
	return ks, nil
}

// withHeaders returns the kernels that have headers. It is an error if none has.
func withHeaders(m *machine.Machine) ([]tree.Target, error) {
	ks, err := m.WithHeaders()
	if err == nil && len(ks) == 0 {
		err = &failure.Failure{What: "no kernel has its headers installed", Why: "no " + m.Kernels.Modules + "/*/build/include exists",
			Hint: "install the headers of a kernel", Status: 1}
	}
	return ks, err
}
