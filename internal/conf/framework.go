// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/resources"
)

// Settings is what framework.conf says, with the defaults filled in.
// framework.conf(5) describes the settings.
type Settings struct {
	// EtcDir holds framework.conf and the overrides of packages.
	EtcDir string
	// Overrides are the names in EtcDir, which may be overrides. It is nil if
	// they are not known.
	Overrides map[string]bool

	SourceTree   string // directory where packages put their sources
	DkmsTree     string // directory of what is registered and built
	InstallTree  string // directory of the modules of all kernels
	ParallelJobs int    // how many jobs all builds together may run at a time, or NoLimit
	Verbose      bool   // Verbose reports whether to say more.
	TmpLocation  string // directory for temporary files; "" means the system's

	// SymlinkModules reports whether to link to modules in the tree instead of
	// copying them.
	SymlinkModules bool
	// ModprobeOnInstall reports whether to load modules once they are installed
	// for the running kernel.
	ModprobeOnInstall bool
	// ContinueOnError has no effect: work always goes on with the next kernel after
	// a failure.
	ContinueOnError string
	// SignTool is the program that older dkms signed by; it has no effect.
	SignTool string
	// AutoinstallAllKernels reports whether a package that is installed is built
	// for all kernels, and not only for the running and the newest one.
	AutoinstallAllKernels bool
	// CompressOptions are options for the programs gzip, xz and zstd.
	CompressOptions map[codec.Compression]string

	// TrySignModules is "true" to sign modules in a chroot, too, and "false" to
	// sign none.
	TrySignModules string

	// ImageBuild is "true" if the machine is an image that is being made, "false" if it is
	// not; else the machine shows.
	ImageBuild string

	// BuildUser is the user that builds run as; "" means the usual one.
	BuildUser string
	// BuildToolchain is "packages" if what builds lack, a compiler and headers, is to come from
	// packages for the time of a run. Empty means that it is not.
	BuildToolchain string
	// BuildTimeout is how long the commands of one build may take; 0 means any
	// time.
	BuildTimeout time.Duration
	// BuildSandbox is what the builds of some packages may have beyond what all
	// may. The last entry that matches holds; see [Settings.Allowed].
	BuildSandbox []Allowance
	// BuildCacheSize is how many bytes the cache of builds may hold; 0 means no
	// cache.
	BuildCacheSize int64
	// BuildCacheAge is how long a build may stay in the cache without use; 0
	// means any time.
	BuildCacheAge time.Duration

	// RequiredPackages are glob patterns of the names of packages without which
	// the machine cannot boot.
	RequiredPackages []string

	// Unkept are glob patterns of the names of packages whose modules go, when they are
	// upgraded, before the new version is installed.
	Unkept []string

	// AddonModulesDir is the directory below /lib/modules/K that every module
	// goes to, whatever its conf says. If it is empty, the conf decides. It
	// comes from the distribution, not from framework.conf.
	AddonModulesDir string

	PerKernel
}

// PerKernel are the settings that may differ from kernel to kernel. Values that are
// read before a kernel is known contain $kernelver.
type PerKernel struct {
	// OnFailure is a shell command that gets the failures of a run which nobody sees, as
	// JSON, on its standard input. Empty means none.
	OnFailure string
	// PostTransaction is a shell command to run after the modules of a kernel
	// changed. It may contain $kernelver, for the shell that runs it.
	PostTransaction string
	// SignFile is a program, MOKSigningKey and MOKCertificate are files.
	SignFile, MOKSigningKey, MOKCertificate string
	// BuildEnvironment is added to the environment of builds, NAME=VALUE.
	// BuildEnvironmentFile is a shell file; what it exports is added, see
	// [Shell.ReadExports]. One of the two is empty.
	BuildEnvironment     []string
	BuildEnvironmentFile string
}

// expand replaces $kernelver in the values that bash has not expanded.
func (p *PerKernel) expand(release string) {
	by := strings.NewReplacer("$kernelver", release, "${kernelver}", release)
	for _, value := range []*string{&p.SignFile, &p.MOKSigningKey, &p.MOKCertificate, &p.BuildEnvironmentFile} {
		*value = by.Replace(*value)
	}
	for i := range p.BuildEnvironment {
		p.BuildEnvironment[i] = by.Replace(p.BuildEnvironment[i])
	}
}

// rows returns the settings, each with the field that it fills in. A setting that
// is not set, or is empty, leaves the default.
func (set *Settings) rows() []row {
	return []row{
		text("sign_file", &set.SignFile),
		text("mok_signing_key", &set.MOKSigningKey),
		text("mok_certificate", &set.MOKCertificate),
		text("sign_tool", &set.SignTool),
		text("try_sign_modules", &set.TrySignModules),
		text("image_build", &set.ImageBuild),
		text("tmp_location", &set.TmpLocation),
		text("post_transaction", &set.PostTransaction),
		text("on_failure", &set.OnFailure),
		text("build_user", &set.BuildUser),
		text("build_toolchain", &set.BuildToolchain),
		text("continue_on_error", &set.ContinueOnError),
		notEmpty("verbose", &set.Verbose),
		notEmpty("symlink_modules", &set.SymlinkModules),
		notEmpty("modprobe_on_install", &set.ModprobeOnInstall),
		notEmpty("autoinstall_all_kernels", &set.AutoinstallAllKernels),
		set.compress("compress_gzip_opts", codec.Gzip),
		set.compress("compress_xz_opts", codec.XZ),
		set.compress("compress_zstd_opts", codec.Zstd),
		path("source_tree", &set.SourceTree),
		path("dkms_tree", &set.DkmsTree),
		path("install_tree", &set.InstallTree),
		number("parallel_jobs", "jobs", math.MaxInt, func(n int) {
			set.ParallelJobs = n
			if n == 0 {
				set.ParallelJobs = NoLimit
			}
		}),
		number("build_cache_size", "MiB", 1<<30, func(n int) { set.BuildCacheSize = int64(n) << 20 }),
		number("build_cache_days", "days", 1<<15, func(n int) { set.BuildCacheAge = time.Duration(n) * 24 * time.Hour }),
		words("required_packages", func(glob string) error {
			set.RequiredPackages = append(set.RequiredPackages, glob)
			if _, err := filepath.Match(glob, ""); err != nil {
				return fmt.Errorf("%q is not a glob pattern", glob)
			}
			return nil
		}),
		words("keep_on_failed_upgrade", func(word string) error {
			glob, not := strings.CutPrefix(word, "!")
			set.Unkept = append(set.Unkept, glob)
			if _, err := filepath.Match(glob, ""); err != nil || !not {
				return fmt.Errorf("%q is not ! and a glob pattern", word)
			}
			return nil
		}),
		number("build_timeout", "seconds", math.MaxInt32, func(n int) { set.BuildTimeout = time.Duration(n) * time.Second }),
		words("build_sandbox", func(text string) error {
			a, err := allowance(text)
			set.BuildSandbox = append(set.BuildSandbox, a)
			return err
		}),
		set.buildEnvironment(),
	}
}

// buildEnvironment is a row for the path of a file, or for an array of NAME=VALUE.
func (set *Settings) buildEnvironment() row {
	list := entries("build_environment", func(entry string) error {
		if name, _, ok := strings.Cut(entry, "="); !ok || !variable().MatchString(name) {
			return fmt.Errorf("%q is not NAME=VALUE", entry)
		}
		set.BuildEnvironment = append(set.BuildEnvironment, entry)
		return nil
	})
	return row{list.name, func(v map[int]string) error {
		if len(v) == 1 && strings.HasPrefix(v[0], "/") {
			set.BuildEnvironmentFile = v[0]
			return nil
		}
		return list.read(v)
	}}
}

// NoLimit is the number of jobs that means any number of them.
const NoLimit = math.MaxInt32

var frameworkNames = rowNames(new(Settings).rows())

// defaults returns the settings of a framework.conf that sets nothing.
func defaults(etc string) Settings {
	return Settings{
		EtcDir:          etc,
		SourceTree:      "/usr/src",
		DkmsTree:        "/var/lib/dkms",
		InstallTree:     "/lib/modules",
		ParallelJobs:    resources.Processors(),
		BuildTimeout:    2 * time.Hour,
		BuildCacheSize:  1024 << 20,
		BuildCacheAge:   90 * 24 * time.Hour,
		CompressOptions: map[codec.Compression]string{},
	}
}

// settings returns what the variables v of a framework.conf say.
func settings(v values, etc string) (Settings, error) {
	set := defaults(etc)
	for _, r := range set.rows() {
		if err := r.read(v[r.name]); err != nil {
			return set, fmt.Errorf("framework.conf: %w", err)
		}
	}
	return set, nil
}

// notEmpty is a row for a variable that is on whatever its value is, even "no".
func notEmpty(name string, to *bool) row {
	return row{name, func(v map[int]string) error {
		*to = v[0] != ""
		return nil
	}}
}

func (set *Settings) compress(name string, by codec.Compression) row {
	return row{name, func(v map[int]string) error {
		set.CompressOptions[by] = v[0]
		return nil
	}}
}

func path(name string, to *string) row {
	return row{name, func(v map[int]string) error {
		if v[0] == "" {
			return nil
		}
		if !filepath.IsAbs(v[0]) {
			return fmt.Errorf("%s: %q is not an absolute path", name, v[0])
		}
		*to = filepath.Clean(v[0])
		return nil
	}}
}

// number is a row for a number from 0 to most of the unit what.
func number(name, what string, most int, take func(int)) row {
	return row{name, func(v map[int]string) error {
		if v[0] == "" {
			return nil
		}
		n, err := strconv.Atoi(v[0])
		if err != nil || n < 0 || n > most {
			return fmt.Errorf("%s: %q is not a number of %s", name, v[0], what)
		}
		take(n)
		return nil
	}}
}

// entries is a row for an array, of which take gets each entry that is not empty.
func entries(name string, take func(string) error) row {
	return row{name, func(v map[int]string) error {
		for _, i := range indices(v) {
			if v[i] == "" {
				continue
			}
			if err := take(v[i]); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		return nil
	}}
}

// words is a row for words, in one string or in an array.
func words(name string, take func(string) error) row {
	return entries(name, func(entry string) error {
		for word := range strings.FieldsSeq(entry) {
			if err := take(word); err != nil {
				return err
			}
		}
		return nil
	})
}

// Allowance is what the builds of some packages may have.
type Allowance struct {
	Packages string // glob pattern of their names
	Allowed
}

// Allowed is what a build may have of the machine beyond what all builds may.
type Allowed struct {
	Network bool // Network reports whether it may use the machine's network.
	Home    bool // Home reports whether it may see people's files.
	Root    bool // Root reports whether it runs as root, though without capabilities.
	All     bool // All reports whether it may have everything: it runs without a sandbox.
	// Write are directories that it may write to, as far as its user may.
	Write []string
}

// Allowed returns what builds of the package called name may have.
func (s Settings) Allowed(name string) (a Allowed) {
	for _, b := range s.BuildSandbox {
		if ok, _ := filepath.Match(b.Packages, name); ok {
			a = b.Allowed
		}
	}
	return a
}

// allowance reads GLOB=WORD,WORD…, an entry of build_sandbox.
func allowance(text string) (a Allowance, err error) {
	glob, words, ok := strings.Cut(text, "=")
	a.Packages = glob
	if _, err := filepath.Match(glob, ""); err != nil || !ok || glob == "" {
		return a, fmt.Errorf("%q is not PACKAGE=WORD", text)
	}
	for word := range strings.SplitSeq(words, ",") {
		switch word {
		case "network":
			a.Network = true
		case "home":
			a.Home = true
		case "root":
			a.Root = true
		case "off":
			a.All = true
		case "on":
		default:
			dir, ok := strings.CutPrefix(word, "write:")
			if !ok || !filepath.IsAbs(dir) {
				return a, fmt.Errorf("%q is none of on, off, network, home, root, write:/DIR", word)
			}
			a.Write = append(a.Write, filepath.Clean(dir))
		}
	}
	return a, nil
}

// ReadSettings evaluates framework.conf, and then framework.conf.d/*.conf by name,
// in the directory etc, for the kernel called release, or before any is known if that
// is empty. Files that are not there set nothing. Bash starts only if a file has more
// than plain assignments.
func (s *Shell) ReadSettings(etc, release string) (Settings, error) {
	files, err := filepath.Glob(filepath.Join(etc, "framework.conf.d", "*.conf"))
	if err != nil {
		return Settings{}, err
	}
	main := filepath.Join(etc, "framework.conf")
	if _, err := os.Stat(main); err == nil {
		files = slices.Insert(files, 0, main)
	}
	v := values{}
	for _, file := range files {
		literal, err := readLiteral(file)
		if err != nil {
			return Settings{}, err
		}
		if literal == nil {
			// A file that needs bash may use what those before it set.
			v, err = s.eval(request{
				before: []string{"kernelver=" + cmp.Or(release, "$kernelver")},
				files:  files,
				names:  frameworkNames,
			})
			if err != nil {
				return Settings{}, fmt.Errorf("%s: %w; correct it, nothing was done", strings.Join(files, ", "), err)
			}
			break
		}
		for name, value := range literal {
			v[name] = map[int]string{0: value}
		}
	}
	set, err := settings(v, etc)
	set.Overrides = names(etc)
	if release != "" {
		set.expand(release)
	}
	return set, err
}

// names returns the names in a directory, or nil if it cannot be read.
func names(dir string) map[string]bool {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	names := map[string]bool{}
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// Required reports whether the machine cannot boot without the package called name.
func (s Settings) Required(name string) bool { return matchesAny(s.RequiredPackages, name) }

// Keeps reports whether the modules of the package called name stay when it is upgraded,
// until the new version is installed.
func (s Settings) Keeps(name string) bool { return !matchesAny(s.Unkept, name) }

func matchesAny(globs []string, name string) bool {
	return slices.ContainsFunc(globs, func(glob string) bool {
		ok, _ := filepath.Match(glob, name)
		return ok
	})
}

var (
	variable = lazy.Regexp(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// plain is an assignment that means the same without a shell.
	plain = lazy.Regexp(`^([A-Za-z_][A-Za-z0-9_]*)=(?:"([^"$` + "`" + `\\\x00]*)"|'([^'\x00]*)'|([\w./:,@%+-]*))(?:[ \t]+#.*)?$`)
)

// readLiteral reads a shell file that has only comments and plain assignments,
// as most settings files do: bash need not start for it. It returns nil for any
// other file.
func readLiteral(file string) (map[string]string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	set := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line := strings.Trim(lines.Text(), " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		m := plain().FindStringSubmatch(line)
		if m == nil {
			return nil, nil
		}
		set[m[1]] = withoutCR(m[2] + m[3] + m[4])
	}
	if lines.Err() != nil {
		return nil, nil // a line is too long for the scanner, but not for bash
	}
	return set, nil
}

// ReadVariables returns what a shell file sets variables to, by name: those called
// names, and others if that is as easy. A file that does not exist sets none.
func (s *Shell) ReadVariables(file string, names ...string) (map[string]string, error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	set, err := readLiteral(file)
	if set != nil || err != nil {
		return set, err
	}
	v, err := s.eval(request{files: []string{file}, names: names})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	set = map[string]string{}
	for _, name := range names {
		set[name] = v.get(name)
	}
	return set, nil
}

// ReadExports returns the variables that a shell file exports, as NAME=VALUE in order
// of the names, when it is sourced for the kernel called release: those that are new,
// or other than what [Confined] lets through of the environment of bash. The rest of
// that the file sees, but has to export. What bash itself changes is not among them.
func (s *Shell) ReadExports(file, release string) ([]string, error) {
	if fi, err := os.Stat(file); err != nil {
		return nil, err
	} else if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", file)
	}
	r := request{before: []string{"kernelver=" + release}, names: []string{exported}, unexport: unconfined(s.Environ)}
	was, err := s.eval(r)
	delete(was, printed)
	if err == nil && len(was) == 0 {
		err = errors.New("this bash cannot list what is exported: it has no compgen")
	}
	if err != nil {
		return nil, err
	}
	r.files = []string{file}
	now, err := s.eval(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	delete(now, printed)
	var list []string
	for _, name := range slices.Sorted(maps.Keys(now)) {
		value, set := now[name][0]
		if old, ok := was[name][0]; set && !(ok && old == value) && !ofBash[name] {
			list = append(list, name+"="+value)
		}
	}
	return list, nil
}

// ofBash are the variables of the environment that bash sets by itself.
var ofBash = set("PWD OLDPWD SHLVL _")
