// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

type nativeWhy struct {
	Package string   `arg:"" optional:"" help:"NAME or NAME/VERSION. Without one, all that is not as it should be is told, for all kernels."`
	Kernels []string `arg:"" optional:"" name:"kernel" help:"Kernel releases. The default is the running kernel, and the newest."`
	JSON    bool     `name:"json" help:"Write JSON, for programs."`
}

// errNotWell is the error if something is not as it should be. It was reported.
var errNotWell = told{&failure.Failure{What: "not all is as it should be", Status: 1}}

// Run says why modules are there or not.
func (c *nativeWhy) Run(r *nativeRun) error {
	return r.with(machine.Options{}, func(e *engine.Engine) error {
		name, version, _ := strings.Cut(c.Package, "/")
		kernels, err := c.kernels(e.Machine())
		if err != nil {
			return err
		}
		chains, err := e.Explain(r.ctx, kernels, name, version)
		if err != nil {
			return err
		}
		if name == "" {
			chains = slices.DeleteFunc(chains, func(c explain.Chain) bool { return !c.Wrong() })
		} else if len(chains) == 0 {
			return notRegistered(e.Machine(), tree.ID{Name: name, Version: version})
		}
		if c.JSON {
			err = report.ChainsJSON(r.p.stdout, chains)
		} else {
			report.Chains(r.p.stdout, chains, name != "")
		}
		if err == nil && slices.ContainsFunc(chains, func(c explain.Chain) bool { return c.Cause() != nil }) {
			err = errNotWell
		}
		return err
	})
}

// kernels returns the kernels that are asked for: without a package all, else by default
// the running kernel and the newest, the one that runs first.
func (c *nativeWhy) kernels(m *machine.Machine) ([]tree.Target, error) {
	if len(c.Kernels) > 0 {
		return knownKernels(m, c.Kernels)
	}
	all, err := installedKernels(m)
	if err != nil {
		return nil, err
	}
	slices.Reverse(all)
	var ks []tree.Target
	if slices.Contains(all, m.Running) {
		ks = append(ks, m.Target(m.Running))
	}
	for _, release := range all {
		if release != m.Running && (c.Package == "" || len(ks) == 0 || release == all[0]) {
			ks = append(ks, m.Target(release))
		}
	}
	if len(ks) == 0 {
		return nil, &failure.Failure{What: "there is no kernel", Why: "there is none in " + m.Kernels.Modules, Hint: "install one, or name one whose headers are there", Status: 1}
	}
	return ks, nil
}

// notRegistered is the error for a package that is not in the tree.
func notRegistered(m *machine.Machine, id tree.ID) error {
	f := &failure.Failure{What: id.Name + " is not registered", Why: "it is not in " + m.Tree.Dir, Status: 1,
		Hint: "install the package that brings its source; dkms status shows what is registered"}
	if id.Version != "" {
		f.What = id.String() + " is not registered"
	}
	if found, _ := filepath.Glob(filepath.Join(m.Settings.SourceTree, id.Name+"-*", "dkms.conf")); len(found) > 0 {
		dir := filepath.Dir(found[len(found)-1])
		f.Hint = fmt.Sprintf("its source is there: run: dkms add %s/%s", id.Name, strings.TrimPrefix(filepath.Base(dir), id.Name+"-"))
	}
	return f
}
