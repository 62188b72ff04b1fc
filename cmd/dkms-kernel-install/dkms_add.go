// SPDX-License-Identifier: GPL-2.0-or-later

package main

import "dkms-kernel-install/internal/failure"

// add registers a package.
func (c *classicRun) add() error {
	if c.All {
		return usage(failure.StatusNoAll, "add does not take --all")
	}
	ks, err := c.kernels()
	if err != nil {
		return err
	}
	s, err := c.source()
	if err != nil {
		return err
	}
	return c.e.Add(c.ctx, s, ks[0])
}
