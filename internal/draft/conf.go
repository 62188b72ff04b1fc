// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"dkms-kernel-install/internal/conf"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Conf is what goes into a dkms.conf.
type Conf struct {
	Name, Version string
	Modules       []Module
	Steps         []Step   // of MAKE[0], in order
	Args          []string // of every make: see [CheckArg]
	// NoKernelRelease keeps dkms from adding KERNELRELEASE (and its -j) to the
	// command.
	NoKernelRelease bool
	NoAutoinstall   bool
}

// Step is one call of make.
type Step struct {
	Dir    string // relative to the tree
	Target string // may be empty
	Kbuild bool   // the kernel's build system builds the directory, not a Makefile in it
}

// packageName is narrower than what dkms takes: a name or version of these characters
// means the same everywhere that it is written.
var packageName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+~-]*$`)

// CheckName returns an error if s will not do as the name or the version of a package.
func CheckName(s string) error {
	if !packageName.MatchString(s) || len(s) > 200 {
		return fmt.Errorf("%.40q has more than letters, digits and ._+~- in it, or does not begin with a letter or digit", s)
	}
	return nil
}

// CheckArg returns an error if s will not do as an argument of make: an option, or
// NAME=VALUE. Make gets it as it is, except for $NAME and ${NAME} of the variables that
// dkms sets for a conf, of PWD, the build directory, and of KV_OUT_DIR, KV_DIR and
// KV_FULL, which an ebuild's modargs have: those get the value of each kernel.
func CheckArg(s string) error {
	name, _, assigns := strings.Cut(s, "=")
	option := strings.HasPrefix(s, "-")
	switch {
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("it has a control character in it")
	case !option && (!assigns || name == ""):
		return errors.New("it is neither NAME=VALUE nor an option of make")
	case strings.HasPrefix(s, "--ev"), strings.HasPrefix(s, "-E"):
		return errors.New("makes below would inherit --eval and call themselves for ever")
	case !option && strings.ContainsAny(name, " \t$#"):
		return fmt.Errorf("%q is no name of a variable", name)
	}
	return nil
}

// buildDir is the build directory, in the words of a conf.
const buildDir = "${dkms_tree}/${PACKAGE_NAME}/${PACKAGE_VERSION}/build"

// variables are what an argument may refer to, and how a conf writes that.
var variables = map[string]string{
	"KV_OUT_DIR": "${kernel_source_dir}", "KV_DIR": "${kernel_source_dir}", "KV_FULL": "${kernelver}",
	"module": "${PACKAGE_NAME}", "module_version": "${PACKAGE_VERSION}", "PWD": buildDir,
	"kernel_source_dir": "${kernel_source_dir}", "kernelver": "${kernelver}", "arch": "${arch}", "kernel_config": "${kernel_config}",
	"dkms_tree": "${dkms_tree}", "source_tree": "${source_tree}", "install_tree": "${install_tree}", "parallel_jobs": "${parallel_jobs}",
	"PACKAGE_NAME": "${PACKAGE_NAME}", "PACKAGE_VERSION": "${PACKAGE_VERSION}",
}

var shellRef = regexp.MustCompile(`\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})`)

// tokens splits an argument into literal text and references, as a conf writes them.
func tokens(s string, literal, ref func(string)) {
	from := 0
	for _, i := range shellRef.FindAllStringSubmatchIndex(s, -1) {
		to, ok := variables[strings.Trim(s[i[0]:i[1]], "${}")]
		if !ok || i[0] > 0 && s[i[0]-1] == '$' { // $$PWD is for make and its shell
			continue
		}
		literal(s[from:i[0]])
		ref(to)
		from = i[1]
	}
	literal(s[from:])
}

// hasReference reports whether an argument depends on the kernel.
func hasReference(arg string) (has bool) {
	tokens(arg, func(string) {}, func(ref string) { has = has || strings.HasPrefix(ref, "${kernel") })
	return has
}

var plainName = regexp.MustCompile(`^\w+$`)

// word makes an argument one word of a command in a conf.
func word(s string) (quoted string) {
	tokens(s, func(s string) {
		if name, value, ok := strings.Cut(s, "="); ok && quoted == "" && plainName.MatchString(name) {
			s, quoted = value, name+"="
		}
		quoted += conf.Quote(s)
	}, func(ref string) { quoted += "'" + ref + "'" })
	return quoted
}

// command returns what MAKE[0] does; empty for the generic command.
func (c *Conf) command() string {
	args := ""
	for _, a := range c.Args {
		args += " " + word(a)
	}
	switch {
	case len(c.Steps) == 0, len(c.Steps) == 1 && c.Steps[0] == Step{Dir: ".", Kbuild: true, Target: "modules"} && args == "" && !c.NoKernelRelease:
		return ""
	case len(c.Steps) == 1:
		return c.Steps[0].call(args)
	}
	// One make calls the others: what dkms adds to the command (jobs, KERNELRELEASE,
	// LLVM) reaches all of them that way. Not --eval: makes below would inherit it and
	// call themselves for ever.
	var calls []string
	for _, s := range c.Steps {
		calls = append(calls, s.call(""))
	}
	return "make -f -" + args + " <<< 'modules: ; +" + strings.Join(calls, " && ") + "'"
}

// call returns the command of a step with args in it. Directory and target need no
// quotes: see checkPath. Nor do the references: kbuild takes neither blanks nor colons
// in the path of a module, and quotes it itself nowhere.
func (s Step) call(args string) string {
	command := "make"
	if s.Kbuild {
		command += " -C ${kernel_source_dir} M=" + path.Join(buildDir, s.Dir)
	} else if s.Dir != "." {
		command += " -C " + s.Dir
	}
	return strings.TrimSuffix(command+args+" "+s.Target, " ")
}

// String returns the text of the dkms.conf.
func (c *Conf) String() string {
	var b strings.Builder
	set := func(name, value string) { fmt.Fprintf(&b, "%s=\"%s\"\n", name, value) }
	b.WriteString("# Written by dkms-kernel-install init. What it can say: man 5 dkms.conf\n")
	set("PACKAGE_NAME", c.Name)
	set("PACKAGE_VERSION", c.Version)
	if rest, ok := strings.CutPrefix(c.command(), "make"); ok && c.NoKernelRelease {
		set("MAKE[0]", "'make'"+rest) // such quotes are what dkms knows it by
	} else if ok {
		set("MAKE[0]", "make"+rest)
	}
	set("AUTOINSTALL", map[bool]string{false: "yes", true: "no"}[c.NoAutoinstall])
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
