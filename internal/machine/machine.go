// SPDX-License-Identifier: GPL-2.0-or-later

// Package machine is the system that a run works on: where its root begins, its
// settings, and what it has. Every path that the program uses is made from it.
package machine

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/distro"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/place"
	"dkms-kernel-install/internal/secureboot"
	"dkms-kernel-install/internal/store"
	"dkms-kernel-install/internal/tree"
)

// Options are what a command line says about the machine. The zero value takes
// everything from its root and its framework.conf.
type Options struct {
	// Root is where the machine's file system begins. Empty means "/".
	Root string
	// Elsewhere reports whether the root is that of a machine which does not run: the kernel
	// and the firmware that are here are not its own.
	Elsewhere bool
	// Args is the command line of this process, if it may be run once more in a view of the
	// machine with something else in place; Again reports whether this is that run.
	Args  []string
	Again bool
	// Cache replaces the directory of caches; empty means the machine's.
	Cache string
	// Check reports whether it is only to be seen what builds: nothing is signed, and no
	// failure is remembered, as its log goes.
	Check bool
	// SourceTree, DkmsTree and InstallTree replace those of framework.conf.
	SourceTree, DkmsTree, InstallTree string
	// KernelSourceDir and KernelConfig replace a kernel's headers and its
	// configuration file.
	KernelSourceDir, KernelConfig string
	Arch                          string   // replaces that of the running kernel
	Directives                    []string // NAME=VALUE, for every dkms.conf
	Jobs                          int      // replaces parallel_jobs; may be [conf.NoLimit]
	SymlinkModules                bool     // sets symlink_modules

	ConfTimeout time.Duration // for reading one dkms.conf; zero is [conf.DefaultTimeout]
	WeakTimeout time.Duration // for one call of a script for weak modules; zero is 10 minutes
	SignTimeout time.Duration // for one call of the program that signs; zero is 2 minutes
	TellTimeout time.Duration // for on_failure; zero is a minute

	// SignPIN is the pass phrase of the key that modules are signed with. The program
	// that signs gets it in the variable [conf.SignPIN].
	SignPIN string

	// Attended reports whether somebody sees what a run prints.
	Attended bool

	// Passed is what confs and commands of builds find in their environment besides
	// what they find anyway, NAME=VALUE. It is for tests.
	Passed []string
}

// Machine is one system. It may be used by several goroutines at once.
type Machine struct {
	Options
	Settings conf.Settings
	Distro   distro.Distro
	Tree     tree.Tree
	Kernels  kernel.Dirs
	Running  string      // release of the running kernel, as uname -r prints it; "" if there is none
	Shell    *conf.Shell // evaluates the administrator's files
	Hashes   *fingerprint.Hashes
	Store    store.Store
	// Note tells people a line about the run as a whole.
	Note func(line string)

	temporary string // directory of caches that serves this process alone; "" if there is none

	forced   func() []string // see Overrides
	firmware func() *secureboot.Firmware
	mu       sync.Mutex // guards the maps
	kernels  map[tree.Target]*kernel.Kernel
	places   map[tree.Target]*place.Kernel
	settings map[string]settings // by release
}

// settings are those of one kernel. Each is read once.
type settings struct {
	all     func() (conf.Settings, error)
	exports func() ([]string, error)
}

// Open reads the settings of the machine at o.Root. What is to be said of the run
// goes to note. A Machine is to be closed. Errors are of type [*failure.Failure].
func Open(o Options, note func(line string)) (*Machine, error) {
	m := &Machine{
		Options: o,
		Shell:   &conf.Shell{Timeout: o.ConfTimeout, Environ: conf.Environ(os.Environ())},
		Note:    note,
		kernels: map[tree.Target]*kernel.Kernel{},
		places:  map[tree.Target]*place.Kernel{},

		settings: map[string]settings{},
	}
	m.forced = sync.OnceValue(m.readForced)
	m.firmware = sync.OnceValue(func() *secureboot.Firmware { return secureboot.ReadFirmware(m.Path("/sys")) })
	release, arch := kernel.Uname()
	if o.Elsewhere {
		release, arch = "", cmp.Or(kernel.ArchOf(m.Path("/bin/sh")), arch)
	}
	m.Running, m.Arch = release, cmp.Or(o.Arch, arch)
	m.Distro = distro.Read(m.Path("/etc/os-release"), m.Path("/usr/lib/os-release"))
	if err := m.readSettings(); err != nil {
		m.Close()
		return nil, failure.From(err, "cannot read the settings", failure.StatusBadConf)
	}
	m.Tree = tree.Tree{Dir: m.Settings.DkmsTree, Sources: m.Settings.SourceTree}
	m.Kernels = kernel.Dirs{
		Modules: m.Settings.InstallTree, Boot: m.Path("/boot"), Source: o.KernelSourceDir, Config: o.KernelConfig,
	}
	if o.Again {
		// What leads to the headers that were unpacked is not in the directories of kernels.
		for _, pattern := range []string{"/usr/src/linux-headers-*", "/usr/src/kernels/*"} {
			dirs, _ := filepath.Glob(m.Path(pattern))
			m.Kernels.Trees = append(m.Kernels.Trees, dirs...)
		}
	}
	if m.Distro.Is("gentoo") {
		// What linux-info.eclass goes by. The kernel need not be installed yet.
		for _, dir := range []string{os.Getenv("KBUILD_OUTPUT"), os.Getenv("KERNEL_DIR"), m.Path("/usr/src/linux")} {
			if filepath.IsAbs(dir) {
				m.Kernels.Trees = append(m.Kernels.Trees, dir)
			}
		}
	}
	if err := m.findCache(); err != nil {
		m.Close()
		return nil, failure.From(err, "cannot make a directory for caches", 1)
	}
	m.Tree.Image = m.ImageBuild()
	m.Hashes = fingerprint.OpenHashes(m.CacheFile("hashes.json"))
	m.Store = &store.Dir{Path: m.CacheFile("builds"), MaxSize: m.Settings.BuildCacheSize, MaxAge: m.Settings.BuildCacheAge}
	return m, nil
}

// Close ends the programs that the machine keeps running, and removes caches that only served
// this process.
func (m *Machine) Close() {
	m.Shell.Close()
	if m.temporary != "" {
		_ = files.RemoveAll(m.temporary)
	}
}

// Path returns where the absolute path of a file on the machine is found from here.
func (m *Machine) Path(path string) string { return filepath.Join("/", m.Root, path) }

// EtcDir is the directory of framework.conf and of the overrides of packages.
func (m *Machine) EtcDir() string { return m.Path("/etc/dkms") }

// CacheDir is the directory of what may be deleted at any time.
func (m *Machine) CacheDir() string {
	return cmp.Or(m.temporary, m.Cache, m.Path("/var/cache/dkms-kernel-install"))
}

// findCache makes a temporary directory of caches where an image is made, which is not to have
// them, unless somebody has mounted a directory for them.
func (m *Machine) findCache() (err error) {
	if !m.ImageBuild() || m.Cache != "" {
		return nil
	}
	dir := m.CacheDir()
	var own, parent unix.Stat_t
	if unix.Stat(dir, &own) == nil && unix.Stat(filepath.Dir(dir), &parent) == nil && own.Dev != parent.Dev {
		return nil
	}
	at := ""
	if m.Elsewhere {
		at = "/run" // not of the image
	}
	m.temporary, err = os.MkdirTemp(at, "dkms-kernel-install.")
	return err
}

// CacheFile returns the path of the file called name in the machine's [Machine.CacheDir].
func (m *Machine) CacheFile(name string) string { return filepath.Join(m.CacheDir(), name) }

// StandardModules is where depmod and the scripts for weak modules look for the
// modules of kernels, which the settings may keep elsewhere.
func (m *Machine) StandardModules() string { return m.Path("/lib/modules") }

// Disabled returns the file that switches automatic work off; empty if it is on.
func (m *Machine) Disabled() string {
	file := filepath.Join(m.EtcDir(), "no-autoinstall")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// Target returns the kernel called release on this machine's architecture.
func (m *Machine) Target(release string) tree.Target {
	return tree.Target{Release: release, Arch: m.Arch}
}

// Own returns the kernel that runs; if it is not installed here, the newest that is.
func (m *Machine) Own() tree.Target {
	k := m.Target(m.Running)
	if all, err := m.Kernels.List(); err == nil && len(all) > 0 && !m.Kernel(k).Exists() {
		return m.Target(all[len(all)-1])
	}
	return k
}

// Kernel describes a kernel.
func (m *Machine) Kernel(k tree.Target) *kernel.Kernel {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kernels[k] == nil {
		m.kernels[k] = m.Kernels.Kernel(k.Release, k.Arch)
	}
	return m.kernels[k]
}

// Modules returns the modules of a kernel.
func (m *Machine) Modules(k tree.Target) *place.Kernel {
	dir := m.Kernel(k).Dir
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.places[k] == nil {
		m.places[k] = &place.Kernel{Tree: m.Tree, Target: k, Dir: dir, Symlink: m.Settings.SymlinkModules}
	}
	return m.places[k]
}

// ConfCache opens the cache of what the confs of packages say for a kernel.
func (m *Machine) ConfCache(k tree.Target) *conf.Cache {
	return conf.OpenCache(m.CacheFile("conf-" + k.Release + "-" + k.Arch + ".json"))
}

// Overrides reports whether the modules of the package called name are installed whatever
// version of them a kernel has: a word of a file in modules_to_force_install names it.
func (m *Machine) Overrides(name string) bool {
	return slices.Contains(m.forced(), name) || slices.Contains(m.forced(), name+"_version-override")
}

func (m *Machine) readForced() (words []string) {
	dir := m.Path("/usr/share/dkms/modules_to_force_install")
	entries, _ := os.ReadDir(dir) // mostly it does not exist
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		if fi, err := os.Stat(file); err != nil || !fi.Mode().IsRegular() {
			continue
		}
		text, _ := os.ReadFile(file)
		words = append(words, strings.Fields(string(text))...)
	}
	return words
}

// HeadersHint says how to get the headers of a kernel.
func (m *Machine) HeadersHint(release string) string {
	return m.Distro.HeadersHint(m.Kernel(m.Target(release)).Dir)
}

// Borrows reports whether a compiler and headers that the machine lacks can be had for the time
// of a run.
func (m *Machine) Borrows() bool { return m.Settings.BuildToolchain == "packages" && !m.Again }

// WithHeaders returns the kernels that are installed with their headers, or for which those can
// be had, oldest first, and those of which the headers are there alone.
func (m *Machine) WithHeaders() (kernels, alone []tree.Target, err error) {
	releases, err := m.Kernels.List()
	if err != nil {
		return nil, nil, failure.From(err, "cannot list the kernels", failure.StatusNoPerm)
	}
	for _, release := range releases {
		switch k := m.Target(release); {
		case m.HeadersAlone(k):
			alone = append(alone, k)
		case m.Kernel(k).HasHeaders(), m.Borrows() && m.Kernel(k).Installed(m.built(k)):
			kernels = append(kernels, k)
		}
	}
	return kernels, alone, nil
}

// HeadersAlone reports whether the headers of k are installed, and k is not. Nothing is
// built automatically then: who removes the headers does not know of modules.
func (m *Machine) HeadersAlone(k tree.Target) bool {
	kern := m.Kernel(k)
	return kern.Exists() && kern.HasHeaders() && !kern.Installed(m.built(k))
}

// HasKernelFiles reports whether the directory kernel of k has a file that came with k.
func (m *Machine) HasKernelFiles(k tree.Target) bool { return m.Kernel(k).HasFiles(m.built(k)) }

// built returns a function that reports whether a package in the tree has built the file
// at path, a module of k.
func (m *Machine) built(k tree.Target) func(path string) bool {
	packages := sync.OnceValue(func() []tree.Package {
		list, _ := m.Tree.Read(k) // without it, all is the kernel's
		return list
	})
	return func(path string) bool {
		return slices.ContainsFunc(packages(), func(p tree.Package) bool { return m.Modules(k).Holds(p.ID, path) })
	}
}

// readSettings reads framework.conf, over which the command line wins.
func (m *Machine) readSettings() error {
	set, err := m.Shell.ReadSettings(m.EtcDir(), "")
	if err != nil {
		return err
	}
	for _, p := range []struct {
		option string
		tree   *string
	}{{m.SourceTree, &set.SourceTree}, {m.DkmsTree, &set.DkmsTree}, {m.InstallTree, &set.InstallTree}} {
		if p.option == "" {
			*p.tree = m.Path(*p.tree)
		} else if *p.tree, err = filepath.Abs(p.option); err != nil {
			return err
		}
	}
	set.ParallelJobs = cmp.Or(m.Jobs, set.ParallelJobs)
	set.SymlinkModules = set.SymlinkModules || m.SymlinkModules
	set.AddonModulesDir, err = m.addonModulesDir()
	m.Settings = set
	return err
}

// SettingsFor returns the settings as they are for the kernel called release: values
// may be made from its name, in any way that bash has. It reads them once.
func (m *Machine) SettingsFor(release string) (conf.Settings, error) {
	return m.settingsFor(release).all()
}

// BuildExports returns what the file that build_environment names exports for the
// kernel called release, as NAME=VALUE; nil if it names none. It reads the file once.
func (m *Machine) BuildExports(release string) ([]string, error) {
	return m.settingsFor(release).exports()
}

func (m *Machine) settingsFor(release string) settings {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, ok := m.settings[release]; ok {
		return s
	}
	var s settings
	s.all = sync.OnceValues(func() (conf.Settings, error) {
		set := m.Settings
		own, err := m.Shell.ReadSettings(m.EtcDir(), release)
		if set.PerKernel = own.PerKernel; set.BuildEnvironmentFile != "" {
			set.BuildEnvironmentFile = m.Path(set.BuildEnvironmentFile)
		}
		if err != nil {
			err = fmt.Errorf("the settings cannot be read for kernel %s: %w", release, err)
		}
		return set, err
	})
	s.exports = sync.OnceValues(func() ([]string, error) {
		set, err := s.all()
		if err != nil || set.BuildEnvironmentFile == "" {
			return nil, err
		}
		list, err := m.Shell.ReadExports(set.BuildEnvironmentFile, release)
		if err != nil {
			err = fmt.Errorf("build_environment: %w", err)
		}
		return list, err
	})
	m.settings[release] = s
	return s
}

// addonModulesDir returns the directory below a kernel's that every module goes
// to; empty if each dkms.conf decides.
func (m *Machine) addonModulesDir() (string, error) {
	const name = "ADDON_MODULES_DIR"
	dir := os.Getenv(name)
	if dir == "" {
		// A file that cannot be read sets nothing.
		set, _ := m.Shell.ReadVariables(m.Path("/etc/sysconfig/module-init-tools"), name)
		dir = cmp.Or(set[name], m.Distro.AddonModulesDir())
	}
	if dir == "" {
		return "", nil
	}
	clean := filepath.Clean("/" + dir)
	if clean == "/" || !filepath.IsLocal(strings.TrimLeft(dir, "/")) {
		return "", &failure.Failure{What: "cannot read the settings", Why: fmt.Sprintf("%s is %q", name, dir),
			Hint: "set it to a directory below /lib/modules/KERNEL, such as updates", Status: failure.StatusBadConf}
	}
	return clean, nil
}

// Chroot reports whether this process sees another root than the first process.
// It reports false if nobody can tell.
func Chroot() bool {
	own, err := os.Stat("/")
	if err != nil {
		return false
	}
	first, err := os.Stat("/proc/1/root/.")
	return err == nil && !os.SameFile(own, first)
}
