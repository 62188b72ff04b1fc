// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"fmt"
	"strings"

	"dkms-kernel-install/internal/lazy"
)

// How often a command is evaluated depends on who reads the conf: bash does when it
// reads the conf and when it runs the command; the classic script once more between, as
// a double-quoted string, after it has split it into words, expanded patterns in them,
// and joined them with single blanks. A word that comes out the same in both cases has
// single quotes but no double ones, no backslash and no dollar sign that mean anything
// in double quotes, and no two blanks in succession.
var (
	bareWord = lazy.Regexp(`^[A-Za-z0-9_./:,@%+=-]*$`)
	quotable = lazy.Regexp("^[^'\"\\\\$`*?\\[]*$") // by single quotes alone
)

// Quote makes s part of a word of a command, such as MAKE, in a dkms.conf.
func Quote(s string) string {
	if bareWord().MatchString(s) {
		return s
	}
	if quotable().MatchString(s) && !strings.Contains(s, "  ") {
		return "'" + s + "'"
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < 0x80 && !bareWord().MatchString(s[i:i+1]) {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return "$'" + b.String() + "'"
}
