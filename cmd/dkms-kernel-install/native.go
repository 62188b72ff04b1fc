// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
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
by "dkms add". The newest version of each package that sets AUTOINSTALL is installed
for every kernel. kernel-install does this when a kernel is installed; the commands
below do it by hand.

Exit status: 0 if all is done; 1 if nothing was done, because the command line is
wrong, or a permission is lacking; 2 if a package failed and the others are done.
why, doctor, fsck and status --check end with 1 if something is not as it should be.`

// native is the command line of the face for people and programs.
type native struct {
	Verbose bool             `short:"v" help:"Also print what is current, and which modules are placed and removed."`
	Version kong.VersionFlag `help:"Print the version."`

	Root     string `type:"path" placeholder:"DIR" help:"Work on the root file system that begins at DIR, with its own tools. All other paths are in it."`
	Timeline string `placeholder:"FILE" help:"Write to FILE when each package was worked on, in the trace-event format, which browsers' viewers open."`

	Add    nativeAdd    `cmd:"" help:"Install packages for kernels, building what is missing."`
	AddAll nativeAddAll `cmd:"" help:"Install packages for every kernel whose headers are installed, building what is missing."`
	Sync   nativeSync   `cmd:"" help:"Build and install what is missing or out of date, for every kernel whose headers are installed, and renew each initramfs that has such modules."`
	Remove nativeRemove `cmd:"" help:"Remove all that was built for a kernel, from its directory and from the tree."`
	Status nativeStatus `cmd:"" help:"Show what is registered, built and installed."`
	Why    nativeWhy    `cmd:"" help:"Say why a module is there or not, step by step, and what to do."`
	Reload nativeReload `cmd:"" help:"Exchange modules that are loaded for those that are placed, if nothing uses them."`
	Doctor nativeDoctor `cmd:"" help:"Say whether each kernel will load what is built here, and what this machine lacks."`
	Check  nativeCheck  `cmd:"" help:"Build packages for kernels that need not be installed, install nothing, and say which build and which do not."`
	Fsck   nativeFsck   `cmd:"" help:"Look for damage in the tree, in the directories of kernels and in the caches, and repair it."`

	Key nativeKey `cmd:"" help:"Show, make, enrol or exchange the key that modules are signed with."`

	Postinst nativePostinst `cmd:"" help:"For maintainer scripts: register a package and sync it."`
	Held     nativeHeld     `cmd:"" help:"For boot loaders: print each kernel that lacks a required package, in a line of its own. It must not become the default."`
	Init     nativeInit     `cmd:"" help:"Write a dkms.conf for a source tree of kernel modules."`
}

// nativeRun is one call of the native face.
type nativeRun struct {
	p      *program
	ctx    context.Context
	text   *report.Text
	events engine.Events // tells text
}

// errSome is the error of a run in which packages failed. Each was reported.
var errSome = told{&failure.Failure{What: "some packages failed", Status: 2}}

// native runs the face for people and programs, and returns the exit status.
func (p *program) native(ctx context.Context, args []string) int {
	if len(args) == 0 {
		args = []string{"--help"}
	}
	var cli native
	k, status := p.parse(&cli, "dkms-kernel-install", nativeHelp, args, failure.StatusUsage)
	if k == nil {
		return status
	}
	if cli.Root != "" && cli.Root != "/" && !p.machine.Elsewhere {
		status, err := p.in(cli.Root, append([]string{"dkms-kernel-install"}, args...)...)
		return cmp.Or(p.exit(err), status)
	}
	text := report.NewText(p.stdout, "", cli.Verbose, false)
	timeline := report.NewTimeline(text)
	stop := p.progress.Show(ctx, timeline)
	err := k.Run(&nativeRun{p, ctx, text, timeline})
	stop()
	if cli.Timeline != "" {
		err = cmp.Or(writeTimeline(cli.Timeline, timeline), err)
	}
	status = p.exit(err)
	var done *engine.DoneError
	if !errors.Is(err, errSome) && !errors.As(err, &done) {
		status = min(status, 1) // the other statuses are the classic command's
	}
	return status
}

// writeTimeline writes t to file.
func writeTimeline(file string, t *report.Timeline) error {
	var text bytes.Buffer
	err := t.Write(&text)
	if err == nil {
		err = os.WriteFile(file, text.Bytes(), 0o644)
	}
	if err != nil {
		return failure.From(err, "cannot write the timeline", 1)
	}
	return nil
}

// with runs do with an engine for the machine.
func (r *nativeRun) with(o machine.Options, do func(*engine.Engine) error) error {
	e, err := r.p.open(o, r.events)
	if err != nil {
		return err
	}
	defer e.Close()
	return do(e)
}

// install installs for the kernels the packages that want automatic installation.
func (r *nativeRun) install(e *engine.Engine, ks []tree.Target, force bool) error {
	results, err := e.Sync(r.ctx, engine.Request{
		Request: plan.Request{Goal: plan.Installed, Renew: true, Retry: force},
		Kernels: ks, Execute: execute.Options{Force: force},
	})
	return r.report(results, err)
}

// report prints the failures among results. It returns err, or an error if there are
// failures.
func (r *nativeRun) report(results []execute.Result, err error) error {
	r.text.Failures(results)
	return failed(results, false, err)
}

// failed returns err, or an error if there are failures among results; if once is set,
// those that an earlier run has told do not count.
func failed(results []execute.Result, once bool, err error) error {
	if err == nil && slices.ContainsFunc(results, func(r execute.Result) bool {
		return r.Outcome == execute.Failed && !(once && r.Failure.Again)
	}) {
		return errSome
	}
	return err
}

// knownKernels returns the kernels of these releases, each once. It returns an error if
// one is not installed: that is more likely a typing error than a kernel that will be.
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

// installedKernels returns the releases of the kernels, the oldest first, without those of
// which only the headers are installed.
func installedKernels(m *machine.Machine) ([]string, error) {
	all, err := m.Kernels.List()
	if err != nil {
		return nil, failure.From(err, "cannot list the kernels", 1)
	}
	return slices.DeleteFunc(all, func(release string) bool { return m.HeadersAlone(m.Target(release)) }), nil
}

// withHeaders returns the kernels that are installed with their headers, and an error if
// none is.
func (r *nativeRun) withHeaders(m *machine.Machine) ([]tree.Target, error) {
	ks, alone, err := m.WithHeaders()
	for _, k := range alone {
		r.text.Debug(headersAlone(k))
	}
	if err == nil && len(ks) == 0 {
		err = &failure.Failure{What: "no kernel has its headers installed", Why: "no " + m.Kernels.Modules + "/*/build/include exists beside a kernel",
			Hint: hintOfAny(m), Status: 1}
	}
	return ks, err
}

// hintOfAny says how to get the headers of the running kernel or else, if that is not
// installed here, of the newest.
func hintOfAny(m *machine.Machine) string {
	all, _ := m.Kernels.List() // without it, no kernel is named
	switch {
	case slices.Contains(all, m.Running):
		return m.HeadersHint(m.Running)
	case len(all) > 0:
		return m.HeadersHint(all[len(all)-1])
	}
	return "install the headers of a kernel"
}

// notHere is the error for what is done where a kernel runs, and not in a root elsewhere.
func notHere(what string) error {
	return &failure.Failure{What: what + " on a machine that runs", Why: "with --root, this works on one that does not", Hint: "run this there, without --root", Status: 1}
}

// headersAlone tells that the headers of k are installed, and k is not.
func headersAlone(k tree.Target) string {
	return k.Release + " is passed over: only its headers are installed"
}
