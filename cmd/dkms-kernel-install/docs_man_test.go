// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"slices"
	"strings"
)

// manPage fills the commands and options of c into page, the template of its page.
func manPage(page string, c command) string {
	commands := slices.DeleteFunc(slices.Clone(c.subs), func(sub command) bool { return len(sub.options) == 0 && len(sub.args) == 0 && sub.help == "" })
	for mark, text := range map[string]string{"@OPTIONS@\n": manOptions(c.options), "@COMMANDS@\n": manCommands(commands)} {
		page = strings.Replace(page, mark, text, 1)
	}
	// The first line of the template says how to make the page.
	return ".\\\" Made by \"make docs\" from " + c.name + ".8.in; do not edit.\n" + page
}

func manCommands(list []command) string {
	var b strings.Builder
	for _, c := range list {
		b.WriteString(".TP\n\\fB" + roff(c.name) + "\\fR")
		for _, o := range c.options {
			b.WriteString(" [" + manForm(o, "--"+o.long) + "]")
			if o.repeated {
				b.WriteString("...")
			}
		}
		for _, a := range c.args {
			s := "\\fI" + roff(a.name) + "\\fR"
			if a.optional {
				s = "[" + s + "]"
			}
			if a.repeated {
				s += "..."
			}
			b.WriteString(" " + s)
		}
		b.WriteString("\n" + manText(c.help))
		if c.detail != "" {
			b.WriteString(".IP\n" + strings.ReplaceAll(manText(c.detail), "\n\n", "\n.IP\n"))
		}
		if len(c.options) > 0 {
			b.WriteString(".RS\n" + manOptions(c.options) + ".RE\n")
		}
	}
	return b.String()
}

func manOptions(list []option) string {
	var b strings.Builder
	for _, o := range list {
		var forms []string
		for _, form := range o.forms() {
			forms = append(forms, manForm(o, form))
		}
		b.WriteString(".TP\n" + strings.Join(forms, ", ") + "\n" + manText(o.help))
	}
	return b.String()
}

func manForm(o option, form string) string {
	s := "\\fB" + roff(form) + "\\fR"
	switch {
	case o.value == "":
	case strings.HasPrefix(form, "--"):
		s += "=\\fI" + roff(o.value) + "\\fR"
	default:
		s += " \\fI" + roff(o.value) + "\\fR"
	}
	return s
}

// manText returns s as lines of text, none of which is a request.
func manText(s string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(s) + "\n") {
		if line = roff(line); strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			line = "\\&" + line
		}
		b.WriteString(line)
	}
	return b.String()
}

// roff escapes s for roff(7).
func roff(s string) string {
	return strings.NewReplacer("\\", "\\e", "-", "\\-").Replace(s)
}
