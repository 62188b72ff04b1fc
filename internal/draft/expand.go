package draft

import (
	"path"
	"strings"
)

// show makes an expanded value fit for a message.
func show(s string) string {
	return strings.NewReplacer(unknown, "…", some, "…", inTree, ".").Replace(s)
}

// value returns the expanded value of a variable.
func (m *makefile) value(name string, depth int) string {
	if v, ok := m.given[name]; ok && m.vars[name] == nil {
		return v
	}
	if v := m.vars[name]; v != nil {
		var b strings.Builder
		for i, p := range v.pieces {
			if i > 0 {
				b.WriteByte(' ')
			}
			if p.simple {
				b.WriteString(p.text)
			} else {
				b.WriteString(m.expand(p.text, depth+1))
			}
			if !m.t.spend(len(p.text) + 1) {
				return unknown
			}
		}
		return b.String()
	}
	if m.kbuild {
		switch name {
		case "src", "obj":
			return top(m.dir)
		case "M", "KBUILD_EXTMOD":
			return top(m.t.entry)
		case "KERNELRELEASE", "KBUILD_MODULES", "srctree", "objtree", "SRCARCH":
			return some
		}
	} else if name == "KERNELRELEASE" {
		return "" // it is not set for those that ask for it
	}
	switch {
	case fromMake[name]:
		return some
	case m.opaque, fromKernel[name], strings.HasPrefix(name, "CONFIG_"), strings.HasPrefix(name, "KBUILD_"), strings.ContainsAny(name, marks):
		return unknown
	}
	return ""
}

// top is a folder of the tree, as a value.
func top(dir string) string {
	if dir == "." {
		return inTree
	}
	return inTree + "/" + dir
}

// fromMake are variables that make and the kernel's build system always set,
// fromKernel those that they may.
var (
	fromMake   = words("ARCH VERSION PATCHLEVEL SUBLEVEL KERNELVERSION CC LD AR NM OBJCOPY STRIP CPP MAKE CURDIR PWD SHELL PATH MAKELEVEL MAKE_VERSION MAKEFILE_LIST")
	fromKernel = words("EXTRAVERSION CROSS_COMPILE LLVM LLVM_IAS MAKEFLAGS MAKECMDGOALS HOME USER V Q O W LINUXINCLUDE UTS_MACHINE .VARIABLES")
)

func words(s string) map[string]bool {
	set := map[string]bool{}
	for w := range strings.FieldsSeq(s) {
		set[w] = true
	}
	return set
}

// expand replaces references by values.
func (m *makefile) expand(text string, depth int) string {
	if depth > maxDepth || !m.t.spend(len(text)+1) {
		return unknown
	}
	if !strings.Contains(text, "$") {
		return text
	}
	var b strings.Builder
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+1 == len(text) {
			b.WriteString(text)
			break
		}
		b.WriteString(text[:i])
		c := text[i+1]
		text = text[i+2:]
		switch c {
		case '$':
			b.WriteByte('$')
		case '(', '{':
			end := closing(text, c)
			if end < 0 {
				b.WriteString(unknown)
				text = ""
				break
			}
			b.WriteString(m.reference(text[:end], depth+1))
			text = text[end+1:]
		default:
			b.WriteString(m.value(string(rune(c)), depth+1))
		}
		if !m.t.spend(b.Len() / 16) {
			return unknown
		}
	}
	if !m.t.spend(b.Len()) {
		return unknown
	}
	return b.String()
}

// closing finds the end of a reference that began with open.
func closing(s string, open byte) int {
	shut := byte(')')
	if open == '{' {
		shut = '}'
	}
	depth := 0
	for i := range len(s) {
		switch s[i] {
		case open:
			depth++
		case shut:
			if depth == 0 {
				return i
			}
			depth--
		}
	}
	return -1
}

// reference evaluates what stands between the parentheses of a reference.
func (m *makefile) reference(inner string, depth int) string {
	if i := strings.IndexAny(inner, " \t"); i > 0 && functions[inner[:i]] {
		return m.function(inner[:i], strings.TrimLeft(inner[i:], " \t"), depth)
	}
	// $(VAR:.c=.o)
	if i := strings.IndexByte(inner, ':'); i > 0 && !strings.ContainsAny(inner[:i], "$({") {
		from, to, ok := strings.Cut(inner[i+1:], "=")
		if ok {
			from, to = m.expand(from, depth), m.expand(to, depth)
			if !strings.Contains(from, "%") {
				from, to = "%"+from, "%"+to
			}
			return m.patsubst(from, to, m.value(inner[:i], depth))
		}
	}
	return m.value(m.expand(inner, depth), depth)
}

// functions are those of make; the ones that function does not evaluate among
// them.
var functions = words("subst patsubst strip findstring filter filter-out sort word wordlist words firstword lastword dir notdir suffix basename " +
	"addsuffix addprefix join wildcard realpath abspath if or and intcmp foreach file call value eval origin flavor error warning info shell guile let")

func (m *makefile) function(name, text string, depth int) string {
	switch name {
	case "info", "warning":
		return ""
	case "error":
		if m.state() == yes {
			m.t.note("%s: make ends here with the error: %s", m.at, m.expand(text, depth))
		}
		return ""
	case "eval":
		m.opaque = true
		m.t.note("%s: $(eval …) is not evaluated", m.at)
		return ""
	}
	args := arguments(text)
	for i := range args {
		args[i] = m.expand(args[i], depth)
	}
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	each := func(list string, f func(string) string) string {
		var out []string
		for w := range strings.FieldsSeq(list) {
			w = f(w)
			if !m.t.spend(len(w) + 1) {
				return unknown
			}
			out = append(out, w)
		}
		return strings.Join(out, " ")
	}
	switch name {
	case "strip":
		return each(arg(0), func(w string) string { return w })
	case "addprefix":
		return each(arg(1), func(w string) string { return arg(0) + w })
	case "addsuffix":
		return each(arg(1), func(w string) string { return w + arg(0) })
	case "notdir":
		return each(arg(0), path.Base)
	case "basename":
		return each(arg(0), func(w string) string { return strings.TrimSuffix(w, path.Ext(w)) })
	case "patsubst":
		return m.patsubst(arg(0), arg(1), arg(2))
	case "wildcard":
		var out []string
		for w := range strings.FieldsSeq(arg(0)) {
			files, known := m.t.glob(w)
			if !known {
				return unknown
			}
			for _, f := range files {
				if !m.t.spend(len(f)) {
					return unknown
				}
				out = append(out, inTree+"/"+f)
			}
		}
		return strings.Join(out, " ")
	case "subst":
		if arg(0) != "" && !strings.ContainsAny(arg(0), marks) && len(arg(2))*(len(arg(1))+1) < maxFile {
			return strings.ReplaceAll(arg(2), arg(0), arg(1))
		}
	case "filter", "filter-out":
		if strings.ContainsAny(arg(0)+arg(1), marks) {
			break
		}
		var out []string
		for w := range strings.FieldsSeq(arg(1)) {
			hit := false
			for pattern := range strings.FieldsSeq(arg(0)) {
				if !m.t.spend(len(pattern)) {
					return unknown
				}
				_, ok := match(pattern, w)
				hit = hit || ok
			}
			if hit == (name == "filter") {
				out = append(out, w)
			}
		}
		return strings.Join(out, " ")
	}
	return unknown
}

// arguments splits at the commas that are not in parentheses.
func arguments(text string) (args []string) {
	depth, from := 0, 0
	for i := range len(text) {
		switch text[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		case ',':
			if depth == 0 {
				args = append(args, text[from:i])
				from = i + 1
			}
		}
	}
	return append(args, text[from:])
}

func (m *makefile) patsubst(from, to, list string) string {
	if strings.ContainsAny(from, marks) {
		return unknown
	}
	var b strings.Builder
	for w := range strings.FieldsSeq(list) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		stem, ok := match(from, w)
		switch {
		case ok:
			w = strings.Replace(to, "%", stem, 1)
		case strings.ContainsAny(w, marks):
			w = unknown // it might have matched
		}
		b.WriteString(w)
		if !m.t.spend(len(w) + len(to)) {
			return unknown
		}
	}
	return b.String()
}

// match matches a word with a pattern that can have one %, and returns what
// that stands for.
func match(pattern, word string) (stem string, ok bool) {
	before, after, wild := strings.Cut(pattern, "%")
	if !wild {
		return "", pattern == word
	}
	if len(word) < len(before)+len(after) || !strings.HasPrefix(word, before) || !strings.HasSuffix(word, after) {
		return "", false
	}
	return word[len(before) : len(word)-len(after)], true
}
