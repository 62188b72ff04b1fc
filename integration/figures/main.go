// SPDX-License-Identifier: GPL-2.0-or-later

// Command figures reads what make bench prints and writes a picture of it, in SVG:
// a bar for what each command takes with Debian's dkms, one for what it takes with
// ours, and a mark for the compilers alone. Each pair has a scale of its own.
package main

import (
	"bufio"
	"fmt"
	"html"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

func main() {
	rows, err := read(os.Stdin)
	if err == nil {
		err = draw(os.Stdout, rows)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		os.Exit(1)
	}
}

// row is a line of the table that compares with the peer.
type row struct {
	what         string
	theirs, ours time.Duration
	floor        time.Duration // 0 if there is none
}

// line matches a line that has a time for both sides: what, theirs, ours, ratio, floor.
var line = regexp.MustCompile(`^\| ([^|]+?)(?: \(\d+ runs\))? \| ([0-9][^ |]*) \| ([0-9][^ |]*) \| [0-9.]+ \| ([^ |]*) ?\|`)

// read returns the rows among other text.
func read(r io.Reader) (rows []row, err error) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		m := line.FindStringSubmatch(lines.Text())
		if m == nil {
			continue
		}
		w := row{what: strings.ReplaceAll(m[1], "`", "")}
		for i, d := range []*time.Duration{&w.theirs, &w.ours, &w.floor} {
			if m[2+i] == "" {
				continue
			}
			if *d, err = time.ParseDuration(m[2+i]); err != nil {
				return nil, fmt.Errorf("%q: %w", lines.Text(), err)
			}
		}
		rows = append(rows, w)
	}
	if err == nil && len(rows) == 0 {
		err = fmt.Errorf("there is no row of a table that has a time for both sides")
	}
	return rows, err
}

const (
	width, left, bars = 890, 330, 400 // of the picture, before bars, of the longest bar
	top, height, bar  = 56, 46, 14    // above the rows, of a row, of a bar
)

// draw writes the picture.
func draw(w io.Writer, rows []row) error {
	b := bufio.NewWriter(w)
	p := func(format string, args ...any) { fmt.Fprintf(b, format+"\n", args...) }
	p(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">`, width, top+height*len(rows)+10)
	p(`<title>Time that the same command takes with Debian's dkms and with dkms-kernel-install</title>`)
	p(`<rect width="100%%" height="100%%" fill="#fff"/>`)
	for i, l := range []struct{ color, text string }{{"#b0b7bf", "Debian's dkms"}, {"#1f6feb", "dkms-kernel-install"}, {"#d1242f", "the compilers alone"}} {
		p(`<rect x="%d" y="18" width="12" height="12" fill="%s"/><text x="%d" y="28" fill="#1f2328">%s</text>`, left+i*160, l.color, left+i*160+18, l.text)
	}
	for i, r := range rows {
		y := top + i*height
		scale := float64(bars) / float64(max(r.theirs, r.ours))
		p(`<text x="%d" y="%d" text-anchor="end" fill="#1f2328">%s</text>`, left-12, y+bar+4, html.EscapeString(r.what))
		for n, s := range []struct {
			color string
			took  time.Duration
		}{{"#b0b7bf", r.theirs}, {"#1f6feb", r.ours}} {
			long := max(float64(s.took)*scale, 1)
			p(`<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" fill="#1f2328">%s</text>`,
				left, y+n*bar, long, bar, s.color, left+long+6, y+n*bar+12, s.took)
		}
		if r.floor > 0 {
			p(`<rect x="%.1f" y="%d" width="2" height="%d" fill="#d1242f"/>`, left+float64(r.floor)*scale-1, y-2, 2*bar+4)
		}
	}
	p(`</svg>`)
	return b.Flush()
}
