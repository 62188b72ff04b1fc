// SPDX-License-Identifier: GPL-2.0-or-later

// Package version orders the version strings of packages, modules and kernels.
package version

import "strings"

// Compare returns -1, 0 or 1 as a is older than, as old as, or newer than b.
//
// Versions compare piece by piece, where a piece is a run of digits or a run
// of letters; everything else only separates ("2.6.9-1cvs2004" is 2, 6, 9, 1,
// cvs, 2004). Numbers compare by value, letters byte by byte, a number is older
// than letters, and where one version ends the longer one is newer.
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
		// By length first: numbers may be longer than any integer type.
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		if len(a) != len(b) {
			return sign(len(a) - len(b))
		}
	}
	return strings.Compare(a, b)
}

// next splits the first piece off s; the piece is empty at the end of s.
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

// isLetter takes every byte outside ASCII for a letter, so that no part of a
// version written in another script is lost.
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
