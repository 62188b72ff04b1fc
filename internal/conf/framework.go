// SPDX-License-Identifier: GPL-2.0-or-later

package conf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/resources"
)

// Settings is what framework.conf says, with the defaults filled in.
type Settings struct {
	// EtcDir holds framework.conf and the overrides of packages.
	EtcDir string
	// Overrides are the names of what is in EtcDir, and may be overrides; nil
	// where that is not known.
	Overrides map[string]bool

	SourceTree   string // where packages put their sources
	DkmsTree     string // the tree of what is registered and built
	InstallTree  string // the modules of all kernels
	ParallelJobs int    // how many jobs all builds together may run at a time, or NoLimit
	Verbose      bool
	TmpLocation  string // for files that are soon gone; "" is the system's usual place

	// SymlinkModules links to modules in the tree in place of copying them.
	SymlinkModules bool
	// ModprobeOnInstall loads modules once they are installed for the running
	// kernel.
	ModprobeOnInstall bool
	// AutoinstallAllKernels takes all kernels, where a package that is
	// installed otherwise takes the running and the newest one.
	AutoinstallAllKernels bool
	// PostTransaction is a shell command for after changes to a kernel's
	// modules; it may contain $kernelver.
	PostTransaction string
	// CompressOptions are those meant for the programs gzip, xz and zstd.
	CompressOptions map[codec.Compression]string

	// SignFile, MOKSigningKey and MOKCertificate may contain $kernelver;
	// see [ForKernel].
	SignFile, MOKSigningKey, MOKCertificate string
	TrySignModules                          string // "true", "false" or ""

	// BuildUser is who builds run as; "" is the usual one. BuildTimeout is how
	// long the commands of one build may take.
	BuildUser    string
	BuildTimeout time.Duration
	// BuildSandbox says by glob patterns of package names, the last that
	// matches wins, what builds may have that they have not otherwise; see
	// [Settings.Allowed].
	BuildSandbox []Allowance
	// BuildCacheSize is how many bytes the cache of builds may hold, 0 for no
	// cache; BuildCacheAge is for how long one may be in it without use, 0
	// for any time.
	BuildCacheSize int64
	BuildCacheAge  time.Duration

	// BuildEnvironment is added to the environment of builds, NAME=VALUE.
	BuildEnvironment []string
	// RequiredPackages are glob patterns of package names without which the
	// machine cannot boot.
	RequiredPackages []string

	// AddonModulesDir, where not empty, is the directory below /lib/modules/K
	// that every module goes to, whatever its conf says.
	AddonModulesDir string
}

// Allowance is what the builds of the packages that match a glob pattern may have.
type Allowance struct {
	Packages string
	Allowed
}

// Allowed is what a build may have of the machine, beyond what all may.
type Allowed struct {
	Network bool // the machine's network
	Home    bool // people's files
	Root    bool // to be root, though without its power over others
	All     bool // everything: no sandbox
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

// allowance reads GLOB=WORD,WORD…
func allowance(text string) (a Allowance, err error) {
	glob, words, ok := strings.Cut(text, "=")
	a.Packages = glob
	if _, err := filepath.Match(glob, ""); err != nil || !ok || glob == "" {
		return a, fmt.Errorf("framework.conf: build_sandbox: %q is not PACKAGE=WORD", text)
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
				return a, fmt.Errorf("framework.conf: build_sandbox: %q is none of on, off, network, home, root, write:/DIR", word)
			}
			a.Write = append(a.Write, filepath.Clean(dir))
		}
	}
	return a, nil
}

// NoLimit is the number of jobs that means as many as there are.
const NoLimit = math.MaxInt32

var frameworkNames = strings.Fields(`source_tree dkms_tree install_tree verbose
	parallel_jobs build_environment sign_file mok_signing_key mok_certificate try_sign_modules
	build_cache_size build_cache_days
	required_packages tmp_location symlink_modules autoinstall_all_kernels modprobe_on_install
	post_transaction continue_on_error build_user build_timeout build_sandbox compress_gzip_opts compress_xz_opts compress_zstd_opts`)

// ReadSettings evaluates framework.conf and framework.conf.d/*.conf below etc.
func (s *Shell) ReadSettings(etc string) (Settings, error) {
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
			// One file that needs bash may build on those before it.
			v, err = s.eval(request{
				// The kernel is not known yet: values keep the name.
				before: []string{"kernelver=$kernelver"},
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
	return set, err
}

// names returns the names in a directory; nil where it cannot be read.
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

func settings(v values, etc string) (Settings, error) {
	set := Settings{
		EtcDir:         etc,
		SourceTree:     "/usr/src",
		DkmsTree:       "/var/lib/dkms",
		InstallTree:    "/lib/modules",
		ParallelJobs:   resources.Processors(),
		BuildCacheSize: 1024 << 20,
		BuildCacheAge:  90 * 24 * time.Hour,
		Verbose:        v.get("verbose") != "",
		SignFile:       v.get("sign_file"),
		MOKSigningKey:  v.get("mok_signing_key"),
		MOKCertificate: v.get("mok_certificate"),
		TrySignModules: v.get("try_sign_modules"),
		TmpLocation:    v.get("tmp_location"),
		// These are on whatever their value is.
		SymlinkModules:        v.get("symlink_modules") != "",
		ModprobeOnInstall:     v.get("modprobe_on_install") != "",
		AutoinstallAllKernels: v.get("autoinstall_all_kernels") != "",
		PostTransaction:       v.get("post_transaction"),
		BuildUser:             v.get("build_user"),
		BuildTimeout:          2 * time.Hour,
		CompressOptions: map[codec.Compression]string{
			codec.Gzip: v.get("compress_gzip_opts"), codec.XZ: v.get("compress_xz_opts"), codec.Zstd: v.get("compress_zstd_opts"),
		},
	}
	for _, p := range []struct {
		name string
		to   *string
	}{
		{"source_tree", &set.SourceTree}, {"dkms_tree", &set.DkmsTree}, {"install_tree", &set.InstallTree},
	} {
		path := v.get(p.name)
		if path == "" {
			continue
		}
		if !filepath.IsAbs(path) {
			return set, fmt.Errorf("framework.conf: %s: %q is not an absolute path", p.name, path)
		}
		*p.to = filepath.Clean(path)
	}
	if jobs := v.get("parallel_jobs"); jobs != "" {
		n, err := strconv.Atoi(jobs)
		if err != nil || n < 0 {
			return set, fmt.Errorf("framework.conf: parallel_jobs: %q is not a number of jobs", jobs)
		}
		if n == 0 {
			n = NoLimit
		}
		set.ParallelJobs = n
	}
	for _, n := range []struct {
		name, what string
		most       int
		take       func(int)
	}{
		{"build_cache_size", "MiB", 1 << 30, func(n int) { set.BuildCacheSize = int64(n) << 20 }},
		{"build_cache_days", "days", 1 << 15, func(n int) { set.BuildCacheAge = time.Duration(n) * 24 * time.Hour }},
	} {
		if value := v.get(n.name); value != "" {
			number, err := strconv.Atoi(value)
			if err != nil || number < 0 || number > n.most {
				return set, fmt.Errorf("framework.conf: %s: %q is not a number of %s", n.name, value, n.what)
			}
			n.take(number)
		}
	}
	for _, i := range indices(v["required_packages"]) {
		set.RequiredPackages = append(set.RequiredPackages, strings.Fields(v["required_packages"][i])...)
	}
	for _, glob := range set.RequiredPackages {
		if _, err := filepath.Match(glob, ""); err != nil {
			return set, fmt.Errorf("framework.conf: required_packages: %q is not a glob pattern", glob)
		}
	}
	if text := v.get("build_timeout"); text != "" {
		seconds, err := strconv.Atoi(text)
		if set.BuildTimeout = time.Duration(seconds) * time.Second; err == nil && (seconds < 0 || set.BuildTimeout/time.Second != time.Duration(seconds)) {
			err = errors.New("out of range")
		}
		if err != nil {
			return set, fmt.Errorf("framework.conf: build_timeout: %q is not a number of seconds", text)
		}
	}
	for _, i := range indices(v["build_sandbox"]) {
		for _, text := range strings.Fields(v["build_sandbox"][i]) {
			a, err := allowance(text)
			if err != nil {
				return set, err
			}
			set.BuildSandbox = append(set.BuildSandbox, a)
		}
	}
	for _, i := range indices(v["build_environment"]) {
		entry := v["build_environment"][i]
		if entry == "" {
			continue
		}
		if name, _, ok := strings.Cut(entry, "="); !ok || !variable.MatchString(name) {
			return set, fmt.Errorf("framework.conf: build_environment: %q is not NAME=VALUE", entry)
		}
		set.BuildEnvironment = append(set.BuildEnvironment, entry)
	}
	return set, nil
}

// ForKernel returns value with $kernelver replaced by release.
func ForKernel(value, release string) string {
	return strings.NewReplacer("$kernelver", release, "${kernelver}", release).Replace(value)
}

// Required reports whether the package name is one that the machine cannot boot
// without.
func (s Settings) Required(name string) bool {
	return slices.ContainsFunc(s.RequiredPackages, func(glob string) bool {
		ok, _ := filepath.Match(glob, name)
		return ok
	})
}

var (
	variable = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// plain is an assignment that means the same without a shell.
	plain = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)=(?:"([^"$` + "`" + `\\]*)"|'([^']*)'|([\w./:,@%+-]*))(?:[ \t]+#.*)?$`)
)

// readLiteral reads a shell file that holds nothing but comments and plain
// assignments, which most settings files are: no bash need start for it. It
// returns nil for any other file.
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
		m := plain.FindStringSubmatch(line)
		if m == nil {
			return nil, nil
		}
		set[m[1]] = m[2] + m[3] + m[4]
	}
	if lines.Err() != nil {
		return nil, nil // a line too long for the scanner, not for bash
	}
	return set, nil
}

// ReadVariables returns what a shell file sets the variables called names to. A
// file that is not there sets none.
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
