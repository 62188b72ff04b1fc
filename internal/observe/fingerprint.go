// SPDX-License-Identifier: GPL-2.0-or-later

package observe

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/rules"
	"dkms-kernel-install/internal/tree"
)

// Made is what a build is made from, and Key the one word that names it completely;
// an empty Key is of a build that nobody can name.
type Made struct {
	fingerprint.Fingerprint
	Key string
	*inputs
}

// Inputs finds out what the build of d is made from now.
func Inputs(ctx context.Context, m *machine.Machine, d build.Description) (Made, error) {
	in := newInputs(m, m.Hashes, d)
	return in.made(ctx, in.hashes.EveryHeader)
}

// headersFunc is a way to look at headers.
type headersFunc func(dirs ...string) (fingerprint.Headers, error)

func (in *inputs) made(ctx context.Context, headers headersFunc) (Made, error) {
	f, err := in.fingerprint(ctx, headers)
	if err != nil || f.Headers == "" || strings.ContainsAny(f.Compiler, "$`") { // see unknown
		return Made{f, "", in}, err
	}
	if in.d.Exports, err = in.m.BuildExports(in.d.Kernel.Release); err != nil {
		return Made{f, "", in}, nil // the build says what is wrong with it
	}
	more, ok, err := in.further(ctx)
	if err != nil || !ok {
		return Made{f, "", in}, nil // it can be built all the same
	}
	key, err := fingerprint.Key(f, more, in.d.Effective())
	return Made{f, key, in}, err
}

// meanwhile stands for the hash of what changed during a build. It is no hash, so the
// build is not current.
const meanwhile = "changed during the build"

// Again looks again, once the build is made, at what it was made from. It reports
// whether any of that changed since, also if it is again as it was: then nobody can say
// what the build is made from, and what Again returns is no fingerprint of a current
// build.
func (m Made) Again(ctx context.Context) (f fingerprint.Fingerprint, changed bool) {
	in := newInputs(m.m, m.hashes.Again(), m.d)
	now, err := in.made(ctx, in.hashes.EveryHeader)
	moved := in.hashes.Moved(m.hashes)
	f = m.Fingerprint
	for _, part := range []struct {
		path string
		hash *string
	}{{m.d.Source, &f.Source}, {m.d.Kernel.SourceDir, &f.Headers}} {
		path, errPath := filepath.EvalSymlinks(part.path)
		if errPath != nil || slices.Contains(moved, path) || slices.Contains(moved, part.path) {
			*part.hash = meanwhile
		}
	}
	return f, err != nil || len(moved) > 0 || now.Key != m.Key
}

// Names returns a function that reports whether the key names the content of the file at
// path, which is absolute and without symbolic links.
func (m Made) Names() func(path string) bool {
	named := sync.OnceValue(func() (list []string) {
		for _, path := range m.named {
			if real, err := filepath.EvalSymlinks(path); err == nil {
				list = append(list, real)
			}
		}
		return list
	})
	return func(path string) bool {
		return m.headers.Name(path) || slices.ContainsFunc(named(), func(name string) bool { return files.Below(name, path) })
	}
}

// inputs are those of one build.
type inputs struct {
	m      *machine.Machine
	hashes *fingerprint.Hashes
	d      build.Description
	k      tree.Target

	headers fingerprint.Headers
	named   []string // the paths that source was asked for
}

func newInputs(m *machine.Machine, hashes *fingerprint.Hashes, d build.Description) *inputs {
	return &inputs{m: m, hashes: hashes, d: d, k: tree.Target{Release: d.Kernel.Release, Arch: d.Kernel.Arch}}
}

// source returns the hash of files and directories; see [fingerprint.Hashes.Source].
func (in *inputs) source(paths ...string) (string, error) {
	in.named = append(in.named, paths...)
	return in.hashes.Source(paths...)
}

// fingerprint names what the build would be made from now. It looks at headers by look.
func (in *inputs) fingerprint(ctx context.Context, look headersFunc) (f fingerprint.Fingerprint, err error) {
	f.Rules = rules.Build
	kern, set := in.d.Kernel, in.d.Settings
	if f.Source, err = in.source(in.d.Source, filepath.Join(set.EtcDir, in.d.Name)); err != nil {
		return f, err
	}
	compiler := kern.Compiler()
	// The overrides, and the file of build_environment, as they are written, not what
	// they say: that may change with the kernel that runs or the processors that are
	// there.
	overrides := confSource(in.m, in.d.ID, in.k).Files(set)[1:]
	if set.BuildEnvironmentFile != "" {
		overrides = append(overrides, set.BuildEnvironmentFile)
	}
	written, err := in.source(overrides...)
	if err != nil {
		return f, err
	}
	f.Settings = strings.Join(slices.Concat([]string{written}, set.BuildEnvironment, in.m.Directives, compiler.Args), " ")
	headers := []string{kern.SourceDir}
	if in.m.KernelSourceDir == "" {
		headers = append(headers, kern.Common())
	}
	if in.headers, err = look(headers...); err != nil {
		return f, err
	}
	f.Headers = in.headers.Sum
	if f.Compiler, err = in.hashes.Compiler(ctx, cmp.Or(compiler.CC, "gcc")); err != nil {
		return f, err
	}
	for _, program := range namedTools(append([]string{in.d.Conf.Make}, set.BuildEnvironment...)) {
		version := unknown
		// This is root, and outside of the sandbox: what is not in PATH the build
		// may have left.
		if !strings.Contains(program, "/") {
			if v, err := in.hashes.Compiler(ctx, program); err == nil {
				version = v
			}
		}
		f.Compiler += "; " + program + ": " + version
	}
	for id := range in.depends {
		if f.Depends == nil {
			f.Depends = map[string]string{}
		}
		f.Depends[id.Name] = id.Version
		modules, err := in.m.Tree.Modules(id, in.k)
		if on, ok := fingerprint.Read(in.m.Tree.TargetDir(id, in.k), modules); ok && err == nil {
			f.Depends[id.Name] += " " + on.String()
		}
	}
	return f, nil
}

// depends yields the installed packages that the build depends on.
func (in *inputs) depends(yield func(tree.ID) bool) {
	for _, name := range in.d.Conf.BuildDepends {
		if version := in.m.Tree.InstalledVersion(name, in.k); version != "" && !yield(tree.ID{Name: name, Version: version}) {
			return
		}
	}
}

// further names what the build reads besides what its fingerprint says. It reports
// false if that cannot be told.
func (in *inputs) further(ctx context.Context) (map[string]string, bool, error) {
	more := map[string]string{"release": in.k.Release, "arch": in.k.Arch, "linked headers": in.headers.Linked}
	kern := in.d.Kernel
	links, ok := fingerprint.Outside(in.d.Source, filepath.Join(in.d.Settings.EtcDir, in.d.Name))
	if !ok {
		return nil, false, nil
	}
	src := kern.SourceDir
	for name, paths := range map[string][]string{
		"links":  links,
		"config": {kern.ConfigFile()},
		// Of the headers, what is no header: code that becomes part of every
		// module, and what works on modules.
		"kernel": {
			filepath.Join(src, "scripts/module-common.c"), filepath.Join(src, "vmlinux"),
			filepath.Join(src, "tools/objtool/objtool"), filepath.Join(src, "tools/bpf/resolve_btfids/resolve_btfids"),
		},
	} {
		sum, err := in.source(slices.DeleteFunc(paths, func(path string) bool { return path == "" })...)
		if err != nil {
			return nil, false, err
		}
		more[name] = sum
	}
	programs, named := in.programs()
	for _, program := range programs {
		paths, err := in.hashes.Programs(ctx, program, isCompiler(program))
		// A shell may expand it, the build may find it all the same, or it is not in
		// PATH and not asked what belongs to it.
		if slices.Contains(named, program) && (len(paths) == 0 || strings.ContainsAny(program, "/$`")) {
			return nil, false, nil
		}
		if err == nil && len(paths) > 0 {
			more["program "+program], err = in.source(paths...)
		}
		if err != nil {
			return nil, false, err
		}
	}
	for id := range in.depends {
		source, err := filepath.EvalSymlinks(in.m.Tree.SourceDir(id))
		if err != nil {
			return nil, false, err
		}
		sum, err := in.source(filepath.Join(in.m.Tree.ModuleDir(id, in.k), "Module.symvers"), source)
		if err != nil {
			return nil, false, err
		}
		more["needs "+id.Name] = sum
	}
	return more, true, nil
}

// programs returns the names of the programs that shape the modules, as far as they are
// known: what the kernel's Makefile calls, what the command that builds and the
// environment name, and what this program calls. A word that only looks like the name
// of a program does no harm. Named are those that stand in place of others for sure.
func (in *inputs) programs() (list, named []string) {
	kern, compiler := in.d.Kernel, in.d.Kernel.Compiler()
	list = []string{cmp.Or(compiler.CC, "gcc"), "ld", "ld.lld", "as", "objcopy", cmp.Or(compiler.Strip, "strip"), "make"}
	for option, program := range map[string]string{"CONFIG_DEBUG_INFO_BTF_MODULES": "pahole", "CONFIG_RUST": "rustc"} {
		if kern.Option(option) == "y" {
			list = append(list, program)
		}
	}
	texts := slices.Concat([]string{in.d.Conf.Make}, in.d.Settings.BuildEnvironment, in.d.Exports)
	named = namedTools(texts)
	list = append(list, named...)
	for _, word := range slices.Concat(commandWords(texts...), commandWords(compiler.Args...)) {
		// Programs in the tree are the build's own, and not there yet.
		if !strings.Contains(word, "/") || filepath.IsAbs(word) && !files.Below(in.m.Tree.Dir, filepath.Clean(word)) {
			list = append(list, word)
		}
	}
	slices.Sort(list)
	return slices.Compact(list), named
}

// stale finds out why the build of o for k is not what would be built now, if it is not. A
// build that nobody recorded is current: Unrecorded is then what it is to be compared with
// from now on. Of a replaced package only the source counts, and a build that nobody
// recorded is stale.
func stale(ctx context.Context, s *Snapshot, o *Seen, k tree.Target, replaced bool) {
	m := s.Machine
	in := newInputs(m, m.Hashes, Description(m, *o, k))
	now, err := in.fingerprint(ctx, func(dirs ...string) (fingerprint.Headers, error) {
		sum, err := in.hashes.Headers(dirs...)
		return fingerprint.Headers{Sum: sum}, err
	})
	if err != nil || now.Headers == "" || now.Compiler == "" {
		return // it could not be built
	}
	was, ok := fingerprint.Read(m.Tree.TargetDir(o.ID, k), o.Modules)
	switch {
	case replaced && !ok:
		o.Stale = "its package is being replaced"
	case replaced:
		o.Stale = was.Differs(fingerprint.Fingerprint{
			Source: now.Source, Settings: was.Settings, Headers: was.Headers, Compiler: was.Compiler, Rules: was.Rules,
		})
	case ok:
		o.Stale = was.Differs(now)
		if now.Signer = s.signer(k); o.Stale == "" && was.OtherSigner(now) {
			o.Stale, o.OtherKey = "it is signed with another key", true
		}
		o.SignedAsNow = was.Signer != "" && was.Signer == now.Signer
	default:
		o.Unrecorded = &now
	}
}

// signer returns what [machine.Machine.Signer] does for k. It finds out once.
func (s *Snapshot) signer(k tree.Target) string {
	find, _ := s.signers.LoadOrStore(k, sync.OnceValue(func() string { return s.Signer(s.Kernel(k)) }))
	return find.(func() string)()
}
