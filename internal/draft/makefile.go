package draft

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// A makefile is a Kbuild file or Makefile, evaluated as far as that goes without
// running anything: assignments, conditionals, includes, and functions that only
// move words around. What depends on anything else is unknown, and whatever is
// made of something unknown is so, too.
//
// Values hold two characters that no text file has: unknown stands for any text,
// some for any text that is not empty. A path inside the tree begins with inTree.
type makefile struct {
	t    *tree
	dir  string // its folder, relative to the tree
	vars map[string]*variable
	// given are variables of make's command line, which assignments in files do
	// not change.
	given map[string]string
	// kbuild tells whether the kernel's build system reads the file, or make does
	// for a user.
	kbuild bool
	// opaque is set by what may have set any variable.
	opaque bool

	at        string // the line that is being evaluated, FILE:LINE
	conds     []cond
	inRule    bool
	depth     int // of includes
	exported  map[string]bool
	exportAll bool
	// targets are what the file has rules for.
	targets map[string]bool
	// asksRelease tells that a conditional looks at KERNELRELEASE.
	asksRelease bool
	// objects tells that the file adds to obj-m or the like, known or not.
	objects bool
}

const (
	unknown = "\x01"
	some    = "\x02"
	inTree  = "\x03"
	marks   = unknown + some
)

// variable is the value of a make variable, in the pieces that += added.
type variable struct{ pieces []piece }

type piece struct {
	text   string
	simple bool   // expanded already
	at     string // FILE:LINE
}

// tri is what is known of a condition.
type tri int

const (
	no tri = iota
	maybe
	yes
)

// cond is an if that is open.
type cond struct {
	now      tri
	seen     tri    // the surest of its branches so far
	text, at string // for messages
}

const (
	maxIncludes = 8   // in each other
	maxDepth    = 40  // of references in each other
	maxConds    = 200 // in each other
)

// state is whether the current line is in force.
func (m *makefile) state() tri {
	s := yes
	for _, c := range m.conds {
		s = min(s, c.now)
	}
	return s
}

// read evaluates the lines of a file.
func (m *makefile) read(name, text string) {
	m.t.spend(len(text))
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	opened := len(m.conds)
	for i := 0; i < len(lines) && !m.t.spent(); i++ {
		m.at = fmt.Sprintf("%s:%d", name, i+1)
		first := lines[i]
		line := first
		var joined []string
		for continued(line) && i+1 < len(lines) {
			joined = append(joined, strings.TrimRight(line[:len(line)-1], " \t"))
			i++
			line = strings.TrimLeft(lines[i], " \t")
		}
		if joined != nil {
			line = strings.Join(append(joined, line), " ")
		}
		if strings.HasPrefix(first, "\t") && m.inRule {
			continue // a recipe
		}
		line = strings.TrimSpace(uncomment(line))
		if line == "" || m.conditional(line) {
			continue
		}
		if word, rest := cutWord(line); word == "define" {
			i = m.define(lines, i, rest)
			continue
		}
		if m.state() != no {
			m.statement(line)
		}
	}
	// An if does not reach beyond its file.
	m.conds = m.conds[:min(opened, len(m.conds))]
}

// continued tells whether a line ends in a backslash that counts.
func continued(line string) bool {
	return (len(line)-len(strings.TrimRight(line, `\`)))%2 == 1
}

func uncomment(line string) string {
	for from := 0; ; {
		i := strings.IndexByte(line[from:], '#')
		if i < 0 {
			return line
		}
		if i += from; i == 0 || line[i-1] != '\\' {
			return line[:i]
		}
		from = i + 1
	}
}

func cutWord(s string) (word, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// conditional handles the lines of ifs.
func (m *makefile) conditional(line string) bool {
	word, rest := cutWord(line)
	// "ifeq(" is no directive to make, either, but "else" may stand alone.
	switch word {
	case "ifeq", "ifneq", "ifdef", "ifndef":
		now := no
		if m.state() != no {
			now = m.test(word, rest)
		}
		if len(m.conds) == maxConds {
			m.t.budget = 0 // which ends everything
		}
		m.conds = append(m.conds, cond{now: now, seen: now, text: line, at: m.at})
	case "else":
		if len(m.conds) == 0 {
			break
		}
		c := &m.conds[len(m.conds)-1]
		c.now = yes - c.seen // what no branch before was surely taken for
		if word, rest := cutWord(rest); word != "" && c.now != no {
			outer := yes
			for _, o := range m.conds[:len(m.conds)-1] {
				outer = min(outer, o.now)
			}
			if outer != no {
				c.now = min(c.now, m.test(word, rest))
			}
			c.text, c.at = line, m.at
		}
		c.seen = max(c.seen, c.now)
	case "endif":
		if len(m.conds) > 0 {
			m.conds = m.conds[:len(m.conds)-1]
		}
	default:
		return false
	}
	return true
}

// test evaluates the condition after ifeq, ifneq, ifdef or ifndef.
func (m *makefile) test(word, rest string) tri {
	if strings.Contains(rest, "KERNELRELEASE") {
		m.asksRelease = true
	}
	result := maybe
	switch word {
	case "ifdef", "ifndef":
		result = filled(m.value(m.expand(rest, 0), 0))
	case "ifeq", "ifneq":
		if a, b, ok := operands(rest); ok {
			result = equal(strings.TrimSpace(m.expand(a, 0)), strings.TrimSpace(m.expand(b, 0)))
		}
	}
	if word == "ifneq" || word == "ifndef" {
		result = yes - result
	}
	return result
}

// operands splits "(a,b)", "'a' 'b'" and the like.
func operands(s string) (a, b string, ok bool) {
	if strings.HasPrefix(s, "(") && strings.HasSuffix(s, ")") {
		inner := s[1 : len(s)-1]
		first := arguments(inner)[0]
		if first == inner {
			return "", "", false
		}
		return first, inner[len(first)+1:], true
	}
	var args [2]string
	for i := range args {
		s = strings.TrimSpace(s)
		if s == "" || s[0] != '"' && s[0] != '\'' {
			return "", "", false
		}
		end := strings.IndexByte(s[1:], s[0])
		if end < 0 {
			return "", "", false
		}
		args[i], s = s[1:end+1], s[end+2:]
	}
	return args[0], args[1], true
}

// filled says whether an expanded value is not empty.
func filled(s string) tri {
	switch {
	case s == "":
		return no
	case strings.Trim(s, unknown) == "":
		return maybe
	}
	return yes
}

// equal compares expanded values.
func equal(a, b string) tri {
	switch {
	case !strings.ContainsAny(a+b, marks):
		if a == b {
			return yes
		}
		return no
	case a == "" && filled(b) == yes, b == "" && filled(a) == yes:
		return no
	}
	return maybe
}

// define passes over the lines up to endef, of which nothing is looked at.
func (m *makefile) define(lines []string, i int, name string) int {
	name, _ = cutWord(name)
	if m.state() != no {
		m.vars[m.expand(name, 0)] = &variable{[]piece{{unknown, true, m.at}}}
	}
	for depth := 1; depth > 0 && i+1 < len(lines); {
		i++
		switch word, _ := cutWord(strings.TrimSpace(lines[i])); word {
		case "define":
			depth++
		case "endef":
			depth--
		}
	}
	return i
}

// statement evaluates a line that is in force, or may be.
func (m *makefile) statement(line string) {
	override := false
	for {
		word, rest := cutWord(line)
		switch word {
		case "include", "-include", "sinclude":
			m.inRule = false
			m.include(rest, word == "include")
			return
		case "override":
			override = true
			line = rest
			continue
		case "private":
			line = rest
			continue
		case "export":
			if rest == "" {
				m.exportAll = true
				return
			}
			name, _, _, ok := assignment(rest)
			if !ok {
				name = rest
			}
			for n := range strings.FieldsSeq(m.expand(name, 0)) {
				m.exported[n] = true
			}
			if !ok {
				m.inRule = false
				return
			}
			line = rest
			continue
		case "unexport", "vpath", "load", "-load":
			m.inRule = false
			return
		case "undefine":
			delete(m.vars, m.expand(rest, 0))
			return
		}
		break
	}
	if name, op, value, ok := assignment(line); ok {
		m.inRule = false
		m.assign(strings.TrimSpace(name), op, value, override, line)
		return
	}
	if i := ruleColon(line); i >= 0 {
		for t := range strings.FieldsSeq(m.expand(line[:i], 0)) {
			m.targets[t] = true
		}
		m.inRule = true
		return
	}
	m.expand(line, 0) // $(eval …), $(error …), $(info …)
}

// assignment splits NAME OP VALUE.
func assignment(line string) (name, op, value string, ok bool) {
	depth := 0
	for i := 0; i < len(line); i++ {
		switch c := line[i]; c {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		case ':':
			if depth > 0 {
				break
			}
			rest := strings.TrimLeft(line[i:], ":")
			if colons := len(line) - i - len(rest); colons <= 3 && strings.HasPrefix(rest, "=") {
				return line[:i], ":=", strings.TrimSpace(rest[1:]), true
			}
			return "", "", "", false // a rule
		case '=':
			if depth > 0 {
				break
			}
			name, op = line[:i], "="
			if i > 0 && strings.IndexByte("+?!", line[i-1]) >= 0 {
				name, op = line[:i-1], line[i-1:i+1]
			}
			return name, op, strings.TrimSpace(line[i+1:]), strings.TrimSpace(name) != ""
		}
	}
	return "", "", "", false
}

// ruleColon finds the colon of a rule.
func ruleColon(line string) int {
	depth := 0
	for i := range len(line) {
		switch line[i] {
		case '(', '{':
			depth++
		case ')', '}':
			depth--
		case ':':
			if depth <= 0 {
				return i
			}
		}
	}
	return -1
}

// isObjects tells whether a variable names things to build, or, with an unknown
// part, may.
func isObjects(name string) bool {
	return strings.HasPrefix(name, "obj-") || strings.HasPrefix(name, "subdir-")
}

func (m *makefile) assign(name, op, value string, override bool, line string) {
	rawName := name
	name = m.expand(name, 0)
	if isObjects(name) {
		m.objects = true
	}
	if strings.ContainsAny(name, marks) {
		if isObjects(name) {
			m.t.note("%s: %s: %s", m.at, line, m.undecided(rawName))
		}
		return
	}
	if _, ok := m.given[name]; ok && !override {
		return
	}
	if m.kbuild && (name == "M" || name == "KERNELRELEASE") {
		return // dkms's command line has them
	}
	p := piece{text: value, at: m.at}
	if op == "!=" {
		p.text, p.simple = unknown, true
	}
	old := m.vars[name]
	if old == nil {
		if v, ok := m.given[name]; ok {
			old = &variable{[]piece{{v, true, m.at}}}
		}
	}
	if op == "?=" && (old != nil || filled(m.value(name, 0)) == yes) {
		return
	}
	if op == ":=" || op == "+=" && old != nil && old.pieces[0].simple {
		p.text, p.simple = m.expand(p.text, 0), true
	}
	if m.state() == maybe {
		if isObjects(name) {
			m.t.note("%s: %s: whether the condition of %s holds is not known here", m.at, line, m.whyMaybe())
			if op != "+=" && old != nil {
				m.t.note("%s: so it is not known whether what %s had before still counts", m.at, name)
				delete(m.vars, name)
			}
			return
		}
		p.text, p.simple = unknown, true
		if op != "+=" {
			old = nil
		}
		op = "+="
	}
	if op != "+=" || old == nil {
		old = &variable{}
	}
	old.pieces = append(old.pieces, p)
	m.vars[name] = old
}

// undecided says what keeps a text from being known.
func (m *makefile) undecided(text string) string {
	for _, name := range references(text) {
		if strings.HasPrefix(name, "CONFIG_") && strings.Contains(m.value(name, 0), unknown) {
			return fmt.Sprintf("%s is not set here; where it is to be built, give --make-arg %s=m", name, name)
		}
	}
	return "it cannot be evaluated without running make"
}

// references lists the plain variables that a text refers to.
func references(text string) (names []string) {
	for {
		i := strings.IndexByte(text, '$')
		if i < 0 || i+2 >= len(text) {
			return names
		}
		text = text[i+1:]
		if text[0] != '(' && text[0] != '{' {
			continue
		}
		if end := strings.IndexAny(text[1:], "(){}$: \t,"); end > 0 {
			names = append(names, text[1:end+1])
		}
	}
}

// whyMaybe returns the condition that is not known.
func (m *makefile) whyMaybe() string {
	for _, c := range m.conds {
		if c.now == maybe {
			return c.at + " (" + c.text + ")"
		}
	}
	return ""
}

// include reads other files into this one.
func (m *makefile) include(names string, required bool) {
	at := m.at
	defer func() { m.at = at }()
	for name := range strings.FieldsSeq(m.expand(names, 0)) {
		if !strings.HasPrefix(name, inTree) && !path.IsAbs(name) && !strings.ContainsAny(name, marks) {
			// Where it is looked for depends on the kernel; where it is written that
			// way, it is meant to be found.
			name = inTree + "/" + path.Join(m.dir, name)
		}
		files, known := m.t.glob(name)
		if !known {
			m.opaque = true
			m.t.note("%s: include %s: that file is not looked at", at, name)
		}
		for _, file := range files {
			text, err := m.t.file(file)
			if err == nil && m.depth == maxIncludes {
				err = errors.New("too many files include each other")
			}
			if err != nil {
				m.opaque = true
				m.t.note("%s: include %s: %v", at, file, err)
				continue
			}
			m.depth++
			m.read(file, text)
			m.depth--
		}
		if known && files == nil && required && m.state() == yes {
			m.opaque = true
			m.t.note("%s: include %s: there is no such file", at, name)
		}
	}
}
