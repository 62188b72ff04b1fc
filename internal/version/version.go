// SPDX-License-Identifier: GPL-2.0-or-later

// Package version orders the version strings of packages, modules and kernels.
package version

import "strings"

// Compare returns -1 if a is older than b, 1 if a is newer, and 0 if both are as old.
//
// Versions are compared piece by piece. A piece is a run of digits or a run of
// letters, and everything else separates pieces: "2.6.9-1cvs2004" is 2, 6, 9, 1, cvs
// and 2004. Numbers are compared by value, and letters byte by byte. A number is older
// than letters. If all pieces of the shorter version are equal, the longer is newer.
func Compare(a, b string) int {
	for {
		var pa, pb string
		pa, a = next(a)
		pb, b = next(b)
		if pa == "" || pb == "" {
			return sign(len(pa) - len(pb))
		}
		if c := comparePiece(pa, pb); c != 0 {
			return c
		}
	}
}

func comparePiece(a, b string) int {
	da, db := isDigit(a[0]), isDigit(b[0])
	switch {
	case da && !db:
		return -1
	case !da && db:
		return 1
	case da:
		// Numbers may be too long for an integer: compare their lengths first.
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if len(a) != len(b) {
			return sign(len(a) - len(b))
		}
	}
	return strings.Compare(a, b)
}

// next returns the first piece of s, and what follows. The piece is empty if there is
// none.
func next(s string) (piece, rest string) {
	start := 0
	for start < len(s) && !isDigit(s[start]) && !isLetter(s[start]) {
		start++
	}
	end := start
	for end < len(s) && (isDigit(s[end]) || isLetter(s[end])) && isDigit(s[end]) == isDigit(s[start]) {
		end++
	}
	return s[start:end], s[end:]
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isLetter reports whether c is part of a letter. All bytes outside ASCII are, so that
// versions in other scripts are compared, too.
func isLetter(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c >= 0x80
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}
