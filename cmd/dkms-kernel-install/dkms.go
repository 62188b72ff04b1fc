// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/packages"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

// classic is the command line of the dkms face, as dkms(8) describes it.
type classic struct {
	Action string   `arg:"" optional:"" help:"What to do: add, build, install, uninstall, unbuild, remove, status, match, autoinstall, mktarball, ldtarball, generate_mok, kernel_preinst, kernel_postinst, kernel_prerm."`
	Args   []string `arg:"" optional:"" name:"module/version" help:"The package; or a directory with a dkms.conf, a dkms.conf, or an archive."`

	Module        string   `short:"m" help:"Name of the package, or NAME/VERSION."`
	ModuleVersion string   `short:"v" name:"moduleversion" placeholder:"VERSION" help:"Its version."`
	Kernelver     []string `short:"k" sep:"none" placeholder:"KERNEL[/ARCH]" help:"Kernel release; may be repeated. Default: the running kernel."`
	Arch          []string `short:"a" sep:"none" help:"Architecture, in the order of -k. Default: this machine's."`
	All           bool     `help:"All kernels that the package has builds for (uninstall, unbuild, remove, mktarball)."`
	Force         bool     `help:"Do it again even if it is done; install modules that are not newer than the kernel's; overwrite (ldtarball)."`

	ForceVersionOverride bool `help:"Install modules that are not newer than the kernel's."`
	NoDepmod             bool `help:"Do not run depmod."`
	ModprobeOnInstall    bool `help:"Load the modules after they are installed."`
	SymlinkModules       bool `help:"Place links to the modules in the tree instead of copies."`

	Templatekernel string `placeholder:"KERNEL[/ARCH]" help:"match: the kernel that has the packages installed already."`
	Archive        string `placeholder:"FILE" help:"mktarball, ldtarball: the archive."`
	SourceOnly     bool   `help:"mktarball: leave builds out."`
	BinariesOnly   bool   `help:"mktarball: leave the source out."`
	RpmSafeUpgrade bool   `name:"rpm_safe_upgrade" help:"add, remove: called by an RPM package that replaces itself."`

	Conf            string    `short:"c" placeholder:"FILE" help:"add: the dkms.conf to use instead of the source's own."`
	Directive       []string  `sep:"none" placeholder:"NAME=VALUE" help:"Set a directive of dkms.conf; may be repeated."`
	Config          string    `placeholder:"FILE" help:"The kernel's configuration."`
	Kernelsourcedir string    `placeholder:"DIR" help:"The kernel's headers."`
	Dkmstree        directory `placeholder:"DIR" help:"Instead of /var/lib/dkms."`
	Sourcetree      directory `placeholder:"DIR" help:"Instead of /usr/src."`
	Installtree     directory `placeholder:"DIR" help:"Instead of /lib/modules."`
	Jobs            *int      `short:"j" placeholder:"N" help:"Number of jobs at a time; 0 means no limit."`
	Quiet           bool      `short:"q" help:"Print only failures and warnings."`
	Verbose         bool      `help:"Print more."`
	Version         bool      `short:"V" help:"Print the version of dkms whose interface this is."`

	NoInitrd        bool `hidden:""`
	NoCleanKernel   bool `hidden:""`
	NoPrepareKernel bool `hidden:""`
	Debug           bool `hidden:""`
}

// directory is the path of a directory. It must not be empty, as from a script's
// variable that is not set: the default would be used, which was not meant.
type directory string

// UnmarshalText sets the path to text.
func (d *directory) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the directory has no name")
	}
	*d = directory(text)
	return nil
}

// verbs are the actions of the dkms face.
var verbs = map[string]func(*classicRun) error{
	"add":         (*classicRun).add,
	"build":       func(c *classicRun) error { return c.install(plan.Built) },
	"install":     func(c *classicRun) error { return c.install(plan.Installed) },
	"uninstall":   func(c *classicRun) error { return c.remove(packages.Uninstall) },
	"unbuild":     func(c *classicRun) error { return c.remove(packages.Unbuild) },
	"remove":      func(c *classicRun) error { return c.remove(packages.Unregister) },
	"status":      (*classicRun).status,
	"autoinstall": (*classicRun).autoinstall,
	"mktarball":   (*classicRun).mktarball,
	"ldtarball":   (*classicRun).ldtarball,
	"match":       (*classicRun).match,

	"generate_mok":    (*classicRun).generateMOK,
	"kernel_preinst":  (*classicRun).kernelPreinst,
	"kernel_postinst": (*classicRun).kernelPostinst,
	"kernel_prerm":    (*classicRun).kernelPrerm,
}

// classicVersion is the version of the classic dkms whose interface this is. Scripts
// compare it with what they need. The packages provide it.
const classicVersion = "3.4.3"

// classicRun is one call of the dkms face.
type classicRun struct {
	classic
	p    *program
	ctx  context.Context
	e    *engine.Engine
	m    *machine.Machine
	text *report.Text
}

// usage returns an error in the command line, with its exit status.
func usage(status int, format string, args ...any) error {
	return &failure.Failure{What: fmt.Sprintf(format, args...), Hint: "run: dkms --help", Status: status}
}

// dkms runs the face of the classic command, and returns the exit status.
func (p *program) dkms(ctx context.Context, args []string) int {
	c := classicRun{p: p, ctx: ctx}
	if k, status := p.parse(&c.classic, "dkms", "Dynamic kernel module support: builds modules for every kernel.", args, failure.StatusNotFound); k == nil {
		return status
	}
	if c.Version {
		fmt.Fprintf(p.stdout, "dkms-%s\n", classicVersion)
		return 0
	}
	c.text = report.NewText(p.stdout, "", c.Verbose || c.Debug, c.Quiet)
	timeline := report.NewTimeline(c.text)
	if !c.Quiet {
		defer p.progress.Show(ctx, timeline)()
	}
	return p.exit(c.run(timeline))
}

// run checks the command line, opens the machine and runs the action, of which events hears.
func (c *classicRun) run(events engine.Events) error {
	if err := c.action(); err != nil {
		return err
	}
	for _, old := range []struct {
		given  bool
		option string
	}{{c.NoInitrd, "--no-initrd"}, {c.NoCleanKernel, "--no-clean-kernel"}, {c.NoPrepareKernel, "--no-prepare-kernel"}} {
		if old.given {
			fmt.Fprintf(c.p.stderr, "Warning: %s is retired and does nothing\n", old.option)
		}
	}
	jobs, err := c.check()
	if err != nil {
		return err
	}
	c.e, err = c.p.open(machine.Options{
		SourceTree: string(c.Sourcetree), DkmsTree: string(c.Dkmstree), InstallTree: string(c.Installtree),
		KernelSourceDir: c.Kernelsourcedir, KernelConfig: c.Config, Directives: c.Directive, Jobs: jobs, SymlinkModules: c.SymlinkModules,
	}, events)
	if err != nil {
		return err
	}
	defer c.e.Close()
	c.m = c.e.Machine()
	if c.m.Settings.Verbose {
		c.text.Verbose()
	}
	for _, d := range c.Directive {
		if !directive().MatchString(d) {
			return usage(failure.StatusNotFound, "--directive: %q is not NAME=VALUE", d)
		}
	}
	if file := c.rpmFile(); file != "" {
		return c.installRPM(file)
	}
	return verbs[c.Action](c)
}

// check checks the options, and makes their paths absolute. It returns the number of
// jobs.
func (c *classicRun) check() (jobs int, err error) {
	if c.Jobs != nil {
		if jobs = *c.Jobs; jobs < 0 {
			return 0, usage(failure.StatusNotFound, "-j: %d is not a number of jobs", jobs)
		} else if jobs == 0 {
			jobs = conf.NoLimit
		}
	}
	if c.All && len(c.Kernelver)+len(c.Arch) > 0 {
		return 0, usage(failure.StatusNotFound, "--all and -k exclude each other")
	}
	// Such a file cannot be made, but the first of its directories could.
	for _, path := range []string{c.Archive, c.Conf, c.Config, c.Kernelsourcedir, string(c.Dkmstree), string(c.Sourcetree), string(c.Installtree)} {
		if len(path) >= unix.PathMax {
			return 0, usage(failure.StatusNotFound, "%.40s...: the path is longer than %d bytes", path, unix.PathMax-1)
		}
	}
	if fi, err := os.Stat(c.Config); c.Config != "" && (err != nil || !fi.Mode().IsRegular()) {
		return 0, usage(failure.StatusNotFound, "--config: %q is not a file", c.Config)
	}
	// They are also used by programs that run in other directories.
	for _, path := range []*string{&c.Conf, &c.Config, &c.Kernelsourcedir} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return 0, err
		}
	}
	return jobs, nil
}

// action sets c.Action to the action, which may be any of the arguments.
func (c *classicRun) action() error {
	if verbs[c.Action] == nil {
		i := slices.IndexFunc(c.Args, func(arg string) bool { return verbs[arg] != nil })
		switch {
		case c.Action == "":
			return usage(failure.StatusUsage, "no action given")
		case i < 0:
			return usage(failure.StatusUsage, "unknown action %q", c.Action)
		}
		c.Action, c.Args[i] = c.Args[i], c.Action
	}
	for _, arg := range c.Args {
		if verbs[arg] != nil {
			return usage(failure.StatusNotFound, "more than one action: %s and %s", c.Action, arg)
		}
	}
	return nil
}

// directive matches an assignment to a directive or to an element of one.
var directive = lazy.Regexp(`^[A-Za-z_][A-Za-z0-9_]*(\[[0-9]+\])?=`)

// kernels returns the kernels that -k and -a name; without -k, that of ownKernel.
func (c *classicRun) kernels() ([]tree.Target, error) {
	kernelver := c.Kernelver
	if len(kernelver) == 0 {
		kernelver = []string{c.ownKernel()}
	}
	if len(c.Arch) > 1 && len(c.Arch) != len(kernelver) {
		return nil, usage(failure.StatusUsage, "%d -a for %d -k: one -a is for all, several are in the order of -k", len(c.Arch), len(kernelver))
	}
	var list []tree.Target
	for i, k := range kernelver {
		release, arch, given := strings.Cut(k, "/")
		if !given {
			switch len(c.Arch) {
			case 0:
				arch = c.m.Arch
			case 1:
				arch = c.Arch[0]
			default:
				arch = c.Arch[i]
			}
		}
		if arch == "" {
			return nil, usage(failure.StatusNoArch, "kernel %s has no architecture", release)
		}
		target := tree.Target{Release: release, Arch: arch}
		if err := tree.CheckTarget(target); err != nil {
			return nil, usage(failure.StatusNotFound, "-k %q: %v", k, err)
		}
		if !slices.Contains(list, target) {
			list = append(list, target)
		}
	}
	return list, nil
}

// ownKernel returns the kernel that runs; or, if it is not installed here, as in a chroot
// or a container, the newest one that has headers, of those that are installed if any is.
func (c *classicRun) ownKernel() string {
	if c.m.Kernel(c.m.Target(c.m.Running)).Exists() {
		return c.m.Running
	}
	with, alone, err := c.m.WithHeaders()
	with = append(alone, with...)
	if err != nil || len(with) == 0 {
		return c.m.Running
	}
	newest := with[len(with)-1].Release
	if c.All || c.SourceOnly || c.Action == "add" || c.Action == "ldtarball" {
		return newest // it only says how the conf is read
	}
	c.text.Note(fmt.Sprintf("the running kernel, %s, is not installed here: this is for %s, the newest that has headers", c.m.Running, newest))
	return newest
}

// kernel returns the kernel for actions that take one.
func (c *classicRun) kernel() (tree.Target, error) {
	if c.All {
		return tree.Target{}, usage(failure.StatusNoAll, "%s does not take --all", c.Action)
	}
	if n := len(c.Kernelver); n > 1 || n == 0 && strings.HasPrefix(c.Action, "kernel_") {
		return tree.Target{}, usage(failure.StatusNoConf, "%s takes one -k", c.Action)
	}
	ks, err := c.kernels()
	if err != nil {
		return tree.Target{}, err
	}
	return ks[0], nil
}

// name returns the package that the command line names, as NAME/VERSION or by -m and
// -v. The name, the version, or both may be empty.
func (c *classicRun) name() (tree.ID, error) {
	s := c.Module
	if len(c.Args) > 1 || len(c.Args) == 1 && s != "" {
		return tree.ID{}, usage(failure.StatusNotFound, "more than one package given")
	}
	if len(c.Args) == 1 {
		s = c.Args[0]
	}
	name, version, _ := strings.Cut(s, "/")
	if version == "" {
		version = c.ModuleVersion
	}
	return tree.ID{Name: name, Version: version}, nil
}

// id returns the package that the command line names by its name and version.
func (c *classicRun) id() (tree.ID, error) {
	s, err := c.source()
	switch {
	case err != nil:
		return tree.ID{}, err
	case s.Dir != "":
		return tree.ID{}, usage(failure.StatusUsage, "%s needs NAME/VERSION, not a directory", c.Action)
	case s.Archive != "":
		return tree.ID{}, usage(failure.StatusUsage, "%s needs NAME/VERSION, not an archive", c.Action)
	}
	return s.ID, nil
}

// source returns the package that the command line names: by its name and version, by
// a directory with its dkms.conf, or by an archive.
func (c *classicRun) source() (engine.Source, error) {
	s := engine.Source{ID: tree.ID{Name: c.Module, Version: c.ModuleVersion}, Conf: c.Conf, Force: c.Force, RPMUpgrade: c.RpmSafeUpgrade}
	if c.Archive != "" && c.Module == "" && len(c.Args) == 0 && c.Action != "mktarball" {
		s.Archive = c.Archive
		return s, nil
	}
	if len(c.Args) == 1 && c.Module == "" {
		path := c.Args[0]
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && filepath.Base(path) == "dkms.conf" {
			path = filepath.Dir(path)
		}
		fi, err := os.Stat(path)
		noName := filepath.IsAbs(path) || strings.HasPrefix(path, "./") || strings.HasPrefix(path, "../")
		if err != nil && noName {
			return s, usage(failure.StatusNotFound, "%s: there is no such directory or archive", path)
		}
		if err == nil && fi.Mode().IsRegular() {
			s.Archive = path
			return s, nil
		}
		if err == nil && fi.IsDir() {
			// A name like toy/1.0 may also be a directory below this one.
			if _, err := os.Stat(filepath.Join(path, "dkms.conf")); err == nil || noName {
				s.Dir = path
				return s, nil
			}
		}
	}
	var err error
	if s.ID, err = c.name(); err == nil && (s.ID.Name == "" || s.ID.Version == "") {
		err = usage(failure.StatusUsage, "%s needs a package: NAME/VERSION, or -m NAME -v VERSION", c.Action)
	}
	return s, err
}

// policy returns what is done after modules have changed.
func (c *classicRun) policy() follow.Policy {
	return follow.Policy{NoDepmod: c.NoDepmod, Modprobe: c.ModprobeOnInstall}
}

// options returns how plans are carried out. In an RPM upgrade modules are installed even
// if the kernel's own are as new or newer: the old package's modules are removed after
// it, and then none would be left.
func (c *classicRun) options() execute.Options {
	return execute.Options{Force: c.Force, ForceVersion: c.ForceVersionOverride || c.RpmSafeUpgrade, KeepNewer: true, Follow: c.policy()}
}

// worst prints the failures among results and returns the first. If there are none, it
// returns an error for the first package that was passed over. Packages that nobody asked
// for do not count.
func (c *classicRun) worst(results []execute.Result) error {
	c.text.Failures(results)
	for _, r := range results {
		if r.Outcome == execute.Failed && !r.Waited {
			return told{r.Failure}
		}
	}
	for _, r := range results {
		if r.Outcome == execute.Skipped && !r.Deferred && !r.Waited {
			status := failure.StatusExclusive
			if len(r.Kept) > 0 {
				status = failure.StatusInstall
			}
			return told{&failure.Failure{What: r.Why, Status: status}}
		}
	}
	return nil
}
