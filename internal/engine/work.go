package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"dkms-kernel-install/internal/atomicfile"
	"dkms-kernel-install/internal/build"
	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/kernel"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/sandbox"
	"dkms-kernel-install/internal/tree"
)

// Work takes packages as far as the request says, for each of the kernels. The
// results are in the order of the kernels, then of the plan; a package that
// failed is a result like any other, and an error means that nothing was done.
// Depmod runs for a kernel whose modules changed, unless depmodFollows, where it
// is not nil, says that somebody else is about to. The caller holds the lock.
func (e *Engine) Work(ctx context.Context, kernels []tree.Target, r plan.Request, depmodFollows func(tree.Target) bool) ([]Result, error) {
	look := kernels
	if e.weakCommand(weakAdd, "") != nil {
		look = nil // builds for other kernels may serve these
	}
	packages, err := e.Tree.Read(look...)
	if err != nil {
		return nil, failure.From(err, "cannot read "+e.Tree.Dir, failure.StatusNoPerm)
	}
	if !e.Options.DryRun {
		e.heal(packages, kernels)
	}
	e.idle = e.healed && !e.Options.DryRun
	var results []Result
	var tasks []task
	var building []*work
	for _, k := range kernels {
		seen, items := e.plan(ctx, k, packages, r)
		e.checkHeaders(k, items)
		first := len(results)
		var placing sync.Mutex // one package at a time in the kernel's folder
		results = append(results, make([]Result, len(items))...)
		for i, item := range items {
			w := &work{e: e, k: k, item: item, packages: packages, placing: &placing, kern: e.Kernel(k), several: len(kernels) > 1}
			w.dependsOn = dependencies(item, items, seen)
			t := task{run: func(letGo func()) { results[first+i] = w.do(ctx, results[first:], letGo) }}
			if item.Verdict == plan.Do {
				e.idle, e.healed = false, false
				if item.Build && !e.Options.DryRun {
					w.world = e.world(item.ID, k)
				}
				if w.world == nil || !w.world.Features.Mounts {
					t.key = item.ID.String() // one build folder, one build
				}
				for _, n := range item.Needs {
					t.needs = append(t.needs, first+n)
				}
				if item.Build && !e.Options.DryRun {
					w.task = len(tasks)
					building = append(building, w)
				}
			}
			tasks = append(tasks, t)
		}
	}
	m := means{memory: machine.Memory}
	if len(building) > 0 {
		if m.server, err = e.share(ctx, building, tasks); err != nil {
			return nil, failure.From(err, "cannot start builds", failure.StatusMake)
		}
		if m.server != nil {
			defer m.server.Close()
		}
	}
	schedule(ctx, tasks, m)
	if len(building) > 0 {
		if err := e.costs().save(packages); err != nil && !errors.Is(err, fs.ErrPermission) {
			e.Events.Note("cannot keep what builds cost: " + err.Error())
		}
		e.builds.Tidy()
	}
	results = append(results, e.settle(ctx, kernels, results, depmodFollows)...)
	if err := e.hashes.Save(); err != nil && !errors.Is(err, fs.ErrPermission) {
		e.Events.Note("cannot keep the cache of hashes: " + err.Error())
	}
	return results, nil
}

// plan looks at the packages from kernel k and plans the work. For automatic work
// it first asks the cache, and believes it when it says that nothing is to do.
func (e *Engine) plan(ctx context.Context, k tree.Target, packages []tree.Package, r plan.Request) ([]plan.Package, []plan.Item) {
	if r.Only != nil || r.Force {
		seen := e.observe(ctx, k, packages, r, e.Conf)
		return seen, plan.Make(seen, r)
	}
	cache := e.cache(k)
	seen := e.observe(ctx, k, packages, r, e.fromCache(cache))
	items := plan.Make(seen, r)
	if !slices.ContainsFunc(items, func(i plan.Item) bool { return i.Verdict == plan.Do || i.Verdict == plan.Fail }) {
		return seen, items
	}
	var mu sync.Mutex
	fresh := map[*conf.Source]conf.Conf{}
	seen = e.observe(ctx, k, packages, r, func(id tree.ID, k tree.Target) (conf.Conf, error) {
		c, err := e.Conf(id, k)
		if err == nil {
			src := e.source(id, k)
			mu.Lock()
			defer mu.Unlock()
			fresh[&src] = c
		}
		return c, err
	})
	if !e.Options.DryRun {
		if err := cache.Replace(fresh, e.Settings); err != nil && !errors.Is(err, fs.ErrPermission) {
			e.Events.Note("cannot keep the cache of configurations: " + err.Error())
		}
	}
	return seen, plan.Make(seen, r)
}

// checkHeaders fails what would have to be built for a kernel without headers.
func (e *Engine) checkHeaders(k tree.Target, items []plan.Item) {
	if e.Kernel(k).HasHeaders() {
		return
	}
	f := &failure.Failure{
		What:   "headers of kernel " + k.Release + " missing",
		Why:    e.Kernel(k).SourceDir + "/include does not exist",
		Hint:   e.Distro.HeadersHint(filepath.Join(e.Settings.InstallTree, k.Release)),
		Status: failure.StatusHeaders,
	}
	for i := range items {
		if items[i].Verdict == plan.Do && items[i].Build {
			items[i].Verdict = plan.Fail
			items[i].Failure = f
		}
	}
}

// dependencies returns the versions of what item depends on.
func dependencies(item plan.Item, items []plan.Item, seen []plan.Package) map[string]string {
	if !item.Conf.BuildDependsRebuild {
		return nil
	}
	versions := map[string]string{}
	for _, name := range item.Conf.BuildDepends {
		for _, p := range seen {
			if p.Name == name && p.Installed {
				versions[name] = p.Version
			}
		}
		for _, i := range items {
			if i.Name == name {
				versions[name] = i.Version
			}
		}
	}
	return versions
}

// heal mends what killed runs left of packages, of each as far as it can: what is
// wrong with one must not keep another from being installed or removed. Where the
// last run has left word that there is nothing, it does not look for it again.
func (e *Engine) heal(packages []tree.Package, kernels []tree.Target) {
	var err error
	if !e.healed {
		if e.System.CacheDir != "" {
			atomicfile.Clean(e.System.CacheDir)
		}
		err = e.Tree.HealTop()
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	for _, p := range packages {
		if !e.healed {
			err = errors.Join(err, e.Tree.Heal(p.ID))
		}
		for _, k := range kernels {
			if !p.Originals || !exists(e.Tree.OriginalDir(p.Name, k)) {
				continue
			}
			installed := slices.ContainsFunc(packages, func(other tree.Package) bool {
				b, _ := other.Build(k)
				return other.Name == p.Name && b.Installed
			})
			err = errors.Join(err, e.placer(k).Heal(p.Name, installed))
		}
	}
	e.healed = err == nil
	if err != nil {
		e.Events.Note("warning: cannot clean up after a run that was killed: " + strings.ReplaceAll(err.Error(), "\n", "; "))
	}
}

func (e *Engine) done(r Result) {
	e.eventMu.Lock()
	defer e.eventMu.Unlock()
	e.Events.Done(r)
}

// work is one item of a plan on its way.
type work struct {
	e         *Engine
	k         tree.Target
	kern      *kernel.Kernel
	item      plan.Item
	packages  []tree.Package
	dependsOn map[string]string
	placing   *sync.Mutex
	world     *sandbox.World // of its build
	several   bool           // kernels are worked on
	task      int            // its place in the schedule
	jobs      jobs           // of its build
}

// do does what the plan says of the item; items are the results of the same
// plan, of which those that the item needs are final. It calls letGo when there is
// nothing more to build.
func (w *work) do(ctx context.Context, items []Result, letGo func()) (r Result) {
	item := w.item
	r = Result{ID: item.ID, Kernel: w.k}
	defer func() { w.e.done(r) }()
	start := time.Now()
	fail := func(f *failure.Failure) Result {
		r.Outcome, r.Failure, r.Took = Failed, f, time.Since(start)
		return r
	}
	switch item.Verdict {
	case plan.Current:
		r.Outcome = Current
		return r
	case plan.Skip:
		r.Outcome, r.Why = Skipped, item.Why
		return r
	case plan.Fail:
		if item.Failure != nil {
			return fail(item.Failure)
		}
		return fail(&failure.Failure{What: what(item.Cause), Why: item.Why, Hint: item.Hint, Status: status(item)})
	}
	for _, n := range item.Needs {
		if need := items[n]; item.Build && need.Outcome == Failed && !w.e.Options.Force {
			return fail(&failure.Failure{What: what(plan.Dependency), Why: fmt.Sprintf("it needs %s, which failed", need.ID),
				Hint: "first solve what is wrong with " + need.Name, Status: failure.StatusDepends})
		}
	}
	if ctx.Err() != nil {
		return fail(failure.From(context.Cause(ctx), "not started", failure.StatusMake))
	}
	job := w.e.job(item.ID, w.k, item.Source, item.Package)
	var made fingerprint.Build
	var errMade error
	if item.Build {
		made, errMade = w.e.remembering(ctx, job)
		if f := w.failedBefore(job); f != nil {
			return fail(f)
		}
	}
	if w.e.Options.DryRun {
		r.Outcome, r.Why, r.Built = Planned, item.Why, item.Build
		r.New = w.e.Tree.InstalledVersion(item.Name, w.k) == ""
		for _, m := range item.Conf.Modules {
			r.Modules = append(r.Modules, m.DestName)
		}
		return r
	}
	w.e.eventMu.Lock()
	w.e.Events.Start(item.ID, w.k, item.Build)
	w.e.eventMu.Unlock()

	job.DependsOn = w.dependsOn
	job.Compress = w.e.compressOptions(job.Compression)
	if item.Build {
		sign := w.e.signer(w.kern)
		job.Sign, job.Timeout = sign, w.e.Settings.BuildTimeout
		job.World, job.Several = w.world, w.several
		job.Jobs, job.Jobserver = w.jobs.number, w.jobs.server
		err := job.Run(ctx)
		w.keepOutcome(job, err)
		if err != nil {
			return fail(failure.From(err, "build failed", failure.StatusMake))
		}
		letGo()
		w.e.costs().note(item.Name, job.Used)
		if errMade == nil {
			errMade = fingerprint.Write(w.e.Tree.TargetDir(item.ID, w.k), made)
		}
		if errMade != nil {
			r.Warnings = append(r.Warnings, "cannot record what it was built from: "+errMade.Error())
		}
		if err := job.CacheErr; err != nil && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) {
			r.Warnings = append(r.Warnings, "the cache of builds cannot be used: "+job.CacheErr.Error())
		}
		r.Built, r.Cached, r.Signed, r.Compression = true, job.Cached, sign != nil, job.Compression
	}
	if item.Place {
		if f := w.place(ctx, job, &r); f != nil {
			return fail(f)
		}
	}
	r.Took = time.Since(start)
	return r
}

// place puts the modules of the item into the kernel's folder.
func (w *work) place(ctx context.Context, job *build.Job, r *Result) *failure.Failure {
	w.placing.Lock()
	defer w.placing.Unlock()
	e, item := w.e, w.item
	if _, err := os.Stat(w.kern.Dir); errors.Is(err, fs.ErrNotExist) {
		return &failure.Failure{What: "install failed", Why: w.kern.Dir + " does not exist", Status: failure.StatusInstall,
			Hint: "install the kernel " + w.k.Release + ", or check what -k says"}
	}
	if err := e.runScript(ctx, job, "PRE_INSTALL", item.Conf.PreInstall); err != nil && e.Options.Force {
		r.Warnings = append(r.Warnings, err.Error())
	} else if err != nil {
		return failure.From(err, "PRE_INSTALL failed", failure.StatusPreInstall)
	}
	// What the build made is only now in the tree.
	modules, err := e.Tree.Modules(item.ID, w.k)
	if err != nil {
		return failure.From(err, "install failed", failure.StatusInstall)
	}
	item.Modules = modules
	r.New = e.Tree.InstalledVersion(item.Name, w.k) == ""
	if err := e.foresee(w.k, w.changes(modules, r.New)); err != nil {
		return failure.From(err, "cannot note what has to follow", failure.StatusInstall)
	}
	res, err := e.placer(w.k).Install(e.placed(item.ID, w.k, w.packages, item.Package))
	r.Placed, r.Kept, r.Removed = res.Placed, res.Kept, res.Removed
	e.weakPlaced(ctx, item.Conf, res, r)
	if err != nil {
		return failure.From(err, "install failed", failure.StatusInstall)
	}
	if len(res.Placed) == 0 {
		r.Outcome, r.Why = Skipped, "the kernel has it: "+strings.Join(res.Kept, ", ")
		return nil
	}
	if err := e.runScript(ctx, job, "POST_INSTALL", item.Conf.PostInstall); err != nil {
		r.Warnings = append(r.Warnings, err.Error())
	}
	return nil
}

// changes returns what has to follow when the package, whose modules are in the
// files of that name, takes the place of whichever version is there.
func (w *work) changes(modules []string, fresh bool) unsettled {
	u := unsettled{Modules: moduleNames(modules...)}
	for _, p := range w.packages {
		if p.Name == w.item.Name {
			b, _ := p.Build(w.k)
			u.Modules = append(u.Modules, moduleNames(b.Modules...)...)
		}
	}
	if fresh {
		u.Fresh = w.item.ID.String()
	}
	return u
}

// job describes a build of id for k.
func (e *Engine) job(id tree.ID, k tree.Target, source string, p plan.Package) *build.Job {
	kern := e.Kernel(k)
	vars := append(e.source(id, k).Vars(e.Settings), "PACKAGE_NAME="+id.Name, "PACKAGE_VERSION="+id.Version)
	return &build.Job{
		ID: id, Source: source, Conf: p.Conf, Vars: vars, Kernel: kern,
		Settings: e.Settings, Tree: e.Tree, Compression: kern.Compression(),
	}
}

// runScript runs a script that changes the system, in the package's source.
func (e *Engine) runScript(ctx context.Context, job *build.Job, directive, value string) error {
	if value == "" {
		return nil
	}
	// Its output has no place of its own: what matters of it goes into the
	// error.
	fd, err := unix.MemfdCreate(directive, unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	log := os.NewFile(uintptr(fd), "")
	defer log.Close()
	err = job.Script(ctx, log, e.Tree.SourceDir(job.ID), directive, value)
	var f *failure.Failure
	if errors.As(err, &f) {
		f.Hint = cmp.Or(f.Hint, "run the script by hand")
	}
	return err
}

// compressOptions returns the options for compression c, and says once which of
// those in framework.conf have no meaning here.
func (e *Engine) compressOptions(c kmod.Compression) kmod.Options {
	options, ignored := kmod.ParseOptions(c, e.Settings.CompressOptions[c])
	e.eventMu.Lock()
	defer e.eventMu.Unlock()
	if len(ignored) > 0 && !e.ignored[c] {
		e.ignored[c] = true
		e.Events.Note(fmt.Sprintf("compress_%s_opts: %s has no meaning here: modules are compressed without the program", c, strings.Join(ignored, " ")))
	}
	return options
}

func what(c plan.Cause) string {
	switch c {
	case plan.Broken:
		return "package broken"
	case plan.BadConf:
		return "dkms.conf unusable"
	case plan.Dependency:
		return "dependency missing"
	case plan.Conflict:
		return "conflict with another package"
	}
	return "failed"
}

func status(item plan.Item) int {
	switch item.Cause {
	case plan.Broken:
		return failure.StatusNoConf
	case plan.BadConf:
		if errors.Is(item.ConfErr, fs.ErrNotExist) {
			return failure.StatusNoConf
		}
		return failure.StatusBadConf
	case plan.Dependency:
		return failure.StatusDepends
	}
	return failure.StatusInstall
}
