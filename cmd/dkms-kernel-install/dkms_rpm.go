// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/failure"
)

// rpmFile returns the RPM package that is to be loaded in place of an archive.
func (c *classicRun) rpmFile() string {
	if !slices.Contains([]string{"add", "build", "install", "ldtarball"}, c.Action) {
		return ""
	}
	for _, file := range append(c.Args, c.Archive) {
		if fi, err := os.Stat(file); err == nil && fi.Mode().IsRegular() && filepath.Ext(file) == ".rpm" {
			return file
		}
	}
	return ""
}

// installRPM has rpm install a package, whose scripts call dkms: so the lock is
// not taken yet. Then it installs what is missing for the kernel.
func (c *classicRun) installRPM(file string) error {
	if _, err := c.kernel(); err != nil {
		return err
	}
	cmd := exec.CommandContext(c.ctx, "rpm", "-Uvh", "--", file)
	cmd.Stdout, cmd.Stderr = c.p.stdout, c.p.stderr
	if err := cmd.Run(); err != nil {
		return &failure.Failure{What: "cannot install " + file, Why: "rpm: " + err.Error(), Status: failure.StatusNoPerm, Err: err,
			Hint: "install it with the distribution's own tools, or load an archive that dkms mktarball made"}
	}
	return c.autoinstall()
}
