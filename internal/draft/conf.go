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
// variables that dkms sets for a build (kernel_source_dir, kernelver, arch,
// kernel_config, dkms_tree, source_tree, install_tree, module, module_version,
// parallel_jobs) or PWD, the build folder: those get their value when the
// command runs. KV_OUT_DIR, KV_DIR and KV_FULL, which an ebuild's modargs have,
// stand for the first two.
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

// variables are what an argument may refer to, and what that is written as.
var variables = map[string]string{
	"KV_OUT_DIR": "kernel_source_dir", "KV_DIR": "kernel_source_dir", "KV_FULL": "kernelver",
	"PACKAGE_NAME": "module", "PACKAGE_VERSION": "module_version",
}

func init() {
	for _, name := range []string{"kernel_source_dir", "kernelver", "arch", "kernel_config", "dkms_tree", "source_tree", "install_tree",
		"module", "module_version", "parallel_jobs", "PWD"} {
		variables[name] = name
	}
}

var shellRef = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})`)

// tokens splits an argument into literal text and references, which are
// returned by their name in a build.
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
	tokens(arg, func(string) {}, func(name string) { has = has || strings.HasPrefix(name, "kernel") })
	return has
}

// buildDir is the build folder, in the words of variables.
const buildDir = "${dkms_tree}/${module}/${module_version}/build"

// evaluated is a value of an argument as far as it is known before any build.
func evaluated(value string) string {
	var b strings.Builder
	tokens(value, func(s string) { b.WriteString(s) }, func(name string) { b.WriteString("${" + name + "}") })
	for _, top := range []string{"${PWD}", buildDir} {
		if rest, ok := strings.CutPrefix(b.String(), top); ok && (rest == "" || rest[0] == '/') {
			return inTree + rest
		}
	}
	if strings.Contains(b.String(), "$") {
		return some
	}
	return b.String()
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_./:,@%+=-]+$`)

// shellEscape is what a double-quoted string of the shell needs.
var shellEscape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`")

// word makes an argument one word of a shell command, with its references left
// for the shell to expand. Of NAME=VALUE only the value is quoted.
func word(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	name, value, ok := strings.Cut(s, "=")
	if !ok || !plainWord.MatchString(name) {
		name, value = "", s
	} else {
		name += "="
	}
	var b strings.Builder
	tokens(value,
		func(s string) { b.WriteString(shellEscape.Replace(s)) },
		func(name string) { b.WriteString("${" + name + "}") })
	return name + `"` + b.String() + `"`
}

// quoted makes s a string that the shell takes as it is.
func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

const kernelDir = `"${kernel_source_dir}"`

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
	var rule strings.Builder
	rule.WriteString("modules:")
	for _, s := range c.Steps {
		rule.WriteString("\n\t$(MAKE)" + s.arguments() + s.target())
	}
	// In the shell's double quotes, for the references in it.
	text := strings.ReplaceAll(strings.ReplaceAll(rule.String(), `"`, `\"`), "$(MAKE)", `\$(MAKE)`)
	return "make -f -" + args.String() + ` <<< "` + text + `"`
}

// arguments and target are of characters that need no quoting: see checkPath.
func (s Step) arguments() string {
	switch {
	case s.Kbuild:
		return " -C " + kernelDir + ` M="` + path.Join("${PWD}", s.Dir) + `"`
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
		if rest, ok := strings.CutPrefix(command, "make"); ok && c.NoKernelRelease {
			// Such quotes are what dkms knows it by.
			fmt.Fprintf(&b, "MAKE[0]=\"'make'\"%s\n", quoted(rest))
		} else {
			fmt.Fprintf(&b, "MAKE[0]=%s\n", quoted(command))
		}
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
	// What is to be said of the folder's other modules is of no interest.
	quiet := *t
	modules, objects := quiet.folder(s.Source, nil, 0)
	t.budget = quiet.budget
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
