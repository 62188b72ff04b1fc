package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"
)

// classic is the command line of the dkms face, as dkms(8) describes it.
type classic struct {
	Action string   `arg:"" optional:"" help:"What to do: add, build, install, uninstall, unbuild, remove, status, match, autoinstall, mktarball, ldtarball, generate_mok, kernel_preinst, kernel_postinst, kernel_prerm."`
	Args   []string `arg:"" optional:"" name:"module/version" help:"The package; or a folder with a dkms.conf, a dkms.conf, or an archive."`

	Module        string   `short:"m" help:"Name of the package, or NAME/VERSION."`
	ModuleVersion string   `short:"v" name:"moduleversion" placeholder:"VERSION" help:"Its version."`
	Kernelver     []string `short:"k" sep:"none" placeholder:"KERNEL[/ARCH]" help:"Kernel release; may be repeated. Default: the running kernel."`
	Arch          []string `short:"a" sep:"none" help:"Architecture, in the order of -k. Default: this machine's."`
	All           bool     `help:"All kernels that there is something for (uninstall, unbuild, remove)."`
	Force         bool     `help:"Do it again though it is done; install modules that are not newer than the kernel's; overwrite (ldtarball)."`

	ForceVersionOverride bool `help:"Install modules that are not newer than the kernel's."`
	NoDepmod             bool `help:"Do not run depmod."`
	ModprobeOnInstall    bool `help:"Load the modules once they are installed."`
	SymlinkModules       bool `help:"Link to modules in the tree in place of copying them."`

	Templatekernel string `placeholder:"KERNEL[/ARCH]" help:"match: the kernel whose packages are wanted."`
	Archive        string `placeholder:"FILE" help:"mktarball, ldtarball: the archive."`
	SourceOnly     bool   `help:"mktarball: leave builds out."`
	BinariesOnly   bool   `help:"mktarball: leave the source out."`
	RpmSafeUpgrade bool   `name:"rpm_safe_upgrade" help:"add, remove: called by an RPM package that replaces itself."`

	Conf            string   `short:"c" placeholder:"FILE" help:"add: the dkms.conf, where it is not the source's own."`
	Directive       []string `sep:"none" placeholder:"NAME=VALUE" help:"Set a directive of dkms.conf; may be repeated."`
	Config          string   `placeholder:"FILE" help:"The kernel's configuration."`
	Kernelsourcedir string   `placeholder:"DIR" help:"The kernel's headers."`
	Dkmstree        folder   `placeholder:"DIR" help:"Instead of /var/lib/dkms."`
	Sourcetree      folder   `placeholder:"DIR" help:"Instead of /usr/src."`
	Installtree     folder   `placeholder:"DIR" help:"Instead of /lib/modules."`
	Jobs            *int     `short:"j" placeholder:"N" help:"Number of jobs at a time; 0 means no limit."`
	Quiet           bool     `short:"q" help:"Say only what failed."`
	Verbose         bool     `help:"Say more."`
	Version         bool     `short:"V" help:"Print the version."`

	NoInitrd        bool `hidden:""`
	NoCleanKernel   bool `hidden:""`
	NoPrepareKernel bool `hidden:""`
	Debug           bool `hidden:""`
}

// folder is the path of one. An empty one, such as a script's variable that is not
// set, would name another than was meant.
type folder string

func (f *folder) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		return errors.New("the folder has no name")
	}
	*f = folder(text)
	return nil
}

// verbs are the actions of the dkms face.
var verbs = map[string]func(*classicRun) error{
	"add":         (*classicRun).add,
	"build":       func(c *classicRun) error { return c.work(plan.Built) },
	"install":     func(c *classicRun) error { return c.work(plan.Installed) },
	"uninstall":   func(c *classicRun) error { return c.remove(engine.Uninstall) },
	"unbuild":     func(c *classicRun) error { return c.remove(engine.Unbuild) },
	"remove":      func(c *classicRun) error { return c.remove(engine.Unregister) },
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

// classicRun is one call of the dkms face.
type classicRun struct {
	classic
	p    *program
	ctx  context.Context
	e    *engine.Engine
	text *report.Text
	// loaded says that something came from an archive that was named.
	loaded bool
}

// usage is an error in the command line, with its exit status.
func usage(status int, format string, args ...any) error {
	return &failure.Failure{What: fmt.Sprintf(format, args...), Hint: "run: dkms --help", Status: status}
}

// dkms is the face of the classic command.
func (p *program) dkms(ctx context.Context, args []string) int {
	c := classicRun{p: p, ctx: ctx}
	if k, status := p.parse(&c.classic, "dkms", "Dynamic kernel module support: builds modules for every kernel.", args, failure.StatusNotFound); k == nil {
		return status
	}
	if c.Version {
		fmt.Fprintf(p.stdout, "dkms-%s\n", version)
		return 0
	}
	c.text = report.NewText(p.stdout, "", c.Verbose || c.Debug, c.Quiet)
	return p.exit(c.run())
}

// parse parses a command line. Where that ends the program, because help was
// asked for or the line is wrong, the context is nil and status the exit status.
func (p *program) parse(into any, name, description string, args []string, wrong int) (k *kong.Context, status int) {
	exited := false
	parser, err := kong.New(into, kong.Name(name), kong.Description(description), kong.Writers(p.stdout, p.stderr),
		kong.Exit(func(int) { exited = true }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.Vars{"version": name + " " + version})
	if err != nil {
		panic(err) // the struct is wrong, not the line
	}
	k, err = parser.Parse(args)
	if exited {
		return nil, 0
	}
	if err != nil {
		return nil, p.exit(&failure.Failure{What: err.Error(), Hint: "run: " + name + " --help", Status: wrong})
	}
	return k, 0
}

// exit tells the error and returns the exit status for it.
func (p *program) exit(err error) int {
	if err == nil {
		return 0
	}
	f := failure.From(err, "failed", 1)
	if errors.As(err, &told{}) {
		return max(f.Status, 1)
	}
	p.errorf("%s", f.Error())
	if f.Hint != "" {
		fmt.Fprintln(p.stderr, f.Hint)
	}
	return max(f.Status, 1)
}

func (c *classicRun) run() error {
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
	jobs := 0
	if c.Jobs != nil {
		if jobs = *c.Jobs; jobs < 0 {
			return usage(failure.StatusNotFound, "-j: %d is not a number of jobs", jobs)
		} else if jobs == 0 {
			jobs = conf.NoLimit
		}
	}
	if c.All && len(c.Kernelver)+len(c.Arch) > 0 {
		return usage(failure.StatusNotFound, "--all and -k exclude each other")
	}
	// Nobody could make such a file, but the first of its folders.
	for _, path := range []string{c.Archive, c.Conf, c.Config, c.Kernelsourcedir, string(c.Dkmstree), string(c.Sourcetree), string(c.Installtree)} {
		if len(path) >= unix.PathMax {
			return usage(failure.StatusNotFound, "%.40s...: the path is longer than %d bytes", path, unix.PathMax-1)
		}
	}
	if fi, err := os.Stat(c.Config); c.Config != "" && (err != nil || !fi.Mode().IsRegular()) {
		return usage(failure.StatusNotFound, "--config: %q is no file", c.Config)
	}
	// What runs elsewhere finds them all the same.
	for _, path := range []*string{&c.Conf, &c.Config, &c.Kernelsourcedir} {
		if *path != "" {
			abs, err := filepath.Abs(*path)
			if err != nil {
				return err
			}
			*path = abs
		}
	}
	e, err := engine.New(c.p.system, engine.Options{
		SourceTree: string(c.Sourcetree), DkmsTree: string(c.Dkmstree), InstallTree: string(c.Installtree),
		KernelSourceDir: c.Kernelsourcedir, KernelConfig: c.Config, Directives: c.Directive, Conf: c.Conf, Jobs: jobs,
		// An upgrade that installs nothing, because the modules are no newer,
		// would end with nothing once the old package goes.
		Force: c.Force, ForceVersion: c.ForceVersionOverride || c.RpmSafeUpgrade,
		// A person who asks for it gets another try.
		Retry:    slices.Contains([]string{"build", "install", "match"}, c.Action),
		NoDepmod: c.NoDepmod, Modprobe: c.ModprobeOnInstall, SymlinkModules: c.SymlinkModules,
	}, c.text)
	if err != nil {
		return err
	}
	defer e.Close()
	c.e = e
	if e.Settings.Verbose {
		c.text.Verbose()
	}
	for _, d := range c.Directive {
		if !directive.MatchString(d) {
			return usage(failure.StatusNotFound, "--directive: %q is not NAME=VALUE", d)
		}
	}
	defer e.Finish(c.ctx)
	if file := c.rpmFile(); file != "" {
		return c.installRPM(file)
	}
	return verbs[c.Action](c)
}

// action finds the action among the arguments, where it may stand anywhere.
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
			return usage(failure.StatusNoConf, "more than one action: %s and %s", c.Action, arg)
		}
	}
	return nil
}

// directive is an assignment to a directive or an element of one.
var directive = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\[[0-9]+\])?=`)

// kernels returns the kernels that -k and -a name; the running one where none is.
func (c *classicRun) kernels() ([]tree.Target, error) {
	kernelver := c.Kernelver
	if len(kernelver) == 0 {
		kernelver = []string{c.e.Running}
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
				arch = c.e.Arch
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

// name splits what names a package: NAME or NAME/VERSION.
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

// id returns the package that the command line names completely. A folder with
// a dkms.conf stands for the package in it, and is imported where create is set;
// so is an archive.
func (c *classicRun) id(create bool) (tree.ID, error) {
	if create && c.Archive != "" && c.Module == "" && len(c.Args) == 0 {
		return c.load(c.Archive)
	}
	if len(c.Args) == 1 && c.Module == "" {
		path := c.Args[0]
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && filepath.Base(path) == "dkms.conf" {
			path = filepath.Dir(path)
		}
		if fi, err := os.Stat(path); err == nil {
			// A name like toy/1.0 may also be a folder below this one.
			_, err := os.Stat(filepath.Join(path, "dkms.conf"))
			switch {
			case fi.IsDir() && (err == nil || filepath.IsAbs(path)):
				if !create {
					return tree.ID{}, usage(failure.StatusUsage, "%s needs NAME/VERSION, not a folder", c.Action)
				}
				ks, err := c.kernels()
				if err != nil {
					return tree.ID{}, err
				}
				return c.e.Import(c.ctx, path, ks[0])
			case fi.Mode().IsRegular():
				if !create {
					return tree.ID{}, usage(failure.StatusUsage, "%s needs NAME/VERSION, not an archive", c.Action)
				}
				return c.load(path)
			}
		} else if filepath.IsAbs(path) {
			return tree.ID{}, usage(failure.StatusNotFound, "%s: there is no such folder", path)
		}
	}
	id, err := c.name()
	if err == nil && (id.Name == "" || id.Version == "") {
		err = usage(failure.StatusUsage, "%s needs a package: NAME/VERSION, or -m NAME -v VERSION", c.Action)
	}
	return id, err
}

// begin takes the lock and returns what a verb that changes one package works on.
func (c *classicRun) begin(create bool) (id tree.ID, ks []tree.Target, unlock func(), err error) {
	if ks, err = c.kernels(); err != nil {
		return
	}
	if unlock, err = c.e.Lock(c.ctx); err != nil {
		return
	}
	if id, err = c.id(create); err != nil {
		unlock()
	}
	return
}

func (c *classicRun) add() error {
	if c.All {
		return usage(failure.StatusNoAll, "add does not take --all")
	}
	id, ks, unlock, err := c.begin(true)
	if err != nil {
		return err
	}
	defer unlock()
	if c.loaded {
		return nil
	}
	if c.RpmSafeUpgrade {
		// Also where it is added already: that is the case that remove must
		// know of.
		if err := c.e.NoteUpgrade(id); err != nil {
			return err
		}
	}
	return c.register(id, ks[0])
}

func (c *classicRun) register(id tree.ID, k tree.Target) error {
	if err := c.e.Register(c.ctx, id, k); err != nil {
		return err
	}
	c.text.Note("added " + id.String())
	return nil
}

// work is build and install.
func (c *classicRun) work(goal plan.Goal) error {
	if c.All {
		return usage(failure.StatusNoAll, "%s does not take --all", c.Action)
	}
	id, ks, unlock, err := c.begin(true)
	if err != nil {
		return err
	}
	defer unlock()
	if c.e.Registered(id) != nil {
		// What is missing is added.
		if err := c.register(id, ks[0]); err != nil {
			return err
		}
	}
	results, err := c.e.Work(c.ctx, ks, plan.Request{
		Only: []tree.ID{id}, Goal: goal, Force: c.Force, Dependents: goal == plan.Installed, Renew: c.e.Upgrading(id),
	}, nil)
	if err != nil {
		return err
	}
	for _, r := range results {
		if r.Outcome != engine.Current {
			return c.worst(results)
		}
	}
	if goal == plan.Built && c.loaded {
		return nil // it came with the archive
	}
	if goal == plan.Built {
		return &failure.Failure{What: id.String() + " is already built", Hint: "use --force to build it again", Status: failure.StatusAlready}
	}
	return &failure.Failure{What: id.String() + " is already installed", Hint: "use --force to install it again", Status: failure.StatusInstalled}
}

// worst tells the failures among results and returns the first.
func (c *classicRun) worst(results []engine.Result) error {
	c.text.Failures(results)
	for _, r := range results {
		if r.Outcome == engine.Failed {
			return told{r.Failure}
		}
	}
	for _, r := range results {
		if r.Outcome == engine.Skipped {
			status := failure.StatusExclusive
			if len(r.Kept) > 0 {
				status = failure.StatusInstall
			}
			return told{&failure.Failure{What: r.Why, Status: status}}
		}
	}
	return nil
}

// told is a failure that has been told: only its status still counts.
type told struct{ *failure.Failure }

func (t told) Unwrap() error { return t.Failure }

// remove is uninstall, unbuild and remove.
func (c *classicRun) remove(d engine.Depth) error {
	id, ks, unlock, err := c.begin(false)
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.e.Registered(id); err != nil {
		if d == engine.Unregister {
			c.e.Tree.HealGone(id) // a removal that was cut short may have left an empty folder
		}
		return err
	}
	if c.RpmSafeUpgrade && d == engine.Unregister && c.e.Upgraded(id) {
		c.text.Note(id.String() + " stays: the RPM package that replaces this one has just added it")
		return nil
	}
	match := func(k tree.Target) bool { return c.All || slices.Contains(ks, k) }
	results, err := c.e.Remove(c.ctx, []tree.ID{id}, match, d, nil)
	if err != nil {
		return err
	}
	if len(results) == 0 && d != engine.Unregister {
		c.text.Note(fmt.Sprintf("%s: nothing to %s", id, c.Action))
	}
	return c.worst(results)
}

func (c *classicRun) status() error {
	id, err := c.name()
	if err != nil {
		return err
	}
	var ks []tree.Target
	if len(c.Kernelver) > 0 {
		if ks, err = c.kernels(); err != nil {
			return err
		}
	}
	list, err := c.e.Status(
		func(p tree.ID) bool {
			return (id.Name == "" || p.Name == id.Name) && (id.Version == "" || p.Version == id.Version)
		},
		func(k tree.Target) bool { return ks == nil || slices.Contains(ks, k) })
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.p.stdout)
	for _, s := range list {
		fmt.Fprintln(out, report.StatusLine(s))
		if s.State == engine.StateBroken {
			out.Flush()
			fmt.Fprintf(c.p.stderr, "%s: its source is gone; reinstall the package that brings it, or put the source back in %s\n",
				s.ID, filepath.Join(c.e.Settings.SourceTree, s.Name+"-"+s.ID.Version))
		}
	}
	return out.Flush()
}
