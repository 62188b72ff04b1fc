// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/tree"
)

// ldtarball loads an archive.
func (c *classicRun) ldtarball() error {
	if err := c.onlyOne(); err != nil {
		return err
	}
	file := c.Archive
	switch {
	case len(c.Args) > 1 || len(c.Args) == 1 && file != "":
		return usage(failure.StatusNotFound, "more than one archive given")
	case len(c.Args) == 1:
		file = c.Args[0]
	case file == "":
		return usage(failure.StatusUsage, "ldtarball needs an archive")
	}
	ks, err := c.kernels()
	if err != nil {
		return err
	}
	return c.e.Add(c.ctx, engine.Source{Archive: file, ID: tree.ID{Name: c.Module, Version: c.ModuleVersion}, Force: c.Force, Conf: c.Conf}, ks[0])
}
