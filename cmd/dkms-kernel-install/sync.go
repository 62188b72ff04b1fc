package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/tree"
)

type nativeSync struct {
	Kernel      []string `sep:"none" placeholder:"KERNEL" help:"Only this kernel; may be repeated."`
	Package     []string `sep:"none" placeholder:"GLOB" help:"Only packages of that name, and those that depend on them or that they depend on; may be repeated."`
	OnlyMissing bool     `help:"Leave builds alone that are only out of date."`
	NoInitramfs bool     `help:"Leave each initramfs as it is."`
	DryRun      bool     `help:"Say what would be done, and do nothing."`
}

// Run brings packages and kernels together.
func (c *nativeSync) Run(r *nativeRun) error {
	for _, glob := range c.Package {
		if _, err := filepath.Match(glob, ""); err != nil {
			return &failure.Failure{What: fmt.Sprintf("--package: %q is not a glob pattern", glob), Hint: "run: dkms-kernel-install sync --help", Status: 1}
		}
	}
	return r.with(engine.Options{DryRun: c.DryRun}, func(e *engine.Engine) error {
		request := engine.SyncRequest{KeepStale: c.OnlyMissing, NoInitramfs: c.NoInitramfs}
		for _, release := range c.Kernel {
			if err := knownKernel(e, release); err != nil {
				return err
			}
		}
		if request.Kernels = targets(e, c.Kernel); len(c.Kernel) == 0 {
			ks, err := withHeaders(e)
			if err != nil {
				return err
			}
			request.Kernels = ks
		}
		if err := registered(e, c.Package); err != nil {
			return err
		}
		if len(c.Package) > 0 {
			request.Match = func(name string) bool {
				return slices.ContainsFunc(c.Package, func(glob string) bool { return matches(glob, name) })
			}
		}
		results, err := e.Sync(r.ctx, request)
		return r.told(results, err)
	})
}

// matches says whether name matches a glob that is known to be one.
func matches(glob, name string) bool {
	ok, _ := filepath.Match(glob, name)
	return ok
}

// registered returns an error where a pattern is that of no registered package: it
// would do nothing, and not say so.
func registered(e *engine.Engine, globs []string) error {
	if len(globs) == 0 {
		return nil
	}
	packages, err := e.Tree.Read()
	if err != nil {
		return failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	for _, glob := range globs {
		if !slices.ContainsFunc(packages, func(p tree.Package) bool { return matches(glob, p.Name) }) {
			return &failure.Failure{What: fmt.Sprintf("--package: no package called %q is registered", glob), Hint: "dkms-kernel-install status shows those that are", Status: 1}
		}
	}
	return nil
}

// nativePostinst are the arguments of common.postinst, which packages call after
// their source has been unpacked.
type nativePostinst struct {
	Name       string `arg:"" help:"The package's name."`
	Version    string `arg:"" help:"Its version."`
	Tarballs   string `arg:"" optional:"" help:"Folder that may hold NAME-VERSION.dkms.tar.gz."`
	Arch       string `arg:"" optional:"" help:"Architecture. Default: this machine's."`
	OldVersion string `arg:"" optional:"" help:"The version that it was upgraded from."`
}

// Run registers the package and syncs it.
func (c *nativePostinst) Run(r *nativeRun) error {
	return r.with(engine.Options{}, func(e *engine.Engine) error {
		if file := e.Disabled(); file != "" {
			r.text.Note(file + " exists: nothing is done automatically")
			return nil
		}
		id := tree.ID{Name: c.Name, Version: c.Version}
		if c.Arch != "" {
			e.Arch = c.Arch
		}
		if err := c.register(r, e, id); err != nil {
			return err
		}
		conf, err := e.Conf(id, e.Target(e.Running))
		if err == nil && !conf.Autoinstall {
			r.text.Note(fmt.Sprintf("%s is registered; it does not ask to be built (AUTOINSTALL)", id))
			return nil
		}
		ks, err := c.kernels(r, e)
		if err != nil || len(ks) == 0 {
			return err
		}
		results, err := e.Sync(r.ctx, engine.SyncRequest{Kernels: ks, Only: []tree.ID{id}, CarriedOnly: true})
		return r.told(results, err)
	})
}

// register makes the package known, from an archive where there is one.
func (c *nativePostinst) register(r *nativeRun, e *engine.Engine, id tree.ID) error {
	unlock, err := e.Lock(r.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	k := e.Target(e.Running)
	archive := filepath.Join(c.Tarballs, c.Name+"-"+c.Version+".dkms.tar.gz")
	if _, err := os.Stat(archive); c.Tarballs != "" && err == nil {
		_, err := e.LoadArchive(r.ctx, archive, k, engine.LoadOptions{Force: true, Want: id})
		return err
	}
	err = e.Register(r.ctx, id, k)
	if f := (*failure.Failure)(nil); errors.As(err, &f) && f.Status == failure.StatusAlready {
		return nil // what is new in its source is found by what its builds were made from
	}
	return err
}

// kernels returns the kernels that the package is built for: all, or the running
// and the newest, as autoinstall_all_kernels says.
func (c *nativePostinst) kernels(r *nativeRun, e *engine.Engine) ([]tree.Target, error) {
	all, err := kernel.List(e.Settings.InstallTree)
	if err != nil {
		return nil, failure.From(err, "cannot list the kernels", 1)
	}
	with, err := e.WithHeaders()
	if err != nil {
		return nil, err
	}
	take := func(release string) bool { return true }
	if !e.Settings.AutoinstallAllKernels && len(all) > 0 {
		newest := all[len(all)-1]
		switch running := slices.Contains(all, e.Running); {
		case running:
			take = func(release string) bool { return release == e.Running || release == newest }
		case c.OldVersion != "":
			// A chroot, whose kernels are not the one that runs.
			take = func(release string) bool { return release == newest }
		}
	}
	ks := slices.DeleteFunc(with, func(k tree.Target) bool { return !take(k.Release) })
	for _, release := range all {
		if take(release) && !slices.Contains(ks, e.Target(release)) {
			r.text.Note(fmt.Sprintf("%s/%s is not built for %s: its headers are not installed; %s",
				c.Name, c.Version, release, e.Distro.HeadersHint(filepath.Join(e.Settings.InstallTree, release))))
		}
	}
	return ks, nil
}
