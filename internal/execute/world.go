// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

const (
	buildProcesses = 2048     // at once, of one build
	buildFileSize  = 8 << 30  // bytes of one file
	buildOutput    = 64 << 20 // bytes of what one command prints
)

// worlds makes the worlds that builds run in.
type worlds struct {
	m    *machine.Machine
	told bool // that builds are less confined than they should be
}

// features returns what this machine allows for builds that run as user, and reports
// once what is missing.
func (ws *worlds) features(user *sandbox.User) sandbox.Features {
	f := sandbox.Probe(user)
	if len(f.Missing) > 0 && !ws.told {
		ws.told = true
		ws.m.Note("warning: builds are less confined than they should be, this machine denies them " + strings.Join(f.Missing, ", "))
	}
	return f
}

// of returns the world of a build of id for k; nil if framework.conf says that the build
// is not confined.
func (ws *worlds) of(id tree.ID, k tree.Target) *sandbox.World {
	allowed := ws.m.Settings.Allowed(id.Name)
	if allowed.All {
		return nil
	}
	w := &sandbox.World{Network: allowed.Network, Processes: buildProcesses, FileSize: buildFileSize, Output: buildOutput}
	if !allowed.Root && os.Geteuid() == 0 {
		w.User = ws.buildUser()
	}
	for _, dir := range allowed.Write {
		w.Writable = append(w.Writable, sandbox.Bind{From: dir, To: dir})
	}
	w.Features = ws.features(w.User)
	if !w.Features.Drop {
		w.User = nil
	}
	if w.Features.Mounts {
		ws.hide(w, allowed, id, k)
	}
	return w
}

// hide says what a build of id for k does not see of the file system.
func (ws *worlds) hide(w *sandbox.World, allowed conf.Allowed, id tree.ID, k tree.Target) {
	m, kern := ws.m, ws.m.Kernel(k)
	w.Hide = append(w.Hide, sandbox.Secrets...)
	if !allowed.Home {
		w.Hide = append(w.Hide, sandbox.Homes...)
	}
	key, _ := m.SigningKey(kern) // without its settings, nothing is built
	for _, file := range []string{key.File, filepath.Join(m.Tree.Dir, "mok.key"), filepath.Join(kern.SourceDir, "certs/signing_key.pem")} {
		if filepath.IsAbs(file) {
			w.Hide = append(w.Hide, file)
		}
	}
	// What a build needs may be in a home, or in /tmp.
	w.Show = append(filepath.SplitList(os.Getenv("PATH")), m.Settings.DkmsTree, m.Settings.InstallTree, m.Settings.SourceTree, m.Settings.EtcDir, kern.SourceDir)
	links := []string{kern.SourceDir, filepath.Join(kern.SourceDir, "source"), filepath.Join(kern.Dir, "source"), m.Tree.SourceDir(id)}
	if allowed.Network {
		links = append(links, "/etc/resolv.conf") // often a link to /run
	}
	for _, link := range links {
		if path, err := filepath.EvalSymlinks(link); err == nil {
			w.Show = append(w.Show, path)
		}
	}
	w.Over = m.Tree.PackageDir(id)
	entries, _ := os.ReadDir(w.Over) // without it, nothing of it is seen
	for _, entry := range entries {
		if name := entry.Name(); name != "build" && name != k.Release && !files.IsTemp(name) {
			w.Keep = append(w.Keep, name)
		}
	}
}

// buildUser returns the user that builds run as; nil if there is none.
func (ws *worlds) buildUser() *sandbox.User {
	names := []string{"dkms-build", "nobody"}
	if ws.m.Settings.BuildUser != "" {
		names = []string{ws.m.Settings.BuildUser}
	}
	user, err := sandbox.LookupUser(names...)
	if err != nil && !ws.told {
		ws.told = true
		ws.m.Note(fmt.Sprintf("warning: builds run as root: %v", err))
	}
	return user
}
