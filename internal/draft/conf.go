// SPDX-License-Identifier: GPL-2.0-or-later

package draft

import (
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strings"
	"unicode"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/lazy"
)

// Conf is what goes into a dkms.conf.
type Conf struct {
	Name, Version   string
	Modules         []Module
	Steps           []Step   // of MAKE[0], in order
	Args            []string // of every make: see [CheckArg]
	NoKernelRelease bool     // dkms is to add neither KERNELRELEASE nor -j to MAKE[0]
	NoAutoinstall   bool
}

// Step is one call of make.
type Step struct {
	Dir    string // relative to the tree
	Target string // may be empty
	Kbuild bool   // the kernel's build system builds the directory, not a Makefile in it
}

// CheckArg returns an error if s will not do as an argument of make: an option, or
// NAME=VALUE. Make gets it as it is, except for $NAME and ${NAME} of the variables that
// dkms sets for a conf, of PWD, the build directory, and of KV_OUT_DIR, KV_DIR and
// KV_FULL, which an ebuild's modargs have: those get the value of each kernel.
func CheckArg(s string) error {
	name, _, assigns := strings.Cut(s, "=")
	option := strings.HasPrefix(s, "-")
	switch {
	case strings.ContainsFunc(s, unicode.IsControl):
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

var (
	assigned  = lazy.Regexp(`^\w+=`)
	reference = lazy.Regexp(`\$?\$(?:[A-Za-z_]\w*|\{[A-Za-z_]\w*\})`) // with two $ it is for make and its shell
)

// rewrite returns an argument of which ref has replaced each reference, as a conf writes
// it, and literal the text between.
func rewrite(s string, literal, ref func(string) string) string {
	var b strings.Builder
	from := 0
	for _, i := range reference().FindAllStringIndex(s, -1) {
		if to, ok := variables[strings.Trim(s[i[0]+1:i[1]], "{}")]; ok {
			b.WriteString(literal(s[from:i[0]]) + ref(to))
			from = i[1]
		}
	}
	return b.String() + literal(s[from:])
}

// word makes an argument one word of a command in a conf.
func word(s string) string {
	name := assigned().FindString(s)
	return name + rewrite(s[len(name):], conf.Quote, func(ref string) string { return "'" + ref + "'" })
}

// command returns what MAKE[0] does; empty for the generic command.
func (c *Conf) command() string {
	program, args := "make", ""
	if c.NoKernelRelease {
		program = "'make'" // such quotes are what dkms knows it by
	}
	for _, a := range c.Args {
		args += " " + word(a)
	}
	switch {
	case len(c.Steps) == 1 && c.Steps[0] == Step{Dir: ".", Kbuild: true, Target: "modules"} && args == "" && !c.NoKernelRelease:
		return ""
	case len(c.Steps) == 1:
		return program + c.Steps[0].arguments(args)
	}
	// One make calls the others: what dkms adds to the command (jobs, KERNELRELEASE,
	// LLVM) reaches all of them that way. Not --eval: makes below would inherit it and
	// call themselves for ever.
	var calls []string
	for _, s := range c.Steps {
		calls = append(calls, "make"+s.arguments(""))
	}
	return program + " -f -" + args + " <<< 'modules: ; +" + strings.Join(calls, " && ") + "'"
}

// arguments returns those of a step's make, with args among them. Directory and target
// need no quotes: see checkPath. Nor do the references: kbuild takes neither blanks nor
// colons in the path of a module, and quotes it itself nowhere.
func (s Step) arguments(args string) string {
	if s.Kbuild {
		args = " -C ${kernel_source_dir} M=" + path.Join(buildDir, s.Dir) + args
	} else if s.Dir != "." {
		args = " -C " + s.Dir + args
	}
	return strings.TrimSuffix(args+" "+s.Target, " ")
}

// String returns the text of the dkms.conf.
func (c *Conf) String() string {
	var b strings.Builder
	b.WriteString("# Written by dkms-kernel-install init. What it can say: man 5 dkms.conf\n")
	set := func(name, value string) { fmt.Fprintf(&b, "%s=\"%s\"\n", name, value) }
	set("PACKAGE_NAME", c.Name)
	set("PACKAGE_VERSION", c.Version)
	if command := c.command(); command != "" {
		set("MAKE[0]", command)
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

var (
	// packageName is narrower than what dkms takes: a name or version of these characters
	// means the same everywhere that it is written.
	packageName = lazy.Regexp(`^[A-Za-z0-9][A-Za-z0-9._+~-]*$`)
	// nameVersion is NAME-VERSION. Names have dashes and digits more often than versions
	// have dashes, so it is the last dash before a digit that counts.
	nameVersion  = lazy.Regexp(`^(.+)-([0-9][^-]*(?:-[^0-9][^-]*)*)$`)
	versionMacro = lazy.Regexp(`(?m)^\s*MODULE_VERSION\s*\(\s*(?:"([^"\n]*)"|([A-Za-z_]\w*))\s*\)`)
)

// maxName is how many characters a name or version may have. It is not part of the
// patterns: each of its repetitions would be compiled by itself, in every process.
const maxName = 200

// CheckName returns an error if s will not do as the name or the version of a package.
func CheckName(s string) error {
	if len(s) > maxName || !packageName().MatchString(s) {
		return fmt.Errorf("%.40q has more than letters, digits and ._+~- in it, is longer than %d characters, or does not begin with a letter or digit", s, maxName)
	}
	return nil
}

// Name returns a package's name from that of its directory: NAME-VERSION, or just NAME.
func Name(dir string) (string, error) {
	if m := nameVersion().FindStringSubmatch(dir); m != nil {
		dir = m[1]
	}
	if err := CheckName(dir); err != nil {
		return "", fmt.Errorf("the directory's name is none for a package: %w", err)
	}
	return dir, nil
}

// Version returns a package's version, from the name of its directory, NAME-VERSION,
// from MODULE_VERSION in the modules' sources, or from a file VERSION.
func Version(root *os.Root, dir, name string, modules []Module) (version string, err error) {
	if rest, ok := strings.CutPrefix(dir, name+"-"); ok && CheckName(rest) == nil && rest[0] <= '9' {
		return rest, nil
	}
	var sources []string
	for _, m := range modules {
		sources = append(sources, m.sources...)
	}
	in := ""
	for _, source := range sources[:min(len(sources), maxSources)] {
		_, text, _ := read(root, ".", source) // it may be generated
		switch v := moduleVersion(text); {
		case CheckName(v) != nil || v == version:
		case version != "":
			return "", fmt.Errorf("the modules have more than one version: %s in %s, %s in %s", version, in, v, source)
		default:
			version, in = v, source
		}
	}
	if version != "" {
		return version, nil
	}
	_, text, _ := read(root, ".", "VERSION")
	line, _, _ := strings.Cut(text, "\n")
	if version = strings.TrimPrefix(strings.TrimSpace(line), "v"); CheckName(version) == nil {
		return version, nil
	}
	return "", errors.New("neither is the directory called NAME-VERSION, nor have the modules' sources one MODULE_VERSION, nor is there a file VERSION")
}

// moduleVersion returns the argument of MODULE_VERSION in a C file, if it is a string or
// a macro that the same file defines as one.
func moduleVersion(text string) string {
	m := versionMacro().FindStringSubmatch(text)
	if m != nil && m[2] != "" {
		m = regexp.MustCompile(`(?m)^\s*#\s*define\s+` + m[2] + `\s+"([^"\n]*)"\s*(?:/[/*].*)?$`).FindStringSubmatch(text)
	}
	if m == nil {
		return ""
	}
	return m[1]
}
