package engine

import (
	"cmp"
	"context"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/artifact"
	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/tree"
)

// openBuilds returns the cache of builds, as the settings want it.
func (e *Engine) openBuilds() *artifact.Cache {
	if e.System.CacheDir == "" {
		return nil
	}
	return &artifact.Cache{
		Dir:     filepath.Join(e.System.CacheDir, "builds"),
		MaxSize: e.Settings.BuildCacheSize, MaxAge: e.Settings.BuildCacheAge,
	}
}

// made is what the build of job is made from now, and the key that names it
// completely: "" where nobody can tell.
func (e *Engine) made(ctx context.Context, hashes *fingerprint.Cache, job *build.Job) (b fingerprint.Build, key string, err error) {
	k := tree.Target{Release: job.Kernel.Release, Arch: job.Kernel.Arch}
	b, err = e.fingerprint(ctx, hashes, job.ID, k, job.Source, job.Conf)
	if err != nil || b.Headers == "" {
		return b, "", err
	}
	if strings.ContainsAny(b.Compiler, "$`") {
		return b, "", nil // see unknown
	}
	more, ok, err := e.furtherInputs(ctx, hashes, job, k)
	if err != nil || !ok {
		return b, "", nil // it can be built all the same
	}
	key, err = fingerprint.Key(b, more, job.Effective())
	return b, key, err
}

// tools returns the programs besides the compiler that shape modules for k.
func tools(k *kernel.Kernel) []string {
	list := []string{"ld", "ld.lld", "as", cmp.Or(k.Compiler().Strip, "strip")}
	for option, program := range map[string]string{"CONFIG_DEBUG_INFO_BTF_MODULES": "pahole", "CONFIG_RUST": "rustc"} {
		if k.Option(option) == "y" {
			list = append(list, program)
		}
	}
	return list
}

// furtherInputs names what the build of job reads besides what its fingerprint
// says. It reports false where that cannot be told.
func (e *Engine) furtherInputs(ctx context.Context, hashes *fingerprint.Cache, job *build.Job, k tree.Target) (map[string]string, bool, error) {
	more := map[string]string{"release": k.Release, "arch": k.Arch}
	etc := filepath.Join(e.Settings.EtcDir, job.Name)
	links, ok := fingerprint.Outside(job.Source, etc)
	if !ok {
		return nil, false, nil
	}
	src := job.Kernel.SourceDir
	for name, paths := range map[string][]string{
		"links":  links,
		"config": {job.Kernel.ConfigFile()},
		// Of the headers, what is no header: code that becomes part of every
		// module, and what works on modules.
		"kernel": {
			filepath.Join(src, "scripts/module-common.c"), filepath.Join(src, "vmlinux"),
			filepath.Join(src, "tools/objtool/objtool"), filepath.Join(src, "tools/bpf/resolve_btfids/resolve_btfids"),
		},
	} {
		sum, err := hashes.Source(slices.DeleteFunc(paths, func(path string) bool { return path == "" })...)
		if err != nil {
			return nil, false, err
		}
		more[name] = sum
	}
	for _, program := range tools(job.Kernel) {
		version, err := hashes.Compiler(ctx, program)
		if err != nil {
			version = "unknown" // it may never be asked for more
		}
		more["program "+program] = version
	}
	for _, name := range job.Conf.BuildDepends {
		version := e.Tree.InstalledVersion(name, k)
		if version == "" {
			continue
		}
		id := tree.ID{Name: name, Version: version}
		source, err := filepath.EvalSymlinks(e.Tree.SourceDir(id))
		if err != nil {
			return nil, false, err
		}
		sum, err := hashes.Source(filepath.Join(e.Tree.ModuleDir(id, k), "Module.symvers"), source)
		if err != nil {
			return nil, false, err
		}
		more["needs "+name] = sum
	}
	return more, true, nil
}

// remembering makes job use the cache of builds, and returns what its build is
// recorded as being made from.
func (e *Engine) remembering(ctx context.Context, job *build.Job) (fingerprint.Build, error) {
	b, key, err := e.made(ctx, e.hashes, job)
	job.Cache, job.Key, job.Anew = e.builds, key, e.Options.Force
	job.Changed = func() bool {
		_, now, err := e.made(ctx, e.hashes.Anew(), job)
		return err != nil || now != key
	}
	return b, err
}
