// SPDX-License-Identifier: GPL-2.0-or-later

package secureboot

import (
	"os"
	"strings"
	"testing"
)

// TestManual checks that the manual page names all rules.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../install.d/man/dkms-kernel-install.8")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		if name := strings.ReplaceAll(r.name, "-", `\-`); !strings.HasSuffix(r.name, "-unknown") && !strings.Contains(string(text), name) {
			t.Errorf("dkms-kernel-install.8 does not have %s", r.name)
		}
	}
}
