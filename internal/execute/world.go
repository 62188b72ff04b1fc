// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"os"

	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

// worlds makes the worlds that builds run in.
type worlds struct {
	m    *machine.Machine
	told bool // that builds are less confined than they should be
}

// of returns the world of a build of id for k; nil if framework.conf says that the build
// is not confined. It reports once if builds are less confined than they should be.
func (ws *worlds) of(id tree.ID, k tree.Target) *sandbox.World {
	w, less := ws.m.World(id.Name, ws.m.Kernel(k))
	if less != "" && !ws.told {
		ws.told = true
		ws.m.Note("warning: " + less)
	}
	if w == nil || !w.Features.Mounts {
		return w
	}
	w.Show = append(w.Show, ws.m.Tree.SourceDir(id))
	// Who names a program for this run may have it anywhere, such as in /tmp.
	w.Show = append(w.Show, observe.Wrappers(ws.m.Directives)...)
	w.Over = ws.m.Tree.PackageDir(id)
	entries, _ := os.ReadDir(w.Over) // without it, nothing of it is seen
	for _, entry := range entries {
		if name := entry.Name(); name != "build" && name != k.Release && !files.IsTemp(name) {
			w.Keep = append(w.Keep, name)
		}
	}
	return w
}
