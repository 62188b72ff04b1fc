// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/scripts"
	"dkms-kernel-install/internal/tree"
)

// work is one item of a plan on its way.
type work struct {
	*run
	k       tree.Target
	kern    *kernel.Kernel
	item    plan.Item
	placing *sync.Mutex
	world   *sandbox.World // of its build
	task    int            // its place in the schedule
	jobs    jobs           // of its build
}

// do does what the plan says of the item. Before are the results of the same plan,
// of which those that the item needs are final. It calls letGo when there is nothing
// more to build.
func (w *work) do(ctx context.Context, before []Result, letGo func()) (r Result) {
	start := time.Now()
	current := w.options.Follow.DryRun && w.item.Verdict == plan.Current // until the newer one is done
	if w.item.Spare && !current && (before[w.item.Newer].Outcome != Failed || ctx.Err() != nil) {
		return Result{Outcome: spared}
	}
	r = Result{ID: w.item.ID, Kernel: w.k, Waited: w.item.Waited, Instead: w.item.Instead}
	defer func() { w.events.Done(r) }()
	switch w.item.Verdict {
	case plan.Current:
		r.Outcome, r.Why = Current, w.item.Why
		return r
	case plan.Skip:
		r.Outcome, r.Why, r.Deferred = Skipped, w.item.Why, w.item.Deferred
		return r
	case plan.Fail:
		r.Outcome, r.Failure = Failed, w.item.Failure
		return r
	}
	if f := w.blocked(ctx, before); f != nil {
		r.Outcome, r.Failure = Failed, f
		return r
	}
	if w.options.Follow.DryRun {
		return w.planned(r)
	}
	w.events.Start(w.item.ID, w.k, w.item.Build)
	modules := w.item.Modules
	if w.item.Build {
		made, f := w.build(ctx, &r)
		if f != nil {
			r.Outcome, r.Failure, r.Took = Failed, f, time.Since(start)
			return r
		}
		letGo()
		modules = made
	}
	if w.item.Place {
		if f := w.place(ctx, modules, &r); f != nil {
			r.Outcome, r.Failure = Failed, f
		}
	}
	r.Took = time.Since(start)
	return r
}

// blocked returns why the work cannot begin; nil if it can.
func (w *work) blocked(ctx context.Context, before []Result) *failure.Failure {
	for _, n := range w.item.Needs {
		if need := before[n]; w.item.Build && need.Outcome == Failed && !w.options.Force && !w.served(need.Name, before) {
			return &failure.Failure{What: "dependency missing", Why: fmt.Sprintf("it needs %s, which failed", need.ID),
				Hint: "first solve what is wrong with " + need.Name, Status: failure.StatusDepends}
		}
	}
	if ctx.Err() != nil {
		return failure.From(context.Cause(ctx), "not started", failure.StatusMake)
	}
	return nil
}

// served reports whether a version of the package called name, which the item needs, is
// there.
func (w *work) served(name string, before []Result) bool {
	return slices.ContainsFunc(w.item.Needs, func(n int) bool {
		return before[n].Name == name && (before[n].Outcome == Done || before[n].Outcome == Current)
	})
}

// planned completes the result of a dry run.
func (w *work) planned(r Result) Result {
	r.Outcome, r.Why, r.Built = Planned, w.item.Why, w.item.Build
	r.New = w.m.Tree.InstalledVersion(w.item.Name, w.k) == ""
	for _, m := range w.item.Conf.Modules {
		r.Modules = append(r.Modules, m.DestName)
	}
	return r
}

// build builds the package, and returns the file names of its modules in the tree.
func (w *work) build(ctx context.Context, r *Result) ([]string, *failure.Failure) {
	d := observe.Description(w.m, w.item.Seen, w.k)
	var err error
	if d.Exports, err = w.m.BuildExports(w.k.Release); err != nil {
		return nil, &failure.Failure{What: "build failed", Why: failure.Line(err.Error()), Status: failure.StatusMake, Err: err,
			Hint: "correct build_environment in framework.conf, or the file that it names"}
	}
	d.Jobs, d.Jobserver, d.DependsOn = w.jobs.number, w.jobs.server, w.dependsOn()
	d.Compression = w.kern.Compression()
	d.Level = w.levels[d.Compression]
	d.Sign = w.signers.of(w.kern)
	d.MustSign = w.m.Settings.Required(d.Name) && w.m.EnforcesSignatures()
	d.World, d.Timeout, d.Several = w.world, w.m.Settings.BuildTimeout, w.several
	in, errIn := observe.Inputs(ctx, w.m, d)
	d.Store, d.Key, d.Resign = w.m.Store, in.Key, w.item.Resign
	d.Again = w.options.Force && !w.item.Resign
	again := sync.OnceValues(func() (fingerprint.Fingerprint, bool) { return in.Again(ctx) })
	d.Names, d.Changed = in.Names(), func() bool { _, changed := again(); return changed }
	d.Record = func(at string, made build.Result) error {
		if errIn != nil {
			return errIn
		}
		from := in.Fingerprint
		if !made.Stored {
			from, _ = again()
		}
		if d.Sign != nil && made.Unsigned == nil {
			from.Signer = w.m.Signer(w.kern)
		}
		return fingerprint.Write(w.m.Tree.TargetDir(d.ID, w.k), at, from, made.Modules, w.m.Tree.Image)
	}
	start := time.Now()
	made, err := w.run.build(ctx, d)
	w.remember(d, err)
	if err != nil {
		return nil, failure.From(err, "build failed", failure.StatusMake)
	}
	w.costs.note(d.Name, made.Used, time.Since(start))
	if w.m.Tree.Image {
		_ = files.RemoveAll(filepath.Join(w.m.Tree.TargetDir(d.ID, w.k), "log")) // it says when it was built
	}
	if err := made.Unrecorded; err != nil {
		r.Warnings = append(r.Warnings, "cannot record what it was built from: "+err.Error())
	}
	if err := made.StoreErr; err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
		r.Warnings = append(r.Warnings, "the cache of builds cannot be used: "+err.Error())
	}
	if err := made.Unsigned; err != nil {
		r.Warnings = append(r.Warnings, fmt.Sprintf("NOT SIGNED: %s; a kernel that enforces signatures does not load it: "+
			"correct %s in framework.conf, then run: dkms unbuild %s -k %s && dkms install %[3]s -k %[4]s",
			err, build.SignSettings, d.ID, w.k.Release))
	}
	if made.Unkept != nil {
		r.Unkept = made.Unkept.Error()
	}
	r.Built, r.Stored, r.Resigned = true, made.Stored, made.Resigned
	if len(made.Modules) > 0 {
		r.Signed, r.Compression = d.Sign != nil && made.Unsigned == nil, d.Compression
	}
	return made.Modules, nil
}

// dependsOn returns the versions of the packages that the build is made against. Not all
// that were to be installed before it need be.
func (w *work) dependsOn() map[string]string {
	versions := maps.Clone(w.item.DependsOn)
	for name := range versions {
		if installed := w.m.Tree.InstalledVersion(name, w.k); installed != "" {
			versions[name] = tree.ID{Version: installed}.Unkept().Version
		}
	}
	return versions
}

// build builds d, and once more if what was short then may have been taken by another
// build: without others at the same time.
func (r *run) build(ctx context.Context, d build.Description) (build.Result, error) {
	r.alone.RLock()
	made, err := build.Run(ctx, d)
	r.alone.RUnlock()
	var limit *sandbox.LimitError
	if !errors.As(err, &limit) || !limit.Again {
		return made, err
	}
	r.again.Do(func() {
		r.m.Note("memory or disk ran short, and what builds are seen to hold does not explain it: those that ran are made again, one at a time")
	})
	r.alone.Lock()
	defer r.alone.Unlock()
	return build.Run(ctx, d)
}

// remember keeps that the build of d failed with err, or that it did not.
func (w *work) remember(d build.Description, err error) {
	key := d.Key
	var f *failure.Failure
	if errors.As(err, &f) && f.Lasting && key != "" && d.Changed() {
		key = "" // nobody can say what has failed
	}
	if w.m.Check && err != nil {
		return
	}
	observe.RememberOutcome(w.m, d.ID, w.k, key, err)
}

// place puts the modules in the files of these names into the kernel's directory.
func (w *work) place(ctx context.Context, modules []string, r *Result) *failure.Failure {
	w.placing.Lock()
	defer w.placing.Unlock()
	m, item := w.m, w.item
	// With headers from elsewhere, the kernel may come later.
	if _, err := os.Stat(w.kern.Dir); errors.Is(err, fs.ErrNotExist) && !w.kern.HasHeaders() {
		return &failure.Failure{What: "install failed", Why: w.kern.Dir + " does not exist", Status: failure.StatusInstall,
			Hint: "install the kernel " + w.k.Release + ", or check what -k says"}
	}
	env, source := observe.Environment(m, item.ID, w.k), m.Tree.SourceDir(item.ID)
	if err := env.Script(ctx, source, "PRE_INSTALL", item.Conf.PreInstall); err != nil && w.options.Force {
		r.Warnings = append(r.Warnings, err.Error())
	} else if err != nil {
		return failure.From(err, "PRE_INSTALL failed", failure.StatusPreInstall)
	}
	r.New = m.Tree.InstalledVersion(item.Name, w.k) == ""
	script := scripts.Script{ID: item.ID, Kernel: w.k, Directive: "POST_INSTALL", Value: item.Conf.PostInstall}
	err := follow.Foresee(m, w.k, w.options.Follow, w.due(modules, r.New))
	if err == nil {
		err = script.Owe(m)
	}
	if err != nil {
		return failure.From(err, "cannot note what has to follow", failure.StatusInstall)
	}
	item.Modules = modules
	p := observe.Placement(m, w.packages, observe.Installed(w.packages, w.k), w.k, item.Seen)
	p.Force, p.Explicit = w.options.Force || w.options.ForceVersion, item.Explicit
	p.KeepNewer = w.options.KeepNewer && item.Explicit
	res, err := m.Modules(w.k).Install(p)
	r.Placed, r.Kept, r.Removed, r.NoWeakModules = res.Placed, res.Kept, res.Removed, item.Conf.NoWeakModules
	if err != nil {
		return failure.From(err, "install failed", failure.StatusInstall)
	}
	if len(res.Placed) == 0 && len(res.Kept) > 0 {
		script.Forget(m)
		r.Outcome, r.Why = Skipped, "the kernel has it: "+strings.Join(res.Kept, ", ")
		return nil
	}
	for _, o := range w.packages {
		if o.Kept && o.Name == item.Name {
			// What is left, the next run removes.
			_ = m.Tree.RemoveBuild(o.ID, w.k)
		}
	}
	r.Installed = true
	if err := script.Run(ctx, m); err != nil {
		r.warn(err.Error())
	}
	if item.Conf.PostInstall != "" {
		if err := m.Modules(w.k).Record(p, res.Placed); err != nil {
			r.warn("cannot record what POST_INSTALL changed: " + err.Error())
		}
	}
	return nil
}

// due returns what is due once the package, whose modules are in the files of these
// names, takes the place of whichever version is there.
func (w *work) due(modules []string, fresh bool) follow.Due {
	due := follow.Due{Modules: follow.ModuleNames(modules...)}
	for _, p := range w.packages {
		if p.Name == w.item.Name {
			b, _ := p.Build(w.k)
			due.Modules = append(due.Modules, follow.ModuleNames(b.Modules...)...)
		}
	}
	if fresh {
		due.Fresh = w.item.ID.String()
	}
	return due
}
