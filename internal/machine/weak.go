// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"os"
	"path/filepath"
	"strings"
)

// WeakVerb is what the script for weak modules hears of modules.
type WeakVerb string

// The verbs of the scripts for weak modules.
const (
	WeakAdd    WeakVerb = "add"
	WeakRemove WeakVerb = "remove"
)

// WeakScript returns the command that hears of modules which a kernel has got or
// lost; nil if the distribution has none, or if it is switched off.
//
// Kernels of one binary interface (kABI) share modules: what is installed into one
// of them serves the others by links in their weak-updates directories, which a
// script of the distribution makes and removes. It reads the paths of modules, one
// a line.
func (m *Machine) WeakScript(verb WeakVerb, release string) []string {
	// The directive's name works as a variable of the environment too, for all
	// packages.
	if off := os.Getenv("NO_WEAK_MODULES"); off != "" && !strings.EqualFold(off, "no") {
		return nil
	}
	switch {
	case m.Distro.Is("rhel", "centos"):
		return []string{m.Path("/usr/sbin/weak-modules"), "--no-initramfs", "--" + string(verb) + "-modules"}
	case m.Distro.Is("suse"):
		return []string{m.Path("/usr/lib/module-init-tools/weak-modules2"), "--" + string(verb) + "-kernel-modules", release}
	}
	return nil
}

// WeakDir is the directory of the links by which a kernel shares modules of others.
func (m *Machine) WeakDir(release string) string {
	return filepath.Join(m.Kernel(m.Target(release)).Dir, "weak-updates")
}
