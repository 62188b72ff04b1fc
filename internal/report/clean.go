// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Clean returns a writer of text to w, on which text from a package cannot control a
// terminal: it replaces by a question mark what does anything but appear in its place,
// such as control characters other than tabs and line breaks and marks that turn the
// direction of writing, and what is not UTF-8. If nobody reads w any more, that is no
// error. It may be used by several goroutines at once.
func Clean(w io.Writer) io.Writer { return &cleaner{w: w} }

type cleaner struct {
	w    io.Writer
	mu   sync.Mutex
	rest []byte // the beginning of a character, of which the next Write has more
}

func (c *cleaner) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := append(c.rest, p...)
	end := len(text)
	for i := max(0, end-utf8.UTFMax+1); i < end; i++ {
		if utf8.RuneStart(text[i]) && !utf8.FullRune(text[i:]) {
			end = i
		}
	}
	c.rest = bytes.Clone(text[end:])
	if _, err := io.WriteString(c.w, clean(string(text[:end]))); err != nil && !errors.Is(err, syscall.EPIPE) {
		return 0, err
	}
	return len(p), nil
}

// clean returns s as a cleaner writes it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if harmless(r) {
			return r
		}
		return '?'
	}, s)
}

// harmless reports whether r is a character that appears in its place on a terminal and
// does nothing else, or breaks a line. [utf8.RuneError] stands for what is not UTF-8.
func harmless(r rune) bool {
	return r == '\n' || r == '\t' || unicode.IsGraphic(r) && r != utf8.RuneError
}

// escapeJSON returns JSON with the characters escaped that a cleaner would replace:
// programs get the names that are there.
func escapeJSON(text []byte) []byte {
	var out []byte
	for _, r := range string(text) {
		switch {
		case harmless(r):
			out = utf8.AppendRune(out, r)
		case r > 0xffff:
			out = fmt.Appendf(out, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
