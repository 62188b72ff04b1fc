// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// autoinstall installs for one kernel the packages that want automatic installation.
func (c *classicRun) autoinstall() error {
	_, err := c.installAll()
	return err
}

// installAll is autoinstall. It also returns the results, unless nothing was done.
func (c *classicRun) installAll() ([]execute.Result, error) {
	k, err := c.kernel()
	if err != nil {
		return nil, err
	}
	if file := c.m.Disabled(); file != "" {
		c.text.Note(file + " exists: nothing is done automatically")
		return nil, nil
	}
	if len(c.Kernelver) == 0 && c.m.HeadersAlone(k) {
		c.text.Debug(headersAlone(k))
		return nil, nil
	}
	results, err := c.e.Sync(c.ctx, engine.Request{
		Request: plan.Request{Goal: plan.Installed, Retry: c.Force},
		Kernels: []tree.Target{k}, Execute: c.options(),
	})
	if err != nil {
		return nil, err
	}
	err = c.worst(results)
	var f *failure.Failure
	switch {
	case !errors.As(err, &f):
		return results, nil
	case f.Status == failure.StatusHeaders && c.m.Kernel(k).Exists():
		return results, err
	case slices.ContainsFunc(results, func(r execute.Result) bool {
		return r.Outcome == execute.Failed && r.Failure.Status != failure.StatusNoConf // nothing to try
	}):
		return results, told{&failure.Failure{What: "some packages failed", Status: failure.StatusAutoinstall}}
	}
	return results, nil // that a package does not want this kernel is not a failure
}
