// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/failure"
)

// rpmFile returns the RPM package that is named instead of an archive; "" if none is.
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

// installRPM has rpm install the package in file, then installs what is missing for the
// kernel. It does not hold the lock while rpm runs, as the package's scripts call dkms.
func (c *classicRun) installRPM(file string) error {
	if _, err := c.kernel(); err != nil {
		return err
	}
	cmd := exec.CommandContext(c.ctx, "rpm", "-Uvh", "--", file)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // rpm knows a terminal, and runs what it brings as root
	if err := cmd.Run(); err != nil {
		return &failure.Failure{What: "cannot install " + file, Why: "rpm: " + err.Error(), Status: failure.StatusNoPerm, Err: err,
			Hint: "install it with the distribution's own tools, or load an archive that dkms mktarball made"}
	}
	return c.autoinstall()
}
