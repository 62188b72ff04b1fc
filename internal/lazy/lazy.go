// SPDX-License-Identifier: GPL-2.0-or-later

// Package lazy puts off what most processes of this program never need: each build and
// each dkms.conf has several, and each would pay for all of it when it starts.
package lazy

import (
	"regexp"
	"sync"
)

// Regexp returns a function that compiles expr when it is first called. It panics if
// expr cannot be compiled.
func Regexp(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
