// SPDX-License-Identifier: GPL-2.0-or-later

// Package testskip is for tests of what not every machine has or can.
package testskip

import (
	"os"
	"os/exec"
	"testing"
)

// CI says that the tests run where nothing may be wanting.
var CI = os.Getenv("CI") != ""

// For skips a test for want of what the reason names. In CI it fails the test.
func For(t testing.TB, reason string) {
	t.Helper()
	if CI {
		t.Fatalf("cannot run here, and in CI that is a failure: %s", reason)
	}
	t.Skip(reason)
}

// Without skips a test that needs a program, as [For] does, if it is not in PATH.
func Without(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		For(t, program+" is not installed")
	}
}
