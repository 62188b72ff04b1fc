// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/check"
	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/root"
	"dkms-kernel-install/internal/tree"
)

type nativeCheck struct {
	Headers  []string `sep:" " placeholder:"DIR-OR-PACKAGE" help:"A directory of headers of a kernel, as /lib/modules/RELEASE/build leads to, or /lib/modules/RELEASE; or a deb or rpm of headers; also a pattern. May be given more than once. The default are the kernels that have their headers installed."`
	Packages []string `arg:"" optional:"" name:"package" help:"NAME or NAME/VERSION of a registered package, or a directory with a source, which begins with a dot or a slash. Without one, all packages that want automatic installation."`
	Symbols  bool     `help:"Build nothing: say whether the kernels have the symbols that finished modules want, which are the arguments, files of .ko."`
	JSON     bool     `name:"json" help:"Write JSON, for programs."`
	JUnit    string   `name:"junit" placeholder:"FILE" help:"Also write the results to FILE as CI systems read them, in JUnit's XML."`
	HTML     string   `name:"html" placeholder:"FILE" help:"Also write the results to FILE as a page that stands alone."`
}

// Run builds packages for kernels, and installs nothing.
func (c *nativeCheck) Run(r *nativeRun) error {
	if c.JSON {
		text := report.NewText(r.p.stderr, "", false, false)
		r = &nativeRun{r.p, r.ctx, text, text}
	}
	if c.Symbols {
		return c.symbols(r)
	}
	options := machine.Options{Check: true}
	if unix.Access("/var/cache", unix.W_OK) != nil {
		dir, _ := os.UserCacheDir() // without one, nothing is kept
		options.Cache = filepath.Join(dir, "dkms-kernel-install")
	}
	if r.p.machine.Again {
		return c.build(r, options)
	}
	var layout check.Layout
	var place root.Root
	err := r.with(machine.Options{}, func(e *engine.Engine) (err error) {
		m := e.Machine()
		if layout, err = check.New(r.ctx, m, c.Packages, c.Headers); err != nil {
			return err
		}
		if os.Geteuid() == 0 || layout.Unpacked() {
			place, err = layout.InPlace(m)
		}
		if err != nil {
			layout.Remove()
			return failure.From(err, "cannot lay out the check", 1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer layout.Remove()
	if place.Dir == "" {
		options.DkmsTree, options.InstallTree = layout.Tree(), layout.Modules()
		return c.build(r, options)
	}
	// Where the tree and the kernels seem to be where they are on this machine, what is built is
	// what an installation would build: it gets that from the cache.
	status, err := place.Run(r.p.machine.Args, nil)
	if err != nil {
		return err
	}
	return &engine.DoneError{Status: status}
}

// build builds all that the layout has.
func (c *nativeCheck) build(r *nativeRun, o machine.Options) error {
	for _, file := range []string{c.JUnit, c.HTML} {
		if file == "" {
			continue
		}
		if err := writable(file); err != nil {
			return err
		}
	}
	return r.with(o, func(e *engine.Engine) error {
		m := e.Machine()
		releases, err := m.Kernels.List()
		if err != nil {
			return failure.From(err, "cannot list the kernels", 1)
		}
		var kernels []tree.Target
		for _, release := range releases {
			kernels = append(kernels, m.Target(release))
		}
		packages, err := m.Tree.Read()
		if err != nil {
			return failure.From(err, "cannot read "+m.Tree.Dir, 1)
		}
		var ids []tree.ID
		for _, p := range packages {
			ids = append(ids, p.ID)
		}
		if len(ids) == 0 {
			r.text.Note("no packages want automatic installation: nothing is to check")
			return nil
		}
		results, err := e.Sync(r.ctx, engine.Request{
			Request: plan.Request{Goal: plan.Built, Only: ids, Retry: true}, Kernels: kernels, Execute: execute.Options{},
		})
		if err != nil {
			return err
		}
		return c.report(r, results)
	})
}

// symbols compares finished modules with kernels.
func (c *nativeCheck) symbols(r *nativeRun) error {
	if len(c.Packages) == 0 || c.JSON || c.JUnit != "" || c.HTML != "" {
		return &failure.Failure{What: "--symbols takes files of modules, and no other option than --headers", Hint: "run: dkms-kernel-install check --symbols FILE.ko --headers=DIR", Status: 1}
	}
	return r.with(machine.Options{Check: true}, func(e *engine.Engine) error {
		fits, err := check.Symbols(r.ctx, e.Machine(), c.Packages, c.Headers)
		if err != nil {
			return err
		}
		for _, fit := range fits {
			r.text.Note(fmt.Sprintf("%s for %s: %s", fit.File, fit.Release, fit.Is))
			if fit.Bad {
				err = errSome
			}
		}
		return err
	})
}

// writable returns an error if no file can be made at file.
func writable(file string) error {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file))
	if err != nil {
		return failure.From(err, "cannot write "+file, 1)
	}
	f.Close()
	return os.Remove(f.Name())
}

// report shows the results.
func (c *nativeCheck) report(r *nativeRun, results []execute.Result) error {
	var err error
	matrix := report.NewMatrix(results)
	switch width, color := screen(r.p.raw); {
	case c.JSON:
		err = matrix.JSON(r.p.stdout)
	case terminal(r.p.raw):
		_, err = io.WriteString(r.p.raw, matrix.Table().Text(width, color)) // which is clean but for its colors
	default:
		r.text.Failures(results)
	}
	for file, text := range map[string]func() ([]byte, error){c.JUnit: matrix.JUnit, c.HTML: matrix.HTML} {
		if file == "" || err != nil {
			continue
		}
		var content []byte
		if content, err = text(); err == nil {
			err = files.Write(file, bytes.NewReader(content), 0o644, files.Options{})
		}
	}
	if err != nil {
		return failure.From(err, "cannot write the results", 1)
	}
	if matrix.Failed() {
		return errSome
	}
	return nil
}
