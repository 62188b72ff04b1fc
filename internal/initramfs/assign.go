// SPDX-License-Identifier: GPL-2.0-or-later

package initramfs

import "strings"

// assignments reads the assignments in the first of these files that is there. all is
// false if something in it is more than an assignment of plain words, so that only a
// shell could tell what it means.
func (f *finder) assignments(names ...string) (values map[string][]string, all bool) {
	for _, name := range names {
		if f.file(name) {
			return parseAssignments(string(f.read(name)))
		}
	}
	return nil, true
}

// last returns the last of a list; "" if it is empty.
func last(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[len(list)-1]
}

// parseAssignments reads the plain assignments in a shell script: NAME=WORD, and
// NAME=(WORD…) on one line or more. It passes over blank lines and comments. If there is
// anything else, which it passes over too, all is false.
func parseAssignments(text string) (values map[string][]string, all bool) {
	if strings.ContainsAny(text, "\x00\x01\x7f") {
		return nil, false // bash drops the first, and escapes with the others, and doubles them at times
	}
	values, all = map[string][]string{}, true
	for text != "" {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		line = strings.Trim(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		name, rest, ok := strings.Cut(line, "=")
		if !ok || !isName(name) {
			all = false
			continue
		}
		if inside, isList := strings.CutPrefix(rest, "("); isList {
			// The list may go on over the lines that follow.
			words, after, ok := parseWords(inside+"\n"+text, ')', false)
			if ok {
				values[name] = words
				line, text, _ = strings.Cut(after, "\n")
				ok = line == "" || line[0] != '#' && isNothing(line)
			} else {
				delete(values, name)
			}
			all = all && ok
			continue
		}
		// With a second word the line is a command.
		if words, _, ok := parseWords(rest+"\n", '\n', true); ok && len(words) == 1 {
			values[name] = words
		} else {
			delete(values, name)
			all = false
		}
	}
	return values, all
}

// isName reports whether s is a name of a variable.
func isName(s string) bool {
	for i, c := range s {
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// isNothing reports whether a line has no more than a comment.
func isNothing(line string) bool {
	line = strings.Trim(line, " \t")
	return line == "" || line[0] == '#'
}

// parseWords reads words up to end, and returns what is after it. If in is true, text
// begins within the first word, which may be empty. ok is false if a word is not plain,
// or if end is missing.
func parseWords(text string, end byte, in bool) (words []string, after string, ok bool) {
	var word strings.Builder
	flush := func() {
		if in {
			words = append(words, word.String())
			word.Reset()
			in = false
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == end:
			flush()
			return words, text[i+1:], true
		case c == ' ' || c == '\t' || c == '\n':
			flush()
		case c == '#' && !in:
			n := strings.IndexByte(text[i:], '\n')
			if n < 0 {
				return nil, "", false
			}
			i += n - 1 // the newline comes next
		case c == '\'' || c == '"':
			n := strings.IndexByte(text[i+1:], c)
			if n < 0 {
				return nil, "", false
			}
			quoted := text[i+1 : i+1+n]
			if c == '"' && strings.ContainsAny(quoted, "$`\\") {
				return nil, "", false
			}
			word.WriteString(quoted)
			in = true
			i += n + 1
		case strings.IndexByte("$`\\|&;<>(){}*?[]!~\r", c) >= 0:
			return nil, "", false
		default:
			word.WriteByte(c)
			in = true
		}
	}
	return nil, "", false
}
