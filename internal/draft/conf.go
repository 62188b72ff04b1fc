package draft

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Conf is what goes into a dkms.conf.
type Conf struct {
	Name, Version string
	Modules       []Module
	// Steps are what MAKE[0] does, in order. With none, or with one that is
	// kbuild's at the top and no Args, the conf has no MAKE: the generic command
	// does the same.
	Steps []Step
	// Args are given to every make: NAME=VALUE, or an option. What stands in them
	// for a value that each kernel has is described at CheckArg.
	Args []string
	// NoKernelRelease keeps dkms from adding KERNELRELEASE (and its -j) to the
	// command.
	NoKernelRelease bool
	NoAutoinstall   bool
}

// Step is one call of make.
type Step struct {
	Dir    string // relative to the tree
	Target string // may be empty
	// Kbuild tells that it is the kernel's build system that builds the folder,
	// not a Makefile there.
	Kbuild bool
}

// packageName is narrower than what dkms takes: a name or version of these
// characters means the same everywhere that it is written.
var packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]*$`)

// CheckName says whether s will do as the name or the version of a package.
func CheckName(s string) error {
	if !packageName.MatchString(s) || len(s) > 200 {
		return fmt.Errorf("%.40q has more than letters, digits and ._+~- in it, or does not begin with a letter or digit", s)
	}
	return nil
}

// CheckArg says whether s will do as an argument of make. It is written so that
// make gets it as it is, but for $NAME and ${NAME} where NAME is one of the
// variables that dkms sets for a conf (kernel_source_dir, kernelver, arch,
// kernel_config, dkms_tree, source_tree, install_tree, parallel_jobs, and module
// and module_version) or PWD, the build folder: those get each kernel's value.
// KV_OUT_DIR, KV_DIR and KV_FULL, which an ebuild's modargs have, stand for the
// first two.
func CheckArg(s string) error {
	name, _, assigns := strings.Cut(s, "=")
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("it has a control character in it")
	case !strings.HasPrefix(s, "-") && (!assigns || name == ""):
		return errors.New("it is neither NAME=VALUE nor an option of make")
	case strings.HasPrefix(s, "--ev"), strings.HasPrefix(s, "-E"):
		return errors.New("makes below would inherit --eval and call themselves for ever")
	case !strings.HasPrefix(s, "-") && strings.ContainsAny(name, " \t$#"):
		return fmt.Errorf("%q is no name of a variable", name)
	}
	return nil
}

// buildDir is the build folder, in the words of a conf.
const buildDir = "${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build"

// variables are what an argument may refer to, and how that is written.
var variables = map[string]string{
	"KV_OUT_DIR": "${kernel_source_dir}", "KV_DIR": "${kernel_source_dir}", "KV_FULL": "${kernelver}",
	"module": "${PACKAGE_NAME}", "module_version": "${PACKAGE_VERSION}", "PWD": buildDir,
}

func init() {
	for _, name := range []string{"kernel_source_dir", "kernelver", "arch", "kernel_config", "dkms_tree", "source_tree", "install_tree",
		"parallel_jobs", "PACKAGE_NAME", "PACKAGE_VERSION"} {
		variables[name] = "${" + name + "}"
	}
}

var shellRef = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})`)

// tokens splits an argument into literal text and references, which are
// returned as they are written.
func tokens(s string, literal, ref func(string)) {
	from := 0
	for _, i := range shellRef.FindAllStringSubmatchIndex(s, -1) {
		name := shellRef.ReplaceAllString(s[i[0]:i[1]], "$1$2")
		to, ok := variables[name]
		if !ok || i[0] > 0 && s[i[0]-1] == '$' { // $$PWD is for make and its shell
			continue
		}
		literal(s[from:i[0]])
		ref(to)
		from = i[1]
	}
	literal(s[from:])
}

// HasReference tells whether an argument depends on the kernel.
func HasReference(arg string) (has bool) {
	tokens(arg, func(string) {}, func(ref string) { has = has || strings.HasPrefix(ref, "${kernel") })
	return has
}

// evaluated is a value of an argument as far as it is known before any build.
func evaluated(value string) string {
	var b strings.Builder
	add := func(s string) { b.WriteString(s) }
	tokens(value, add, add)
	if rest, ok := strings.CutPrefix(b.String(), buildDir); ok && (rest == "" || rest[0] == '/') {
		return inTree + rest
	}
	if strings.Contains(b.String(), "$") {
		return some
	}
	return b.String()
}

// How often a command is evaluated depends on who reads the conf: bash does when
// it reads the conf and when it runs the command; the classic script once more
// between, as a double-quoted string, after it has split it into words, expanded
// patterns in them, and joined them with single blanks. A word that comes out
// the same in both cases has single quotes but no double ones, no backslash and
// no dollar sign that mean anything in double quotes, and no two blanks in
// succession.
var (
	bareWord = regexp.MustCompile(`^[A-Za-z0-9_./:,@%+=-]+$`)
	// quotable is what single quotes will do for.
	quotable = regexp.MustCompile("^[^'\"\\\\$`*?\\[]*$")
)

// word makes an argument one word of a command in a conf.
func word(s string) string {
	var b strings.Builder
	tokens(s, func(s string) {
		switch name, value, _ := strings.Cut(s, "="); {
		case s == "" || bareWord.MatchString(s):
			b.WriteString(s)
		case b.Len() == 0 && bareWord.MatchString(name):
			b.WriteString(name + "=" + literal(value))
		default:
			b.WriteString(literal(s))
		}
	}, func(ref string) { b.WriteString("'" + ref + "'") })
	return b.String()
}

// literal quotes a text.
func literal(s string) string {
	if quotable.MatchString(s) && !strings.Contains(s, "  ") {
		return "'" + s + "'"
	}
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(s) {
		if c := s[i]; c == ' ' || c < 0x80 && !bareWord.MatchString(s[i:i+1]) {
			fmt.Fprintf(&b, `\x%02x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteString("'")
	return b.String()
}

// command is what MAKE[0] does; empty for the generic command.
func (c *Conf) command() string {
	var args strings.Builder
	for _, a := range c.Args {
		args.WriteString(" " + word(a))
	}
	switch {
	case len(c.Steps) == 0, len(c.Steps) == 1 && c.Steps[0] == Step{Dir: ".", Kbuild: true, Target: "modules"} && len(c.Args) == 0 && !c.NoKernelRelease:
		return ""
	case len(c.Steps) == 1:
		return "make" + c.Steps[0].arguments() + args.String() + c.Steps[0].target()
	}
	// One make calls the others: what dkms adds to the command (jobs,
	// KERNELRELEASE, LLVM) reaches all of them that way. Not --eval: makes below
	// would inherit it and call themselves for ever.
	var calls []string
	for _, s := range c.Steps {
		calls = append(calls, "make"+s.arguments()+s.target())
	}
	return "make -f -" + args.String() + " <<< 'modules: ; +" + strings.Join(calls, " && ") + "'"
}

// arguments and target are of characters that need no quoting: see checkPath.
// Nor do the references: kbuild takes neither blanks nor colons in the path of a
// module, and quotes it itself nowhere.
func (s Step) arguments() string {
	switch {
	case s.Kbuild:
		return " -C ${kernel_source_dir} M=" + path.Join(buildDir, s.Dir)
	case s.Dir == ".":
		return ""
	}
	return " -C " + s.Dir
}

func (s Step) target() string {
	if s.Target == "" {
		return ""
	}
	return " " + s.Target
}

// String returns the text of the dkms.conf.
func (c *Conf) String() string {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s=\"%s\"\n", name, value) }
	b.WriteString("# Written by dkms-kernel-install init. What it can say: man 5 dkms.conf\n")
	set("PACKAGE_NAME", c.Name)
	set("PACKAGE_VERSION", c.Version)
	if command := c.command(); command != "" {
		if c.NoKernelRelease {
			// Such quotes are what dkms knows it by.
			command = "'make'" + strings.TrimPrefix(command, "make")
		}
		set("MAKE[0]", command)
	}
	auto := "yes"
	if c.NoAutoinstall {
		auto = "no"
	}
	set("AUTOINSTALL", auto)
	for i, m := range c.Modules {
		b.WriteByte('\n')
		set(fmt.Sprintf("BUILT_MODULE_NAME[%d]", i), m.Name)
		if m.Dir != "." {
			set(fmt.Sprintf("BUILT_MODULE_LOCATION[%d]", i), m.Dir+"/")
		}
		set(fmt.Sprintf("DEST_MODULE_LOCATION[%d]", i), m.Dest)
	}
	return b.String()
}

// Plan finds out how the modules of specs are built, and says in notes what it
// had to decide.
//
// The folder's Makefile builds a module, with the target of the spec or else the
// first of modules, module, NAME.ko, default and all that it has a rule for,
// which is the eclass's order. Where nothing is said of how, neither target nor
// args, and the folder's Kbuild file has the module in obj-m, kbuild builds it:
// Makefiles tend to build for the kernel that runs, and kbuild for the one it is
// called for.
func Plan(root *os.Root, specs []Spec, args []string) (c Conf, notes []string, err error) {
	t := newTree(root, args)
	c.Args = args
	for _, s := range specs {
		if slices.ContainsFunc(c.Modules, func(m Module) bool { return m.Name == s.Name }) {
			return c, nil, fmt.Errorf("module %s is there twice", s.Name)
		}
		step, asks, err := t.step(s, len(args) > 0)
		if err != nil {
			return c, nil, err
		}
		if asks && !c.NoKernelRelease {
			c.NoKernelRelease = true
			t.note("%s: what it does depends on KERNELRELEASE, which make is therefore not given", path.Join(s.Source, "Makefile"))
		}
		if !step.Kbuild && !slices.ContainsFunc(args, HasReference) {
			t.note("%s: no argument of make says which kernel to build for, so that is up to it; compare: --make-arg KDIR='${kernel_source_dir}'", path.Join(s.Source, "Makefile"))
		}
		if !slices.Contains(c.Steps, step) {
			c.Steps = append(c.Steps, step)
		}
		c.Modules = append(c.Modules, s.Module)
	}
	return c, t.allNotes(), nil
}

// step finds out how a module is built, and whether the Makefile asks for
// KERNELRELEASE.
func (t *tree) step(s Spec, args bool) (step Step, asks bool, err error) {
	kbuild := Step{Dir: s.Source, Kbuild: true, Target: "modules"}
	t.entry = s.Source
	// What is to be said of the folder's lists is of no interest: the spec has
	// been told of.
	said := len(t.notes)
	defer func() { t.notes = t.notes[:said] }()
	modules, objects := t.folder(s.Source, nil, 0)
	known := slices.ContainsFunc(modules, func(m Module) bool { return m.Name == s.Name && m.Dir == s.Dir })
	if known && !args && s.Target == "" {
		return kbuild, false, nil
	}
	m := t.makefile(s.Source, false)
	if !m.load("GNUmakefile", "makefile", "Makefile") {
		if objects {
			if s.Target != "" {
				kbuild.Target = s.Target
			}
			return kbuild, false, nil
		}
		return step, false, fmt.Errorf("module %s: %s has no Makefile", s.Name, s.Source)
	}
	step = Step{Dir: s.Source, Target: s.Target}
	if step.Target == "" {
		for _, target := range []string{"modules", "module", s.Name + ".ko", "default", "all"} {
			if m.targets[target] {
				step.Target = target
				break
			}
		}
	}
	return step, m.asksRelease, nil
}
