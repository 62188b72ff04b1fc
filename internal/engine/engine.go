// Package engine does the work: it looks at packages and kernels, has it
// planned, and walks the plan with as much in parallel as its order allows. The
// faces of the program call it; it is the only package that knows all others.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"dkms-kernel-install/internal/artifact"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/distro"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/parallel"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// System says where the machine keeps what the engine reads besides the trees
// that framework.conf names.
type System struct {
	// Root is where the machine's file system begins; empty for "/". Only
	// what makes an initramfs is looked for below it.
	Root      string
	EtcDir    string   // /etc/dkms
	OSRelease []string // /etc/os-release, /usr/lib/os-release: the first counts
	// Sysconfig may set ADDON_MODULES_DIR: /etc/sysconfig/module-init-tools.
	Sysconfig string
	// MakeConf is Gentoo's /etc/portage/make.conf.
	MakeConf string
	// CacheDir holds what may be deleted at any time; empty for no cache.
	CacheDir string
	// KernelInstall are the folders of kernel-install's plugins, the one
	// whose files win first; Modules is where they look for kernels.
	KernelInstall []string
	Modules       string
	// WeakModules and WeakModules2 are the scripts of Red Hat's and of SUSE's
	// distributions that share modules between kernels. WeakTimeout is how
	// long one call may take; zero is 10 minutes.
	WeakModules, WeakModules2 string
	WeakTimeout               time.Duration
	// ConfTimeout is how long reading one dkms.conf may take; zero is
	// [conf.DefaultTimeout].
	ConfTimeout time.Duration
}

// DefaultSystem is where every machine keeps these things.
func DefaultSystem() System {
	return System{
		EtcDir:        "/etc/dkms",
		OSRelease:     []string{"/etc/os-release", "/usr/lib/os-release"},
		Sysconfig:     "/etc/sysconfig/module-init-tools",
		MakeConf:      "/etc/portage/make.conf",
		CacheDir:      "/var/cache/dkms-kernel-install",
		KernelInstall: []string{"/etc/kernel/install.d", "/usr/lib/kernel/install.d"},
		Modules:       "/lib/modules",
		WeakModules:   "/usr/sbin/weak-modules",
		WeakModules2:  "/usr/lib/module-init-tools/weak-modules2",
	}
}

// Options are what a command line may say about a whole run.
type Options struct {
	SourceTree, DkmsTree, InstallTree string // replace framework.conf's
	KernelSourceDir, KernelConfig     string // replace the kernel's usual places
	Directives                        []string
	Conf                              string // replaces the dkms.conf of a source that is added
	Jobs                              int    // 0: as framework.conf says; may be [conf.NoLimit]
	// Force takes failures of PRE_INSTALL and of dependencies for none, and
	// implies ForceVersion: modules go in whatever the kernel's own are.
	Force, ForceVersion bool
	// Retry builds what failed before, though nothing has changed since. Force
	// implies it, and that nothing comes from the cache of builds.
	Retry          bool
	NoDepmod       bool
	Modprobe       bool // load what was installed for the running kernel
	SymlinkModules bool
	DryRun         bool // change nothing
}

// Engine is one run of the program. Close it.
type Engine struct {
	System   System
	Options  Options
	Settings conf.Settings
	Distro   distro.Distro
	Tree     tree.Tree
	Arch     string // of this machine, as uname -m
	Running  string // release of the running kernel
	Events   Events

	shell *conf.Shell
	// healed says that killed runs have left nothing in the tree, idle that
	// neither has this one, which found nothing to do.
	healed, idle bool
	upgrading    tree.ID // see Upgrading
	costs        func() *costs
	eventMu      sync.Mutex // guards the calls of Events, and ignored
	ignored      map[kmod.Compression]bool
	// unconfined says that it has been said that builds are.
	unconfined   bool
	machineOnce  sync.Once
	machineStamp string     // see machine
	weakMu       sync.Mutex // one script at a time: each works on all kernels
	mu           sync.Mutex // guards what follows
	kernels      map[tree.Target]*kernel.Kernel
	places       map[tree.Target]*place.Kernel
	signers      map[string]signer
	hashes       *fingerprint.Cache
	builds       *artifact.Cache // nil for none
	changed      []tree.Target   // kernels whose modules this run changed
	notes        map[tree.Target]*note
	renews       bool // this run makes each initramfs anew that its changes concern
	carried      bool // only those that carry one of the modules
	ways         map[tree.Target]renewal
}

// Events hears of the work as it goes on. Its methods are called one at a time.
type Events interface {
	// Start says that the work on a package for a kernel begins.
	Start(id tree.ID, k tree.Target, build bool)
	// Done says how it ended.
	Done(Result)
	// Note is a line about the run as a whole.
	Note(line string)
}

// New reads the settings of the machine.
func New(sys System, o Options, events Events) (*Engine, error) {
	e := &Engine{
		System: sys, Options: o, Events: events,
		Distro:  distro.Read(sys.OSRelease...),
		shell:   &conf.Shell{Timeout: sys.ConfTimeout},
		kernels: map[tree.Target]*kernel.Kernel{},
		places:  map[tree.Target]*place.Kernel{},
		signers: map[string]signer{},
		notes:   map[tree.Target]*note{},
		ways:    map[tree.Target]renewal{},
		ignored: map[kmod.Compression]bool{},
		hashes:  fingerprint.OpenCache(""),
		costs:   sync.OnceValue(func() *costs { return openCosts("") }),
	}
	if sys.CacheDir != "" {
		e.costs = sync.OnceValue(func() *costs { return openCosts(filepath.Join(sys.CacheDir, "costs.json")) })
		e.hashes = fingerprint.OpenCache(filepath.Join(sys.CacheDir, "hashes.json"))
	}
	set, err := e.shell.ReadSettings(sys.EtcDir)
	if err != nil {
		e.Close()
		return nil, failure.From(err, "cannot read the settings", failure.StatusBadConf)
	}
	for _, p := range []struct {
		from string
		to   *string
	}{{o.SourceTree, &set.SourceTree}, {o.DkmsTree, &set.DkmsTree}, {o.InstallTree, &set.InstallTree}} {
		if p.from == "" {
			continue
		}
		if *p.to, err = filepath.Abs(p.from); err != nil {
			e.Close()
			return nil, err
		}
	}
	if o.Jobs != 0 {
		set.ParallelJobs = o.Jobs
	}
	set.AddonModulesDir = e.Distro.AddonModulesDir()
	if dir := os.Getenv("ADDON_MODULES_DIR"); dir != "" {
		set.AddonModulesDir = dir
	} else if v, err := e.shell.ReadVariables(sys.Sysconfig, "ADDON_MODULES_DIR"); err == nil && v["ADDON_MODULES_DIR"] != "" {
		set.AddonModulesDir = v["ADDON_MODULES_DIR"]
	}
	if dir := set.AddonModulesDir; dir != "" {
		if set.AddonModulesDir = filepath.Clean("/" + dir); set.AddonModulesDir == "/" || !filepath.IsLocal(strings.TrimLeft(dir, "/")) {
			e.Close()
			return nil, &failure.Failure{What: "cannot read the settings", Why: fmt.Sprintf("ADDON_MODULES_DIR is %q", dir),
				Hint: "set it to a folder below /lib/modules/KERNEL, such as updates", Status: failure.StatusBadConf}
		}
	}
	e.Settings = set
	e.builds = e.openBuilds()
	e.Tree = tree.Tree{Dir: set.DkmsTree, Sources: set.SourceTree}
	e.Running, e.Arch = uname()
	return e, nil
}

// Close ends the programs that the engine keeps running.
func (e *Engine) Close() { e.shell.Close() }

// Target returns the kernel called release on this machine's architecture.
func (e *Engine) Target(release string) tree.Target {
	return tree.Target{Release: release, Arch: e.Arch}
}

// Kernel describes a kernel.
func (e *Engine) Kernel(k tree.Target) *kernel.Kernel {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.kernels[k] == nil {
		e.kernels[k] = kernel.New(e.Settings.InstallTree, k.Release, k.Arch, e.Options.KernelSourceDir, e.Options.KernelConfig)
	}
	return e.kernels[k]
}

func (e *Engine) placer(k tree.Target) *place.Kernel {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.places[k] == nil {
		e.places[k] = &place.Kernel{
			Tree: e.Tree, Target: k, Dir: filepath.Join(e.Settings.InstallTree, k.Release),
			Symlink: e.Options.SymlinkModules || e.Settings.SymlinkModules,
		}
	}
	return e.places[k]
}

// Lock takes the lock of the tree for the rest of the run.
func (e *Engine) Lock(ctx context.Context) (unlock func(), err error) {
	lock, err := e.Tree.Lock(ctx, func(holder string) {
		e.Events.Note(fmt.Sprintf("waiting for %s, which is working on %s", holder, e.Tree.Dir))
	})
	if err == nil {
		e.healed, e.idle = lock.Healed, false
		return func() {
			lock.Release(e.idle)
			e.idle = false
		}, nil
	}
	status := failure.StatusNoPerm
	if errors.Is(err, fs.ErrPermission) {
		status = failure.StatusUsage
	}
	return nil, failure.From(err, "cannot change "+e.Tree.Dir, status)
}

// Disabled returns the file that switches automatic work off; "" where it is on.
func (e *Engine) Disabled() string {
	file := filepath.Join(e.System.EtcDir, "no-autoinstall")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// source says which conf of id for k is meant.
func (e *Engine) source(id tree.ID, k tree.Target) conf.Source {
	kern := e.Kernel(k)
	return conf.Source{
		File:             filepath.Join(e.Tree.SourceDir(id), "dkms.conf"),
		Module:           id.Name,
		Version:          id.Version,
		Release:          k.Release,
		Arch:             k.Arch,
		KernelSourceDir:  kern.SourceDir,
		KernelConfigFile: kern.ConfigFile(),
		Config:           kern.Enabled,
		Directives:       e.Options.Directives,
	}
}

// Conf reads the conf of a registered package for a kernel.
func (e *Engine) Conf(id tree.ID, k tree.Target) (conf.Conf, error) {
	src := e.source(id, k)
	if fi, err := os.Stat(src.File); err != nil || !fi.Mode().IsRegular() {
		return conf.Conf{Name: id.Name, Version: id.Version}, &conf.Error{File: src.File, Problems: []string{"there is no such file"}, Err: fs.ErrNotExist}
	}
	// What it calls itself does not count: packages exist that leave a
	// placeholder there.
	return e.shell.Read(src, e.Settings)
}

// A reader returns the conf of a package for a kernel.
type reader func(tree.ID, tree.Target) (conf.Conf, error)

// errUnknown is why a plan made from the cache alone cannot be relied on.
var errUnknown = errors.New("not in the cache")

// fromCache returns a reader that knows what the cache knows.
func (e *Engine) fromCache(c *conf.Cache) reader {
	return func(id tree.ID, k tree.Target) (conf.Conf, error) {
		found, ok := c.Get(e.source(id, k), e.Settings)
		if !ok {
			return found, errUnknown
		}
		return found, nil
	}
}

// cache opens the cache of confs for a kernel.
func (e *Engine) cache(k tree.Target) *conf.Cache {
	if e.System.CacheDir == "" {
		return conf.OpenCache("")
	}
	return conf.OpenCache(filepath.Join(e.System.CacheDir, "conf-"+k.Release+"-"+k.Arch+".json"))
}

// observe looks at packages from one kernel, as far as r wants to know. The confs
// of those that r is about, and of all that are installed, are read by conf.
func (e *Engine) observe(ctx context.Context, k tree.Target, packages []tree.Package, r plan.Request, conf reader) []plan.Package {
	seen := make([]plan.Package, len(packages))
	weak := e.weak(k.Release, packages)
	parallel.Each(len(packages), func(i int) {
		p := packages[i]
		seen[i] = e.look(ctx, p, k, packages, weak[p.ID].Release, r, conf)
	})
	return seen
}

// look is observe for one of packages.
func (e *Engine) look(ctx context.Context, p tree.Package, k tree.Target, packages []tree.Package, weakFrom string, r plan.Request, conf reader) plan.Package {
	o := plan.Package{ID: p.ID, Source: p.Source, WeakFrom: weakFrom}
	b, built := p.Build(k)
	o.Built, o.Modules, o.Installed = built, b.Modules, b.Installed
	if p.Source != "" && (o.Installed || r.Only == nil || slices.Contains(r.Only, p.ID)) {
		o.Conf, o.ConfErr = conf(p.ID, k)
	}
	if o.Installed {
		o.Current = e.placer(k).Current(e.placed(p.ID, k, packages, o))
	}
	if built && o.Conf.BuildDependsRebuild {
		o.BuiltAgainst = e.Tree.BuiltAgainst(p.ID, k)
	}
	if r.Renew && built && p.Source != "" && o.ConfErr == nil {
		o.Stale = e.stale(ctx, p, k, o.Conf)
	}
	return o
}

// placed returns what place must know of a package: its modules in the tree, and
// where its conf sends them. packages are those of the tree, sorted by name.
func (e *Engine) placed(id tree.ID, k tree.Target, packages []tree.Package, o plan.Package) place.Package {
	p := place.Package{ID: id, Installed: o.Installed, Force: e.Options.Force || e.Options.ForceVersion}
	first, _ := slices.BinarySearchFunc(packages, id.Name, func(p tree.Package, name string) int { return strings.Compare(p.Name, name) })
	for _, other := range packages[first:] {
		if other.Name != id.Name {
			break
		}
		p.Versions = append(p.Versions, other.Version)
		b, _ := other.Build(k)
		p.Installed = p.Installed || b.Installed
	}
	for _, file := range o.Modules {
		m := place.Module{File: file, Location: e.Settings.AddonModulesDir}
		for _, c := range o.Conf.Modules {
			if strings.HasPrefix(file, c.DestName+".ko") {
				m.Location = c.DestLocation
			}
		}
		p.Modules = append(p.Modules, m)
	}
	return p
}

// Registered returns an error that says so where the package id is not in the
// tree. A broken one is.
func (e *Engine) Registered(id tree.ID) error {
	packages, err := e.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	i := slices.IndexFunc(packages, func(p tree.Package) bool { return p.ID == id })
	if i < 0 || packages[i].Broken() && len(packages[i].Builds) == 0 && !exists(e.Tree.SourceDir(id)) {
		return &failure.Failure{What: id.String() + " is not in the DKMS tree", Status: failure.StatusAlready,
			Hint: "dkms status shows what is; to add it: dkms add " + id.String()}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
