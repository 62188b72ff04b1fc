package engine

import (
	"context"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/tree"
)

// fingerprint names what a build of id for k would be made from now, as hashes
// knows it.
func (e *Engine) fingerprint(ctx context.Context, hashes *fingerprint.Cache, id tree.ID, k tree.Target, source string, c conf.Conf) (fingerprint.Build, error) {
	b := fingerprint.Build{Rules: build.Rules}
	kern := e.Kernel(k)
	var err error
	if b.Source, err = hashes.Source(source, filepath.Join(e.Settings.EtcDir, id.Name)); err != nil {
		return b, err
	}
	compiler := kern.Compiler()
	// The overrides as they are written, not what they say: that may change
	// with the kernel that runs or the processors that are there.
	overrides, err := hashes.Source(e.source(id, k).Files(e.Settings)[1:]...)
	if err != nil {
		return b, err
	}
	b.Settings = strings.Join(slices.Concat([]string{overrides}, e.Settings.BuildEnvironment, e.Options.Directives, compiler.Args), " ")
	headers := []string{kern.SourceDir}
	if e.Options.KernelSourceDir == "" {
		headers = append(headers, filepath.Join(kern.Dir, "source"))
	}
	if b.Headers, err = hashes.Headers(headers...); err != nil {
		return b, err
	}
	if compiler.CC == "" {
		compiler.CC = "gcc"
	}
	if b.Compiler, err = hashes.Compiler(ctx, compiler.CC); err != nil {
		return b, err
	}
	for _, program := range namedTools(append([]string{c.Make}, e.Settings.BuildEnvironment...)) {
		version := unknown
		// We are root, and outside of the sandbox: what is not in PATH the build may
		// have left.
		if !strings.Contains(program, "/") {
			if v, err := hashes.Compiler(ctx, program); err == nil {
				version = v
			}
		}
		b.Compiler += "; " + program + ": " + version
	}
	for _, name := range c.BuildDepends {
		version := e.Tree.InstalledVersion(name, k)
		if version == "" {
			continue
		}
		if b.Depends == nil {
			b.Depends = map[string]string{}
		}
		b.Depends[name] = version
		id := tree.ID{Name: name, Version: version}
		modules, err := e.Tree.Modules(id, k)
		if on, ok := fingerprint.Read(e.Tree.TargetDir(id, k), modules); ok && err == nil {
			b.Depends[name] += " " + on.String()
		}
	}
	return b, nil
}

// unknown is the version of a program that does not tell it. As what is a shell's to
// expand it begins with a dollar: a build with such a compiler has no key.
const unknown = "$unknown"

// tool matches what the variables are called that name a program to build with, or what
// such names begin or end with.
var tool = regexp.MustCompile(`^(?:(?:HOST|KERNEL_|TARGET_)?(?:CC|CXX|LD|AS|STRIP|OBJCOPY|RUSTC|PAHOLE)|LLVM|CROSS_COMPILE)$`)

// assigned calls do for each NAME=VALUE in text, a shell command, for which NAME is
// one of [tool]; a quote may begin before or behind the name.
func assigned(text string, do func(name, value string)) {
	for before, after, ok := strings.Cut(text, "="); ok; before, after, ok = strings.Cut(after, "=") {
		start := 1 + strings.LastIndexFunc(before, func(r rune) bool {
			return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
		})
		if !tool.MatchString(before[start:]) {
			continue
		}
		value, end := after, " \t\r\n;&|"
		for _, q := range []string{`"`, "'"} {
			if strings.HasSuffix(before[:start], q) || strings.HasPrefix(after, q) {
				value, end = strings.TrimPrefix(after, q), q
			}
		}
		if i := strings.IndexAny(value, end); i >= 0 {
			value = value[:i]
		}
		do(before[start:], strings.Trim(value, `"'`))
	}
}

// namedTools returns the programs that texts, commands and NAME=VALUE, want used in
// place of the kernel's own, sorted. What is a shell's to expand is among them as it
// is written: there is no such program.
func namedTools(texts []string) (programs []string) {
	for _, text := range texts {
		assigned(text, func(name, value string) {
			switch {
			case value == "":
			case strings.ContainsAny(value, "$`"):
				programs = append(programs, value)
			case name == "CROSS_COMPILE":
				programs = append(programs, value+"gcc", value+"ld")
			case name == "LLVM" && strings.HasSuffix(value, "/"):
				programs = append(programs, value+"clang", value+"ld.lld")
			case name == "LLVM" && strings.HasPrefix(value, "-"):
				programs = append(programs, "clang"+value, "ld.lld"+value)
			case name == "LLVM":
				programs = append(programs, "clang", "ld.lld")
			default:
				for _, word := range strings.Fields(value) { // ccache gcc-14 -m32
					if word[0] != '-' {
						programs = append(programs, word)
					}
				}
			}
		})
	}
	slices.Sort(programs)
	return slices.Compact(programs)
}

// stale says why the build of p for k is not what would be built now; "" where it
// is, or where it cannot be told. A build that somebody else made is taken as
// current, and changes are noticed from then on.
func (e *Engine) stale(ctx context.Context, p tree.Package, k tree.Target, c conf.Conf) string {
	now, err := e.fingerprint(ctx, e.hashes, p.ID, k, p.Source, c)
	if err != nil || now.Headers == "" || now.Compiler == "" {
		return "" // it could not be built
	}
	dir := e.Tree.TargetDir(p.ID, k)
	built, _ := p.Build(k)
	was, ok := fingerprint.Read(dir, built.Modules)
	switch {
	case p.ID == e.upgrading && !ok:
		return "its package is being replaced"
	case p.ID == e.upgrading:
		return was.Differs(fingerprint.Build{
			Source: now.Source, Settings: was.Settings, Headers: was.Headers, Compiler: was.Compiler, Rules: was.Rules,
		})
	case ok:
		return was.Differs(now)
	}
	if !e.Options.DryRun {
		// Without it, the next run tries again.
		_ = fingerprint.Write(dir, now)
	}
	return ""
}
