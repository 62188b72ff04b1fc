// SPDX-License-Identifier: GPL-2.0-or-later

package main

import "testing"

func TestPath(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "/usr/sbin:/usr/bin:/sbin:/bin",
		"/opt/bin:/usr/bin":     "/opt/bin:/usr/bin:/usr/sbin:/sbin:/bin",
		"/bin:/sbin:/usr/local": "/bin:/sbin:/usr/local:/usr/sbin:/usr/bin",
	} {
		if got := path(in); got != want {
			t.Errorf("path(%q) = %q, want %q", in, got, want)
		}
	}
}
