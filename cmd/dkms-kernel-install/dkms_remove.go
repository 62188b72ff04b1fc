// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"slices"

	"dkms-kernel-install/internal/packages"
	"dkms-kernel-install/internal/tree"
)

// remove is the actions uninstall, unbuild and remove, which differ by depth.
func (c *classicRun) remove(d packages.Depth) error {
	ks, err := c.kernels()
	if err != nil {
		return err
	}
	id, err := c.id()
	if err != nil {
		return err
	}
	match := func(k tree.Target) bool { return c.All || slices.Contains(ks, k) }
	results, err := c.e.RemovePackage(c.ctx, id, match, d, c.RpmSafeUpgrade, c.policy())
	if err != nil {
		return err
	}
	if len(results) == 0 && d != packages.Unregister {
		c.text.Note(fmt.Sprintf("%s: nothing to %s", id, c.Action))
	}
	return c.worst(results)
}
