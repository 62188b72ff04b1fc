// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/sandbox"
)

const (
	worldProcesses = 2048     // at once, of one world
	worldFileSize  = 8 << 30  // bytes of one file
	worldOutput    = 64 << 20 // bytes of what one command prints
)

// World returns the world of what the package called name brings and what works for
// k; nil if framework.conf says that it is not confined. Less says what confines it
// less than it should be; it is empty if nothing does.
func (m *Machine) World(name string, k *kernel.Kernel) (w *sandbox.World, less string) {
	allowed := m.Settings.Allowed(name)
	if allowed.All {
		return nil, ""
	}
	w = &sandbox.World{Network: allowed.Network, Release: k.Release, Processes: worldProcesses, FileSize: worldFileSize, Output: worldOutput}
	if !allowed.Root && os.Geteuid() == 0 {
		w.User, less = m.buildUser()
	}
	for _, dir := range allowed.Write {
		w.Writable = append(w.Writable, sandbox.Bind{From: dir, To: dir})
	}
	w.Features = sandbox.Probe(w.User)
	if len(w.Features.Missing) > 0 && less == "" {
		less = "builds are less confined than they should be, this machine denies them " + strings.Join(w.Features.Missing, ", ")
	}
	if !w.Features.Drop {
		w.User = nil
	}
	if w.Features.Mounts {
		m.hide(w, allowed, k)
	}
	return w, less
}

// hide says what w, which works for k, does not show of the file system.
func (m *Machine) hide(w *sandbox.World, allowed conf.Allowed, k *kernel.Kernel) {
	w.Hide = append(w.Hide, sandbox.Secrets...)
	if !allowed.Home {
		w.Hide = append(w.Hide, sandbox.Homes...)
	}
	key, _ := m.SigningKey(k) // without its settings, nothing is built
	for _, file := range []string{key.File, key.File + OldKey, filepath.Join(m.Tree.Dir, "mok.key"), filepath.Join(m.Tree.Dir, "mok.key"+OldKey), filepath.Join(k.SourceDir, "certs/signing_key.pem")} {
		if filepath.IsAbs(file) {
			w.Hide = append(w.Hide, file)
		}
	}
	// What is needed may be in a home, or in /tmp.
	w.Show = append(filepath.SplitList(os.Getenv("PATH")), m.Settings.DkmsTree, m.Settings.InstallTree, m.Settings.SourceTree, m.Settings.EtcDir, k.SourceDir)
	w.Show = append(w.Show, filepath.Join(k.SourceDir, "source"), k.Common())
	if allowed.Network {
		w.Show = append(w.Show, "/etc/resolv.conf") // often a link to /run
	}
}

// buildUser returns the user of worlds; nil if there is none, and what that means.
func (m *Machine) buildUser() (user *sandbox.User, less string) {
	user, err := sandbox.LookupUser(cmp.Or(m.Settings.BuildUser, "dkms-build"))
	if err != nil && m.Settings.BuildUser == "" {
		user, err = sandbox.UnusedUser()
	}
	if err != nil {
		return nil, fmt.Sprintf("builds run as root: %v", err)
	}
	return user, ""
}
