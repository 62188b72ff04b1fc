package engine

import (
	"context"
	"path/filepath"
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
	for _, name := range c.BuildDepends {
		version := e.Tree.InstalledVersion(name, k)
		if version == "" {
			continue
		}
		if b.Depends == nil {
			b.Depends = map[string]string{}
		}
		b.Depends[name] = version
		if on, ok := fingerprint.Read(e.Tree.TargetDir(tree.ID{Name: name, Version: version}, k)); ok {
			b.Depends[name] += " " + on.String()
		}
	}
	return b, nil
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
	was, ok := fingerprint.Read(dir)
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
