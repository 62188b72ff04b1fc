// SPDX-License-Identifier: GPL-2.0-or-later

// Package engine is the front of the program that its faces see: each method takes
// the lock of the tree, has the phases of a run follow each other, and returns what
// became of it. A run observes what is there, plans what to do, executes the plan,
// and does what the changes entail.
package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/packages"
	"dkms-kernel-install/internal/reload"
	"dkms-kernel-install/internal/scripts"
	"dkms-kernel-install/internal/tree"
)

// Events hears of the work as it goes on. Its methods may be called by several
// goroutines at once.
type Events interface {
	execute.Events
	// Note tells a line about the run as a whole.
	Note(line string)
}

// Engine works on one machine. Close it.
type Engine struct {
	m      *machine.Machine
	events Events
}

// Open reads the settings of a machine.
func Open(o machine.Options, events Events) (*Engine, error) {
	m, err := machine.Open(o, events.Note)
	if err != nil {
		return nil, err
	}
	return &Engine{m, events}, nil
}

// Close ends the programs that the engine keeps running.
func (e *Engine) Close() { e.m.Close() }

// Machine returns what the engine works on. It is not to be changed.
func (e *Engine) Machine() *machine.Machine { return e.m }

// Status returns the state of every package and build that the functions accept.
func (e *Engine) Status(matchPackage func(tree.ID) bool, matchKernel func(tree.Target) bool) ([]observe.Status, error) {
	return observe.StatusOf(e.m, matchPackage, matchKernel)
}

// FailedBuilds returns the failed builds that automatic runs do not try again, for
// the kernels that match accepts.
func (e *Engine) FailedBuilds(match func(tree.Target) bool) []observe.FailedBuild {
	return observe.FailedBuilds(e.m, match)
}

// GenerateKey makes the key and certificate that modules for k are signed with, if
// they are missing and are ours to make, and reports whether it did.
func (e *Engine) GenerateKey(ctx context.Context, k tree.Target) (key machine.Key, made bool, err error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return key, false, err
	}
	defer lock.Release()
	if key, err = e.m.SigningKey(e.m.Kernel(k)); err != nil {
		return key, false, failure.From(err, "cannot make a signing key", failure.StatusBadConf)
	}
	if !key.Generate || key.There() {
		return key, false, nil
	}
	lock.Clean = false
	if err := kmod.GenerateKey(key.File, key.Cert); err != nil {
		return key, false, failure.From(err, "cannot make a signing key", failure.StatusNoPerm)
	}
	return key, true, nil
}

// RotateKey makes a new key and certificate in place of those that modules for k are signed
// with, whose files get [machine.OldKey] at the end of their names. It returns an error if
// they are not ours to make.
func (e *Engine) RotateKey(ctx context.Context, k tree.Target) (key machine.Key, err error) {
	lock, err := e.lock(ctx)
	if err != nil {
		return key, err
	}
	defer lock.Release()
	const what = "cannot exchange the signing key"
	if key, err = e.m.SigningKey(e.m.Kernel(k)); err != nil {
		return key, failure.From(err, what, failure.StatusBadConf)
	}
	if !key.Generate {
		return key, &failure.Failure{What: what, Why: key.File + " is not made by this program", Status: failure.StatusBadConf,
			Hint: "put a new key and certificate in its place, enrol the certificate, then run: dkms-kernel-install sync"}
	}
	lock.Clean = false
	for _, file := range []string{key.Cert, key.File} { // a certificate alone signs nothing
		if err := os.Rename(file, file+machine.OldKey); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return key, failure.From(err, what, failure.StatusNoPerm)
		}
	}
	if err := kmod.GenerateKey(key.File, key.Cert); err != nil {
		return key, failure.From(err, what, failure.StatusNoPerm)
	}
	return key, nil
}

// lock takes the lock of the tree, tells whom it waits for, and runs the scripts that a
// killed run owes.
func (e *Engine) lock(ctx context.Context) (*tree.Lock, error) {
	for _, needed := range []struct{ path, name, hint string }{
		{"/proc/self", "/proc", "mount -t proc proc /proc"},
		{"/dev/null", "/dev/null", "mknod -m 666 /dev/null c 1 3"},
	} {
		if !files.Exists(needed.path) {
			return nil, &failure.Failure{What: "cannot work here", Why: "there is no " + needed.name + ", which builds and their confinement need", Status: failure.StatusNoPerm,
				Hint: "run: " + needed.hint}
		}
	}
	lock, err := e.m.Tree.Lock(ctx, func(holder string) {
		e.m.Note(fmt.Sprintf("waiting for %s, which is working on %s", holder, e.m.Tree.Dir))
	})
	if err == nil {
		if !lock.Clean {
			scripts.RunOwed(ctx, e.m)
		}
		return lock, nil
	}
	if errors.Is(err, tree.ErrHeldAbove) {
		return nil, &failure.Failure{What: "cannot change " + e.m.Tree.Dir, Why: "a script runs this, and a run of dkms waits for the script", Status: failure.StatusNoPerm,
			Hint: "leave it to that run, or do it afterwards: post_transaction in framework.conf names a command for that"}
	}
	status := failure.StatusNoPerm
	if errors.Is(err, fs.ErrPermission) {
		status = failure.StatusUsage
	}
	return nil, failure.From(err, "cannot change "+e.m.Tree.Dir, status)
}

// heal mends what killed runs left of packages, of each as far as it can: what is
// wrong with one must not keep another from being installed or removed. If the last
// run left word that there is nothing, it does not look for it again.
func (e *Engine) heal(lock *tree.Lock, all []tree.Package, kernels []tree.Target) {
	m := e.m
	var err error
	if !lock.Clean {
		files.Clean(m.CacheDir())
		if err = m.Tree.HealTop(); errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	for _, p := range all {
		if !lock.Clean && !p.Kept {
			err = errors.Join(err, m.Tree.Heal(p.ID))
		}
		for _, k := range kernels {
			if p.Originals && files.Exists(m.Tree.OriginalDir(p.Name, k)) {
				err = errors.Join(err, m.Modules(k).Heal(p.Name, observe.HasInstalled(all, p.Name, k)))
			}
		}
	}
	lock.Clean = err == nil && (lock.Clean || packages.ForgetUpgrades(m) && !scripts.Owed(m))
	if err != nil {
		m.Note("warning: cannot clean up after a run that was killed: " + err.Error())
	}
}

// failed makes results of what has failed that concerns kernels as a whole.
func (e *Engine) failed(failures []follow.Failed) (results []execute.Result) {
	for _, f := range failures {
		r := execute.Result{Kernel: f.Kernel, Outcome: execute.Failed, Failure: f.Failure}
		e.events.Done(r)
		results = append(results, r)
	}
	return results
}

// conclude does what comes after a run, whose results are all, without the lock of the tree:
// it runs post_transaction for the kernels of rest that were changed, and tells of failures, and of
// modules of which another build is loaded than was placed. The machine is not to restart into
// a kernel that lacks what is required.
func (e *Engine) conclude(ctx context.Context, results []execute.Result, rest []follow.Rest) {
	follow.Transaction(ctx, e.m, rest, func() (func(), error) { return e.relock(ctx) })
	for _, r := range results {
		if r.Kernel != e.m.Target(e.m.Running) || len(r.Placed) == 0 {
			continue
		}
		if names := reload.Outdated(e.m, r.Placed); len(names) > 0 {
			e.m.Note(fmt.Sprintf("%s for %s: another build is loaded of %s; run: dkms-kernel-install reload %s, or restart", r.ID, r.Kernel.Release, strings.Join(names, ", "), r.Name))
		}
	}
	e.tell(ctx, results)
	if err := e.holdRestart(ctx); err != nil {
		e.m.Note("warning: " + err.Error())
	}
}
