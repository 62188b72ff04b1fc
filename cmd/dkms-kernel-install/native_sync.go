// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

type nativeSync struct {
	Kernel      []string `sep:"none" placeholder:"KERNEL" help:"Only this kernel; may be repeated."`
	Package     []string `sep:"none" placeholder:"GLOB" help:"Only packages whose names match, those that depend on them, and those that they depend on; may be repeated."`
	OnlyMissing bool     `help:"Leave builds as they are if they are only out of date."`
	NoInitramfs bool     `help:"Leave each initramfs as it is."`
	HookNext    bool     `help:"Leave each initramfs as it is unless kernel-install made it: a hook of the package manager is about to make the others."`
	TellOnce    bool     `help:"Tell failures that an earlier run told, and since which nothing has changed, in one line, and leave them out of the exit status."`
	DryRun      bool     `help:"Print what would be done, and do nothing."`
}

// Run builds and installs what is missing or out of date.
func (c *nativeSync) Run(r *nativeRun) error {
	for _, glob := range c.Package {
		if _, err := filepath.Match(glob, ""); err != nil {
			return &failure.Failure{What: fmt.Sprintf("--package: %q is not a glob pattern", glob), Hint: "run: dkms-kernel-install sync --help", Status: 1}
		}
	}
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		m := e.Machine()
		request := engine.Request{
			Request: plan.Request{Goal: plan.Installed, Renew: !c.OnlyMissing},
			Execute: execute.Options{Follow: follow.Policy{Initramfs: follow.Renew, DryRun: c.DryRun}},
		}
		switch {
		case c.NoInitramfs:
			request.Execute.Follow.Initramfs = follow.Leave
		case c.HookNext:
			request.Execute.Follow.Initramfs = follow.RenewEntry
		}
		if c.TellOnce {
			r.text.TellOnce()
		}
		var err error
		if len(c.Kernel) == 0 {
			request.Kernels, err = r.withHeaders(m)
		} else {
			request.Kernels, err = r.named(m, c.Kernel)
		}
		if err != nil {
			return err
		}
		if len(c.Package) > 0 {
			if err := registered(m, c.Package); err != nil {
				return err
			}
			request.Match = func(name string) bool {
				return slices.ContainsFunc(c.Package, func(glob string) bool { return matches(glob, name) })
			}
		}
		results, err := e.Sync(r.ctx, request)
		r.text.Failures(results)
		return failed(results, c.TellOnce, err)
	})
}

// named returns the kernels of these releases, but for those of which only the headers
// are installed: it is what hooks for headers name.
func (r *nativeRun) named(m *machine.Machine, releases []string) ([]tree.Target, error) {
	ks, err := knownKernels(m, releases)
	return slices.DeleteFunc(ks, func(k tree.Target) bool {
		alone := m.HeadersAlone(k)
		if alone {
			r.text.Note(headersAlone(k))
		}
		return alone
	}), err
}

// matches reports whether name matches glob, a valid pattern.
func matches(glob, name string) bool {
	ok, _ := filepath.Match(glob, name)
	return ok
}

// registered returns an error if one of globs matches no registered package: without it,
// sync would silently do nothing.
func registered(m *machine.Machine, globs []string) error {
	packages, err := m.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+m.Tree.Dir, failure.StatusNoPerm)
	}
	for _, glob := range globs {
		if !slices.ContainsFunc(packages, func(p tree.Package) bool { return !p.Kept && matches(glob, p.Name) }) {
			return &failure.Failure{What: fmt.Sprintf("--package: no package called %q is registered", glob), Hint: "dkms-kernel-install status shows those that are", Status: 1}
		}
	}
	return nil
}
