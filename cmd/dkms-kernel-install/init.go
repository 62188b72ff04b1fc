// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"dkms-kernel-install/internal/draft"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
)

type nativeInit struct {
	Dir            string   `arg:"" optional:"" default:"." help:"The source tree; by default the current directory."`
	Name           string   `help:"The package's name. Default: the directory's, which may be NAME-VERSION."`
	PackageVersion string   `placeholder:"VERSION" help:"The package's version. Default: that of a directory NAME-VERSION, else MODULE_VERSION of the sources, else the file VERSION."`
	Module         []string `sep:"none" placeholder:"SPEC" help:"A module, as NAME=INSTALL-DIR:SOURCE-DIR:BUILD-DIR:TARGET, as in modlist of Gentoo's eclasses. All but the name may be left out."`
	MakeArg        []string `sep:"none" placeholder:"ARG" help:"An argument for make, as in modargs. $${kernel_source_dir} and $${kernelver} in it stand for those of each kernel."`

	NoKernelrelease bool `help:"Keep KERNELRELEASE from make, for Makefiles that build nothing when it is set."`
	NoAutoinstall   bool `help:"Do not build the package for every kernel that comes."`
	Force           bool `help:"Replace a dkms.conf that is there."`
	Print           bool `help:"Print the dkms.conf, and write nothing."`
}

// Help is what --help of the command says besides its options.
func (nativeInit) Help() string {
	return `Without --module, the modules are those that the tree's Kbuild and Makefile files
name in obj-m. make reads them, in a sandbox, for no kernel in particular: options
of a kernel's configuration are not set. NAME=VALUE in --make-arg sets them. With
--module, INSTALL-DIR is below /extra unless it begins with /kernel, /updates or
/extra; the directories are relative to DIR.

  dkms-kernel-install init
  dkms-kernel-install init --module gamepad=/kernel/drivers/hid:gamepad:gamepad/obj \
      --make-arg 'NIH_SOURCE=${kernel_source_dir}'
  dkms add .`
}

// Run writes the dkms.conf of a source tree. It needs no rights but to write
// there.
func (c *nativeInit) Run(r *nativeRun) error {
	const what = "no dkms.conf was written"
	fail := func(err error, hint string) error {
		f := failure.From(err, what, 1)
		if hint != "" {
			f.Hint = hint
		}
		return f
	}
	top, err := filepath.Abs(c.Dir)
	if err != nil {
		return fail(err, "")
	}
	root, err := os.OpenRoot(top)
	if err != nil {
		return fail(err, "name the directory with the modules' sources")
	}
	defer root.Close()
	file := filepath.Join(top, "dkms.conf")
	if _, err := os.Lstat(file); err == nil && !c.Force && !c.Print {
		return fail(fmt.Errorf("%s is there already", file), "to replace it, add --force; to see what would stand in it, --print")
	}

	conf, err := c.conf(r, root, top)
	if err != nil {
		return err
	}
	if c.Print {
		_, err := fmt.Fprint(r.p.stdout, conf)
		return err
	}
	switch err := files.Write(file, strings.NewReader(conf.String()), 0o644, files.Options{Durable: true, New: !c.Force}); {
	case errors.Is(err, fs.ErrExist):
		return fail(fmt.Errorf("%s is there already", file), "to replace it, add --force")
	case errors.Is(err, fs.ErrPermission):
		return fail(err, "make the directory writable for you, or print the file with --print")
	case err != nil:
		return fail(err, "")
	}
	var names []string
	for _, m := range conf.Modules {
		names = append(names, m.Name)
	}
	r.text.Note(fmt.Sprintf("wrote %s for %s/%s with %s", file, conf.Name, conf.Version, strings.Join(names, ", ")))
	r.text.Note("to register it: dkms add " + c.Dir)
	return nil
}

// conf makes the dkms.conf of the tree at top.
func (c *nativeInit) conf(r *nativeRun, root *os.Root, top string) (*draft.Conf, error) {
	fail := func(what string, err error, hint string) (*draft.Conf, error) {
		return nil, &failure.Failure{What: what, Why: err.Error(), Hint: hint, Status: 1, Err: err}
	}
	for _, a := range c.MakeArg {
		if err := draft.CheckArg(a); err != nil {
			return fail(fmt.Sprintf("--make-arg %q will not do", a), err, "give it as NAME=VALUE; targets go into --module")
		}
	}
	for flag, value := range map[string]string{"--name": c.Name, "--package-version": c.PackageVersion} {
		if value == "" {
			continue
		}
		if err := draft.CheckName(value); err != nil {
			return fail(flag+" will not do", err, "choose another one")
		}
	}

	conf, notes, err := c.modules(root, top)
	for _, n := range notes {
		fmt.Fprintln(r.p.stderr, "note: "+n)
	}
	if err != nil {
		return nil, err
	}
	conf.NoKernelRelease = conf.NoKernelRelease || c.NoKernelrelease
	conf.NoAutoinstall = c.NoAutoinstall

	directory := filepath.Base(top)
	if conf.Name = c.Name; conf.Name == "" {
		if conf.Name, err = draft.Name(directory); err != nil {
			return fail("the package needs a name", err, "give it one with --name NAME")
		}
	}
	if conf.Version = c.PackageVersion; conf.Version == "" {
		if conf.Version, err = draft.Version(root, directory, conf.Name, conf.Modules); err != nil {
			return fail("the package's version is not known", err, "give it with --package-version VERSION")
		}
	}
	return conf, nil
}

// modules finds out what there is to build, and how.
func (c *nativeInit) modules(root *os.Root, top string) (conf *draft.Conf, notes []string, err error) {
	fail := func(what string, err error, hint string) error {
		return &failure.Failure{What: what, Why: err.Error(), Hint: hint, Status: 1, Err: err}
	}
	var specs []draft.Spec
	for _, text := range c.Module {
		spec, err := draft.ParseSpec(text, top)
		if err != nil {
			return nil, nil, fail(fmt.Sprintf("--module %q will not do", text), err, "write it as NAME=INSTALL-DIR:SOURCE-DIR:BUILD-DIR:TARGET")
		}
		specs = append(specs, spec)
	}
	tree, err := draft.Open(root, c.MakeArg)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, nil, fail("the Kbuild files of "+top+" cannot be read", err, "install make")
	case err != nil:
		return nil, nil, fail("the Kbuild files of "+top+" cannot be read", err, "run it as another user than root")
	}
	if specs != nil {
		if conf, err = tree.Plan(specs); err != nil {
			err = fail("--module will not do", err, "correct the SPEC: NAME=INSTALL-DIR:SOURCE-DIR:BUILD-DIR:TARGET")
		}
		return conf, tree.Notes, err
	}
	if conf = tree.Find(); len(conf.Modules) == 0 {
		err = fail("no modules were found in "+top, errors.New("no Kbuild file or Makefile in it names one in obj-m"),
			"name them with --module NAME, or give with --make-arg NAME=VALUE what is not known")
	}
	return conf, tree.Notes, err
}
