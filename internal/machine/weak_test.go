// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"path/filepath"
	"strings"
	"testing"

	"dkms-kernel-install/internal/distro"
)

func TestWeakScript(t *testing.T) {
	const redhat, suse = "weak-modules --no-initramfs --add-modules", "weak-modules2 --add-kernel-modules 6.1"
	for _, tt := range []struct{ ids, env, want string }{
		{"rhel fedora", "", redhat},
		{"centos rhel fedora", "", redhat},
		{"rocky rhel centos fedora", "", redhat},
		{"rhel fedora", "no", redhat},
		{"rhel fedora", "yes", ""},
		{"rhel fedora", "1", ""},
		{"fedora", "", ""},
		{"opensuse-leap suse opensuse", "", suse},
		{"opensuse-tumbleweed opensuse suse", "", suse},
		{"sles suse", "", suse},
		{"sles suse", "YES", ""},
		{"debian", "", ""},
		{"", "", ""},
	} {
		t.Run(tt.ids+" "+tt.env, func(t *testing.T) {
			t.Setenv("NO_WEAK_MODULES", tt.env)
			m := &Machine{Distro: distro.Distro{IDs: strings.Fields(tt.ids)}}
			got := m.WeakScript(WeakAdd, "6.1")
			if len(got) > 0 {
				got[0] = filepath.Base(got[0])
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
