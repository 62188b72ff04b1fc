// SPDX-License-Identifier: GPL-2.0-or-later

// Package execute walks plans: it builds, signs, compresses and places, as much at a
// time as the order of the plans, the jobserver and the memory of the machine allow.
package execute

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"dkms-kernel-install/internal/codec"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/fingerprint"
	"dkms-kernel-install/internal/follow"
	"dkms-kernel-install/internal/lazy"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/resources"
	"dkms-kernel-install/internal/tree"
)

// Events hears of the work as it goes on. Its methods may be called by several
// goroutines at once.
type Events interface {
	// Expect is called before the work begins, with the builds that are to be made.
	Expect([]Expected)
	// Start is called when the work on a package for a kernel begins.
	Start(id tree.ID, k tree.Target, build bool)
	// Done is called when it has ended.
	Done(Result)
}

// Expected is a build that is to be made, and what it may take by what the last one of the
// package took; zero values if that is not known.
type Expected struct {
	ID     tree.ID
	Kernel tree.Target
	// Elapsed is how long it takes. Busy is how long it could keep all processors busy
	// that builds may use: no run takes less than the sum of that.
	Elapsed, Busy time.Duration
}

// Options say how plans are carried out.
type Options struct {
	// Force takes failures of PRE_INSTALL and of dependencies for none, and builds
	// what the store has. ForceVersion places modules whatever the kernel's own
	// are; Force implies it.
	Force, ForceVersion bool
	// KeepNewer keeps a newer module of another version of a package that the request
	// names. A package manager brings in the version that is to be there.
	KeepNewer bool
	Follow    follow.Policy // its DryRun is that of the whole run
}

// Run carries out plans for the kernels of a machine, whose registered packages are
// packages. The results are in the order of the plans; a package that failed is a
// result like any other, and an error means that nothing was done. The caller holds
// the lock of the tree.
func Run(ctx context.Context, m *machine.Machine, packages []tree.Package, plans []plan.Plan, o Options, events Events) ([]Result, error) {
	r := &run{m: m, packages: packages, options: o, events: events, several: len(plans) > 1,
		worlds: worlds{m: m}, signers: signers{m: m}, levels: compressionLevels(m, plans)}
	if r.several && no().MatchString(m.Settings.ContinueOnError) {
		m.Note(fmt.Sprintf("continue_on_error=%s has no effect: if one kernel fails, the others are worked on all the same", m.Settings.ContinueOnError))
	}
	if !o.Follow.DryRun {
		record(m, plans)
	}
	var results []Result
	var tasks []task
	var builds []*work
	for _, p := range plans {
		first := len(results)
		placing := &sync.Mutex{} // one package at a time in the kernel's directory
		results = append(results, make([]Result, len(p.Items))...)
		for i, item := range p.Items {
			w := &work{run: r, k: p.View.Target, kern: m.Kernel(p.View.Target), item: item, placing: placing}
			t := task{run: func(letGo func()) { results[first+i] = w.do(ctx, results[first:], letGo) }}
			if item.Verdict == plan.Do {
				for _, n := range item.Needs {
					t.needs = append(t.needs, first+n)
				}
				if item.Build && !o.Follow.DryRun {
					w.task, builds = len(tasks), append(builds, w)
					w.world = r.worlds.of(item.ID, w.k)
				}
				if w.world == nil || !w.world.Features.Mounts {
					t.key = item.ID.String() // one build directory, one build
				}
			}
			if item.Spare {
				t.needs = append(t.needs, first+item.Newer)
			}
			tasks = append(tasks, t)
		}
	}
	means := means{memory: resources.Memory}
	if len(builds) > 0 {
		r.costs = openCosts(m.CacheFile("costs.json"))
		var err error
		if means.server, err = r.share(ctx, builds, tasks); err != nil {
			return nil, failure.From(err, "cannot start builds", failure.StatusMake)
		}
		if means.server != nil {
			defer means.server.Close()
		}
		r.expect(builds)
	}
	schedule(ctx, tasks, means)
	if len(builds) > 0 {
		if err := r.costs.save(packages); err != nil && !errors.Is(err, fs.ErrPermission) {
			m.Note("cannot keep what builds cost: " + err.Error())
		}
	}
	return slices.DeleteFunc(results, func(r Result) bool { return r.Outcome == spared }), nil
}

var no = lazy.Regexp(`(?i)^(?:no|false|off|0)$`)

// run is what the work of one call of Run has in common.
type run struct {
	m        *machine.Machine
	packages []tree.Package
	options  Options
	events   Events
	several  bool // kernels are worked on
	worlds   worlds
	signers  signers
	costs    *costs
	levels   map[codec.Compression]int // by which modules are compressed
	again    sync.Once                 // says that builds are made again
	alone    sync.RWMutex              // builds hold it for reading; one that must be alone locks it
}

// compressionLevels returns the levels for the compressions of the kernels that
// something is built for. It reports which of the options in framework.conf have no
// meaning here.
func compressionLevels(m *machine.Machine, plans []plan.Plan) map[codec.Compression]int {
	all := map[codec.Compression]int{}
	for _, p := range plans {
		if !slices.ContainsFunc(p.Items, func(i plan.Item) bool { return i.Verdict == plan.Do && i.Build }) {
			continue
		}
		c := m.Kernel(p.View.Target).Compression()
		if _, ok := all[c]; ok {
			continue
		}
		o, ignored := codec.ParseOptions(c, m.Settings.CompressOptions[c])
		if all[c] = o.Level; len(ignored) > 0 {
			m.Note(fmt.Sprintf("compress_%s_opts: %s has no meaning here: modules are compressed without the program", c, strings.Join(ignored, " ")))
		}
	}
	return all
}

// record records of builds that somebody else made what they are compared with from
// now on. That comes before the first build, whose inputs name those of what it
// depends on.
func record(m *machine.Machine, plans []plan.Plan) {
	for _, p := range plans {
		for _, item := range p.Items {
			if item.Unrecorded != nil && !item.Build {
				// If it cannot, the next run tries again.
				_ = fingerprint.Write(m.Tree.TargetDir(item.ID, p.View.Target), m.Tree.ModuleDir(item.ID, p.View.Target), *item.Unrecorded, item.Modules, m.Tree.Image)
			}
		}
	}
}

// Changes returns what results changed in the directories of kernels.
func Changes(results []Result) (changes []follow.Change) {
	for _, r := range results {
		if len(r.Placed)+len(r.Removed)+len(r.Restored) == 0 {
			continue
		}
		c := follow.Change{Package: r.ID, Kernel: r.Kernel, Placed: r.Placed, Removed: r.Removed, Restored: r.Restored, NoWeakModules: r.NoWeakModules}
		if r.New {
			c.Fresh = r.ID.String()
		}
		changes = append(changes, c)
	}
	return changes
}
