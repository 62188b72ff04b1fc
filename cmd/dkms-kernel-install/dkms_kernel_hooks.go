// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// The actions for the hooks of Debian's kernel packages.

// kernelPreinst removes, before a kernel is unpacked, the builds for it that are made
// automatically: they may be for an earlier kernel of the same release.
func (c *classicRun) kernelPreinst() error {
	return c.takeBack(func(k tree.Target) ([]execute.Result, error) {
		automatic := func(p tree.Package) bool {
			if _, built := p.Build(k); !built || p.Source == "" {
				return false
			}
			conf, err := observe.Conf(c.m, p.ID, k)
			return err == nil && conf.Autoinstall
		}
		return c.e.RemoveBuilds(c.ctx, automatic, k, c.policy())
	})
}

// kernelPrerm removes everything for a kernel that is being removed.
func (c *classicRun) kernelPrerm() error {
	return c.takeBack(func(k tree.Target) ([]execute.Result, error) {
		return c.e.RemoveKernel(c.ctx, k.Release, c.policy())
	})
}

// takeBack calls remove with the kernel and reports the results: it is what kernelPreinst
// and kernelPrerm have in common.
func (c *classicRun) takeBack(remove func(tree.Target) ([]execute.Result, error)) error {
	k, err := c.kernel()
	if err != nil {
		return err
	}
	results, err := remove(k)
	if err != nil {
		return err
	}
	if c.worst(results) != nil {
		return told{&failure.Failure{What: "some packages failed", Status: failure.StatusKernelHook}}
	}
	return nil
}

// kernelPostinst is autoinstall, except that it returns another status if a required
// package failed: the kernel hook then stops.
func (c *classicRun) kernelPostinst() error {
	results, err := c.installAll()
	if lacking := c.e.Lacking(results); len(lacking) > 0 {
		id := lacking[0].ID
		c.text.Note(fmt.Sprintf("%s is required (required_packages in framework.conf)", id))
		return told{&failure.Failure{What: id.String() + " is required", Status: failure.StatusUsage}}
	}
	return err
}
