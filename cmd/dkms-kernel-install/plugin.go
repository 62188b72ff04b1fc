// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"

	"dkms-kernel-install/internal/engine"
	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/report"
	"dkms-kernel-install/internal/tree"
)

// plugin is the face for kernel-install(8), which calls
//
//	40-dkms.install add    K ENTRY-DIR KERNEL-IMAGE [INITRD...]
//	40-dkms.install remove K ENTRY-DIR
//
// Where the layout of boot entries is that of ostree, a plugin at 05 makes the initramfs and
// ends the run. There 04-dkms.install, a link to the same program, does all of it.
//
// Any status but 0 (and 77) ends an add before the initramfs is made. So failures are
// reported prominently and the status is 0. It is 1 only if an add was interrupted, or
// if it failed to install a package that the administrator named as required.
func (p *program) plugin(ctx context.Context, name string, args []string) (status int) {
	text := report.NewText(p.stdout, "dkms: ", os.Getenv("KERNEL_INSTALL_VERBOSE") == "1", false)
	if len(args) < 1 || args[0] != "add" && args[0] != "remove" {
		return 0 // a command for other plugins
	}
	early := name == earlyPlugin
	if early && os.Getenv("KERNEL_INSTALL_LAYOUT") != "ostree" {
		return 0
	}
	if len(args) < 2 || args[1] == "" || strings.ContainsAny(args[1], "/\x00") || args[1] == "." || args[1] == ".." {
		text.Failure("called without a kernel release", &failure.Failure{Hint: "this is a plugin of kernel-install: run kernel-install " + args[0]})
		return 0
	}
	c := pluginRun{p: p, ctx: ctx, text: text, release: args[1], depmodIsNext: !early && !p.machine.Elsewhere}
	if dir := os.Getenv("KERNEL_INSTALL_ROOT"); dir != "" && dir != "/" && !p.machine.Elsewhere {
		status, err := p.in(dir, name, args[0], args[1])
		if err != nil {
			c.fail(err)
			return 0
		}
		return status
	}
	defer func() {
		if r := recover(); r != nil {
			// A bug in this program must not cost the user a kernel.
			fmt.Fprintf(p.stderr, "dkms: internal error, modules for %s may be missing: %v\n%s", c.release, r, debug.Stack())
			status = 0
		}
	}()
	timeline := report.NewTimeline(text)
	defer p.progress.Show(ctx, timeline)()
	e, err := p.open(machine.Options{}, timeline)
	if err != nil {
		c.fail(err)
		if args[0] == "add" && ctx.Err() != nil {
			return 1
		}
		return 0
	}
	defer e.Close()
	if args[0] == "remove" {
		c.remove(e)
		return 0 // if it failed, a boot entry without a kernel would stay
	}
	return c.add(e)
}

// pluginRun is one call of the plugin.
type pluginRun struct {
	p       *program
	ctx     context.Context
	text    *report.Text
	release string
	// depmodIsNext reports whether kernel-install's own plugin runs depmod afterwards.
	depmodIsNext bool
}

// earlyPlugin is the name of the plugin that does its work before most others.
const earlyPlugin = "04-dkms.install"

// fail reports err, because of which nothing was done.
func (c *pluginRun) fail(err error) {
	f := failure.From(err, "dkms did not run", 0)
	c.text.Failure(fmt.Sprintf("%s; modules for %s may be missing", f.What, c.release), f)
}

// remove removes what was built for the kernel, unless the kernel stays and only one of
// its boot entries goes.
func (c *pluginRun) remove(e *engine.Engine) {
	m := e.Machine()
	if os.Getenv("KERNEL_INSTALL_BOOT_ENTRY_TYPE") != "" && m.HasKernelFiles(m.Target(c.release)) {
		c.text.Debug("one of several boot entries of " + c.release + " is removed, its modules stay")
		return
	}
	if _, err := os.Stat(m.Tree.Dir); errors.Is(err, fs.ErrNotExist) {
		return
	}
	results, err := e.RemoveKernel(c.ctx, c.release, follow.Policy{DepmodIsNext: c.depmodIsNext})
	c.text.Failures(results)
	if err != nil {
		c.fail(err)
	}
}

// add installs for the kernel the packages that want automatic installation, and returns
// the exit status.
func (c *pluginRun) add(e *engine.Engine) (status int) {
	m := e.Machine()
	if file := m.Disabled(); file != "" {
		c.text.Debug(file + " exists: nothing is built automatically")
		return 0
	}
	if _, err := os.Stat(m.Tree.Dir); errors.Is(err, fs.ErrNotExist) {
		c.text.Debug("no packages are registered")
		return 0
	}
	results, err := e.Sync(c.ctx, engine.Request{
		Request: plan.Request{Goal: plan.Installed, Renew: true},
		Kernels: []tree.Target{m.Target(c.release)}, Execute: execute.Options{Follow: follow.Policy{DepmodIsNext: c.depmodIsNext}},
	})
	c.text.Failures(results)
	var done *engine.DoneError
	if errors.As(err, &done) {
		return done.Status
	}
	if err != nil {
		c.fail(err)
		if len(m.Settings.RequiredPackages) > 0 || c.ctx.Err() != nil {
			return 1
		}
		return 0
	}
	if c.ctx.Err() != nil {
		return 1
	}
	for _, r := range e.Lacking(results) {
		c.text.Note(fmt.Sprintf("%s is required (required_packages in framework.conf): kernel %s gets no boot entry", r.ID, c.release))
		status = 1
	}
	return status
}
