// SPDX-License-Identifier: GPL-2.0-or-later

// Package reporttest has terminals for tests.
package reporttest

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenTerminal opens both ends of a terminal of 24 lines that passes on what is written to it.
func OpenTerminal(columns uint16) (screen, terminal *os.File, err error) {
	screen, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	n, errNumber := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	errUnlock := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	terminal, errOpen := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err := errors.Join(errNumber, errUnlock, errOpen); err != nil {
		return nil, nil, err
	}
	fd := int(terminal.Fd())
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		mode.Oflag &^= unix.OPOST
		err = errors.Join(unix.IoctlSetTermios(fd, unix.TCSETS, mode), unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columns}))
	}
	return screen, terminal, err
}

// Screen is what a terminal of that many columns shows of what is written to it, and all
// that it has shown before. It knows those control sequences alone that the program uses:
// any other is an error.
type Screen struct {
	Columns int
	Lines   [][]Cell
	X, Y    int  // where the cursor is
	NoWrap  bool // what is too long for a line is not shown

	color string
	rest  string // the beginning of a sequence or a character
}

// Cell is a character on a screen, and the number of its color.
type Cell struct {
	Char  rune
	Color string
}

// sequence is one of what a terminal understands.
var sequence = regexp.MustCompile(`^\x1b\[(\?7[lh]|\d*[mJA])`)

// Write shows p.
func (s *Screen) Write(p []byte) (int, error) {
	text := s.rest + string(p)
	for s.rest = ""; text != ""; {
		if text[0] != '\x1b' {
			end := strings.IndexByte(text+"\x1b", '\x1b')
			for _, c := range text[:end] {
				if err := s.char(c); err != nil {
					return 0, err
				}
			}
			text = text[end:]
			continue
		}
		m := sequence.FindStringSubmatch(text)
		if m == nil && len(text) < 6 {
			s.rest = text
			break
		} else if m == nil {
			return 0, fmt.Errorf("no sequence: %q", text)
		}
		s.control(m[1])
		text = text[len(m[0]):]
	}
	return len(p), nil
}

// control does what a control sequence says.
func (s *Screen) control(sequence string) {
	number := sequence[:len(sequence)-1]
	switch sequence[len(sequence)-1] {
	case 'm':
		s.color = strings.TrimPrefix(number, "0")
	case 'J':
		s.line()
		s.Lines = s.Lines[:s.Y+1]
		s.Lines[s.Y] = s.Lines[s.Y][:min(s.X, len(s.Lines[s.Y]))]
	case 'A':
		n, _ := strconv.Atoi(number)
		s.Y = max(0, s.Y-n)
	default:
		s.NoWrap = sequence == "?7l"
	}
}

// char shows one character.
func (s *Screen) char(c rune) error {
	switch {
	case c == '\r':
		s.X = 0
		return nil
	case c == '\n': // as with ONLCR
		s.X, s.Y = 0, s.Y+1
		s.line()
		return nil
	case c < ' ' || c == 0x7f || c == '\ufffd':
		return fmt.Errorf("control character %q", c)
	}
	if s.X == s.Columns && s.NoWrap {
		s.X--
	} else if s.X == s.Columns {
		s.X, s.Y = 0, s.Y+1
	}
	line := s.line()
	for len(*line) <= s.X {
		*line = append(*line, Cell{Char: ' '})
	}
	(*line)[s.X] = Cell{c, s.color}
	s.X++
	return nil
}

// line returns the line with the cursor.
func (s *Screen) line() *[]Cell {
	for len(s.Lines) <= s.Y {
		s.Lines = append(s.Lines, nil)
	}
	return &s.Lines[s.Y]
}

// String returns the text on the screen.
func (s *Screen) String() string {
	var b strings.Builder
	for _, line := range s.Lines {
		var text strings.Builder
		for _, c := range line {
			text.WriteRune(c.Char)
		}
		b.WriteString(strings.TrimRight(text.String(), " ") + "\n")
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// Clone returns a copy of s.
func (s *Screen) Clone() *Screen {
	c := *s
	c.Lines = make([][]Cell, len(s.Lines))
	for i, line := range s.Lines {
		c.Lines[i] = slices.Clone(line)
	}
	return &c
}
