// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/packages"
)

// onlyOne returns an error if both --source-only and --binaries-only are given.
func (c *classicRun) onlyOne() error {
	if c.SourceOnly && c.BinariesOnly {
		return usage(failure.StatusBadConf, "--source-only and --binaries-only exclude each other")
	}
	return nil
}

// mktarball makes an archive of a package.
func (c *classicRun) mktarball() error {
	if err := c.onlyOne(); err != nil {
		return err
	}
	ks, err := c.kernels()
	if err != nil {
		return err
	}
	id, err := c.id()
	if err != nil {
		return err
	}
	kernels := ks
	if c.All {
		kernels = nil
	}
	file, err := c.e.MakeArchive(c.ctx, id, kernels, ks[0], packages.ArchiveOptions{File: c.Archive, SourceOnly: c.SourceOnly, BinariesOnly: c.BinariesOnly})
	if err != nil {
		return err
	}
	c.text.Note("made " + file)
	return nil
}
