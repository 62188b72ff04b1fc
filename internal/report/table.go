// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"dkms-kernel-install/internal/failure"
)

// Sign is how a package is for a kernel.
type Sign int

// The signs, from the one that says least.
const (
	Absent Sign = iota
	PassedOver
	Installed
	Linked
	Kept
	Built
	Stale
	Differs
	Failed
	Gone
)

// signs are how they look: the mark, the number of its color, and what it means. Not each
// font of a console has more than ASCII.
var signs = [...]struct{ mark, color, means string }{
	Absent:     {".", "2", "not there"},
	PassedOver: {"-", "2", "passed over"},
	Installed:  {"+", "32", "installed"},
	Linked:     {"=", "32", "installed, by links to another kernel's modules"},
	Kept:       {"k", "36", "kept from before an upgrade"},
	Built:      {"o", "33", "built, not installed"},
	Stale:      {"~", "33", "out of date"},
	Differs:    {"!", "31", "missing, or not what was built"},
	Failed:     {"x", "31", "failed"},
	Gone:       {"?", "31", "its source is gone"},
}

// Table is what status shows on a terminal.
type Table struct {
	Kernels []string // a column each
	Running int      // the column of the kernel that runs; -1 if it has none
	Rows    []Row
	Todos   []Todo
}

// Row is a package: its name, and how it is for each kernel.
type Row struct {
	Name  string
	Signs []Sign
}

// Todo is something that wants attention: what it is, and what to do about it.
type Todo struct{ What, Do string }

// Text returns t for a terminal of that width, in color if that is wanted. It has no
// control characters but line breaks and those of its colors.
func (t Table) Text(width int, color bool) string {
	p := page{width: max(width, 10), color: color}
	names := []string{}
	for _, r := range t.Rows {
		names = append(names, plain(r.Name))
	}
	p.grid(t, names)
	if len(t.Kernels) > 0 {
		p.line("")
		p.legend(t)
	}
	if len(t.Todos) > 0 {
		p.line("")
	}
	for _, todo := range t.Todos {
		p.fold("", "  ", plain(todo.What))
		if todo.Do != "" {
			p.fold("  do:  ", "       ", plain(todo.Do))
		}
	}
	return p.text.String()
}

// page is a text of lines that are no longer than width.
type page struct {
	text  strings.Builder
	width int
	color bool
}

func (p *page) line(s string) { p.text.WriteString(strings.TrimRight(s, " ") + "\n") }

// mark returns the mark of s.
func (p *page) mark(s Sign) string {
	if !p.color {
		return signs[s].mark
	}
	return "\x1b[" + signs[s].color + "m" + signs[s].mark + "\x1b[0m"
}

// column is one kernel, or several in a row for which all packages are equal.
type column struct {
	label string
	first int // of Table.Kernels
}

// step is how far the marks of a row are from each other, if the labels of their columns
// stand in a line each.
const step = 3

// grid writes the rows of t, below the labels of the columns in one line, or, if they do
// not fit there, in a line each.
func (p *page) grid(t Table, names []string) {
	longest := 0
	for _, name := range names {
		longest = max(longest, length(name))
	}
	columns := t.columns(false)
	if longest+total(columns) > p.width {
		columns = t.columns(true)
	}
	if longest+total(columns) > p.width {
		p.stairs(t, names, longest, columns)
		return
	}
	head := strings.Repeat(" ", longest)
	for _, c := range columns {
		head += "  " + c.label
	}
	if len(columns) > 0 {
		p.line(head)
	}
	p.rows(t, names, longest, columns, func(c column) int { return length(c.label) + 2 })
}

// stairs writes the rows of t, whose longest name has that length, in as many tables as it
// takes to have all columns.
func (p *page) stairs(t Table, names []string, longest int, columns []column) {
	widest := 0
	for _, c := range columns {
		widest = max(widest, length(c.label))
	}
	first := min(longest, max(p.width-2-widest-step*len(columns), p.width/2)) // the width of the names
	for begin := true; begin || len(columns) > 0; begin = false {
		if !begin {
			p.line("")
		}
		n := 0
		for ; n < len(columns); n++ {
			room := p.width - first - 2 - step*n
			if n > 0 && length(columns[n].label) > room {
				break
			}
			p.line(strings.Repeat(" ", first+2) + strings.Repeat(pad("|", step), n) + shorten(columns[n].label, room))
		}
		p.rows(t, names, first, columns[:n], func(column) int { return step })
		columns = columns[n:]
	}
}

// rows writes the rows of t with these columns alone, of the widths that are given, and with
// names of width first.
func (p *page) rows(t Table, names []string, first int, columns []column, width func(column) int) {
	for i, r := range t.Rows {
		row := pad(shorten(names[i], first), first) + "  "
		for _, c := range columns {
			row += p.mark(r.Signs[c.first]) + strings.Repeat(" ", width(c)-1)
		}
		p.line(row)
	}
}

// columns returns the columns of t: one for each kernel, or, if share is set, one for
// neighbors that are equal. The running kernel has its own.
func (t Table) columns(share bool) (list []column) {
	for i := 0; i < len(t.Kernels); {
		end := i + 1
		for share && i != t.Running && end < len(t.Kernels) && end != t.Running && t.equal(i, end) {
			end++
		}
		label := plain(t.Kernels[i])
		switch {
		case i == t.Running:
			label += "*"
		case end-i > 1:
			label = fmt.Sprintf("%s … %s (%d)", label, plain(t.Kernels[end-1]), end-i)
		}
		list = append(list, column{label, i})
		i = end
	}
	return list
}

// equal reports whether each package is the same for kernels a and b.
func (t Table) equal(a, b int) bool {
	return !slices.ContainsFunc(t.Rows, func(r Row) bool { return r.Signs[a] != r.Signs[b] })
}

// legend writes what the marks in t mean.
func (p *page) legend(t Table) {
	used := make([]bool, len(signs))
	for _, r := range t.Rows {
		for _, s := range r.Signs {
			used[s] = true
		}
	}
	line, long := "", 0
	add := func(mark, marked, means string) {
		means = shorten(mark+" "+means, p.width)[len(mark):]
		if long > 0 && long+3+length(mark+means) > p.width {
			p.line(line)
			line, long = "", 0
		} else if long > 0 {
			line, long = line+"   ", long+3
		}
		line, long = line+marked+means, long+length(mark+means)
	}
	for i := len(signs) - 1; i >= 0; i-- {
		if used[i] {
			add(signs[i].mark, p.mark(Sign(i)), signs[i].means)
		}
	}
	if t.Running >= 0 {
		add("*", "*", "the running kernel")
	}
	p.line(line)
}

// fold writes text in lines of which the first begins with first, and others with rest.
func (p *page) fold(first, rest, text string) {
	for lead := first; ; lead = rest {
		room := p.width - length(lead)
		line := []rune(text)
		if len(line) <= room {
			p.line(lead + text)
			return
		}
		end := room
		for i := room; i > 0; i-- {
			if line[i] == ' ' {
				end = i
				break
			}
		}
		p.line(lead + string(line[:end]))
		text = strings.TrimLeft(string(line[end:]), " ")
	}
}

// plain returns s as one line that does not steer a terminal.
func plain(s string) string { return strings.ReplaceAll(clean(failure.Line(s)), "\t", " ") }

// length returns how many characters s has.
func length(s string) int { return utf8.RuneCountInString(s) }

func pad(s string, width int) string { return s + strings.Repeat(" ", max(0, width-length(s))) }

// total returns the width of columns whose labels stand in one line.
func total(columns []column) (sum int) {
	for _, c := range columns {
		sum += 2 + length(c.label)
	}
	return sum
}

// shorten returns s, or if that is longer than limit, which is positive, its begin and its
// end.
func shorten(s string, limit int) string {
	r := []rune(s)
	if len(r) <= limit {
		return s
	}
	tail := (limit - 1) / 2
	return string(r[:limit-1-tail]) + "…" + string(r[len(r)-tail:])
}
