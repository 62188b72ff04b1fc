// SPDX-License-Identifier: GPL-2.0-or-later

// Package testskip skips tests that not every machine can run.
package testskip

import (
	"os"
	"os/exec"
	"testing"
)

// CI reports whether the tests run in CI, where nothing may be missing. It is set by
// the environment variable of the same name.
var CI = os.Getenv("CI") != ""

// For skips a test for the given reason. In CI it fails the test instead.
func For(t testing.TB, reason string) {
	t.Helper()
	if CI {
		t.Fatalf("cannot run here, and in CI that is a failure: %s", reason)
	}
	t.Skip(reason)
}

// Without skips a test, as [For] does, if program is not in PATH.
func Without(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		For(t, program+" is not installed")
	}
}
