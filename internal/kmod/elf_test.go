// SPDX-License-Identifier: GPL-2.0-or-later

package kmod

import "dkms-kernel-install/internal/kmod/kmodtest"

const testRelease = "6.12.48+deb13-amd64"

func testModule() []byte {
	return kmodtest.AMD64("name=foo", "version=1.2", "vermagic="+testRelease+" SMP preempt mod_unload ").Build()
}
