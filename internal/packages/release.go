// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/tree"
)

// NoteRelease notes that a script of an RPM package, if one runs this process, works on
// id, which is registered: it may be of a new release of the same version, and the script
// of the old one, which is to come, must not remove it. The caller holds the lock of the
// tree.
func NoteRelease(m *machine.Machine, id tree.ID) error {
	if !InScriptlet() || !Registered(m, id) || Upgrading(m, id) {
		return nil
	}
	return NoteUpgrade(m, id)
}

// BeingReleased reports whether RPM runs this process for a package of which a version
// stays, to take out id, and no other version of id is there that could be the one.
func BeingReleased(m *machine.Machine, id tree.ID) bool {
	return staying() > 0 && !BeingUpgraded(m, id)
}
