// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// nativePostinst has the arguments of common.postinst, which packages call after their
// source has been unpacked.
type nativePostinst struct {
	Name       string `arg:"" help:"The package's name."`
	Version    string `arg:"" help:"Its version."`
	Tarballs   string `arg:"" optional:"" help:"Directory in which NAME-VERSION.dkms.tar.gz may be."`
	Arch       string `arg:"" optional:"" help:"Architecture. Default: this machine's."`
	OldVersion string `arg:"" optional:"" help:"The version that was installed before, if it is an upgrade."`
}

// Run registers the package and syncs it. Whatever the package contains, its
// maintainer script goes on: what fails is told, and is an error only if a package
// fails that the machine needs.
func (c *nativePostinst) Run(r *nativeRun) error {
	id := tree.ID{Name: c.Name, Version: c.Version}
	required := false
	err := r.with(machine.Options{Arch: c.Arch}, func(e *engine.Engine) error {
		set := e.Machine().Settings
		required = set.Required(c.Name)
		results, err := c.install(r, e, id)
		for _, result := range results {
			required = required || result.Outcome == execute.Failed && set.Required(result.Name)
		}
		return r.report(results, err)
	})
	var done *engine.DoneError
	switch {
	case errors.As(err, &done):
		return err
	case err == nil || r.ctx.Err() != nil || errors.Is(err, fs.ErrPermission):
		return err
	case required:
		r.text.Note(fmt.Sprintf("%s is required, or what depends on it (required_packages in framework.conf)", id))
		return err
	case !errors.Is(err, errSome): // which are reported
		f := failure.From(err, id.String()+" is not installed for any kernel", failure.StatusUsage)
		r.text.Failure(f.What, f)
	}
	again := strings.TrimSpace("dkms-kernel-install postinst " + c.Name + " " + c.Version + " " + c.Tarballs)
	r.text.Note(fmt.Sprintf("warning: modules of %s are missing: see above. When that is mended, run: %s", id, again))
	return nil
}

// install registers the package, and installs it for the kernels that it is for.
func (c *nativePostinst) install(r *nativeRun, e *engine.Engine, id tree.ID) ([]execute.Result, error) {
	m := e.Machine()
	if file := m.Disabled(); file != "" {
		r.text.Note(file + " exists: nothing is done automatically")
		return nil, nil
	}
	source := engine.Source{ID: id, Force: true}
	archive := filepath.Join(c.Tarballs, c.Name+"-"+c.Version+".dkms.tar.gz")
	if _, err := os.Stat(archive); c.Tarballs != "" && err == nil {
		source.Archive = archive
	}
	running := m.Target(m.Running)
	if err := e.Provide(r.ctx, source, running); err != nil {
		return nil, err
	}
	conf, err := observe.Conf(m, id, running)
	if err == nil && !conf.Autoinstall {
		r.text.Note(fmt.Sprintf("%s is registered; it does not ask to be built (AUTOINSTALL)", id))
		return nil, nil
	}
	ks, err := c.kernels(r, m)
	if err != nil || len(ks) == 0 {
		return nil, err
	}
	return e.Sync(r.ctx, engine.Request{
		Request: plan.Request{Only: []tree.ID{id}, Dependents: true, Goal: plan.Installed, Renew: true},
		Kernels: ks, Execute: execute.Options{Follow: follow.Policy{Initramfs: follow.Carried}},
	})
}

// kernels returns the kernels that the package is built for, and notes those that lack
// headers. They are all if autoinstall_all_kernels is set, and else the running and the
// newest one. If the running one is not installed, as in a chroot, they are the newest
// in an upgrade, and else all.
func (c *nativePostinst) kernels(r *nativeRun, m *machine.Machine) ([]tree.Target, error) {
	all, err := m.Kernels.List()
	if err != nil {
		return nil, failure.From(err, "cannot list the kernels", 1)
	}
	with, alone, err := m.WithHeaders()
	if err != nil {
		return nil, err
	}
	for _, k := range alone {
		r.text.Debug(headersAlone(k))
		all = slices.DeleteFunc(all, func(release string) bool { return release == k.Release })
	}
	take := func(release string) bool { return true }
	if !m.Settings.AutoinstallAllKernels && len(all) > 0 {
		newest := all[len(all)-1]
		switch running := slices.Contains(all, m.Running); {
		case running:
			take = func(release string) bool { return release == m.Running || release == newest }
		case c.OldVersion != "":
			// Likely a chroot: the running kernel is not one of its own.
			take = func(release string) bool { return release == newest }
		}
	}
	ks := slices.DeleteFunc(with, func(k tree.Target) bool { return !take(k.Release) })
	for _, release := range all {
		if take(release) && !slices.Contains(ks, m.Target(release)) {
			r.text.Note(fmt.Sprintf("%s/%s is not built for %s: its headers are not installed; %s", c.Name, c.Version, release, m.HeadersHint(release)))
		}
	}
	return ks, nil
}
