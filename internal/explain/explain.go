// SPDX-License-Identifier: GPL-2.0-or-later

// Package explain says why a module is there or not: link by link, from the registration
// of its package to the module that is loaded. It changes nothing but caches.
package explain

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/files"
	"dkms-kernel-install/internal/machine"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/plan"
	"dkms-kernel-install/internal/tree"
)

// State says how a link of a chain is.
type State string

// The states of a link.
const (
	Good    State = "ok"
	Bad     State = "bad"
	Note    State = "note"    // it does no harm now, and is worth knowing
	Unknown State = "unknown" // it could not be found out
)

// Link is one step on the way of a package to a module that is loaded.
type Link struct {
	Step  string `json:"step"`
	State State  `json:"state"`
	Is    string `json:"is"`           // what is true
	Do    string `json:"do,omitempty"` // what to do about it
	Log   string `json:"log,omitempty"`
	// Context are the lines of the log around the one that decides.
	Context []string `json:"context,omitempty"`
}

// Chain is the way of one package to one kernel.
type Chain struct {
	tree.ID
	Kernel tree.Target
	Links  []Link
}

// Cause returns the first link that is bad; nil if none is.
func (c Chain) Cause() *Link {
	i := slices.IndexFunc(c.Links, func(l Link) bool { return l.State == Bad })
	if i < 0 {
		return nil
	}
	return &c.Links[i]
}

// Wrong reports whether the package is not there as it should be. One that is not meant for
// the kernel, or is only installed by hand, need not be there.
func (c Chain) Wrong() bool {
	cause := c.Cause()
	return cause != nil && cause.Step != stepWanted
}

const stepWanted = "wanted"

// Kernel returns the chains to kernel k of the packages called name, which seen has: of the
// version alone if that is not empty, else of the one that is installed or would be. An
// empty name stands for all.
func Kernel(ctx context.Context, seen *observe.Snapshot, k tree.Target, name, version string) []Chain {
	request := plan.Request{Goal: plan.Installed}
	scope := observe.Scope{Renew: true}
	p := plan.Make(seen.Remembered(ctx, k, scope), request)
	if !p.Settled() {
		fresh := seen.Fresh(ctx, k, scope)
		if seen.Kernel(k).Exists() {
			_ = seen.Remember(fresh) // it takes longer the next time, too, if that fails
		}
		p = plan.Make(fresh, request)
	}
	e := &explainer{m: seen.Machine, packages: seen.Packages, plan: p, places: newPlaces(seen.Machine, k)}
	var chains []Chain
	for _, pkg := range e.choose(name, version) {
		chains = append(chains, Chain{pkg.ID, k, e.links(pkg)})
	}
	return chains
}

// explainer explains what a plan has.
type explainer struct {
	m        *machine.Machine
	packages []tree.Package
	plan     plan.Plan
	places   *places
}

// choose returns the packages to explain: for each name the version that is asked for, that
// is installed, or that is taken, in this order of preference.
func (e *explainer) choose(name, version string) (list []observe.Seen) {
	rank := func(s observe.Seen) int {
		item := e.item(s.ID)
		switch {
		case s.Installed:
			return 3
		case item != nil && (item.Verdict == plan.Do || item.Verdict == plan.Current):
			return 2
		case item != nil:
			return 1
		}
		return 0
	}
	for _, s := range e.plan.View.Packages { // sorted by name, and then by version
		if name != "" && s.Name != name || version != "" && s.Version != version {
			continue
		}
		last := len(list) - 1
		if version == "" && last >= 0 && list[last].Name == s.Name {
			if rank(s) >= rank(list[last]) {
				list[last] = s
			}
			continue
		}
		list = append(list, s)
	}
	return list
}

// item returns the plan's item for id; nil if there is none.
func (e *explainer) item(id tree.ID) *plan.Item {
	for n := range e.plan.Items {
		if e.plan.Items[n].ID == id {
			return &e.plan.Items[n]
		}
	}
	return nil
}

// links returns the chain of s.
func (e *explainer) links(s observe.Seen) []Link {
	k := e.plan.View.Target
	list := []Link{e.registered(s)}
	if s.Source != "" {
		list = append(list, e.conf(s))
	}
	if kern := e.m.Kernel(k); !kern.Exists() {
		return append(list, Link{"kernel", Bad, kern.Dir + " does not exist", "install kernel " + k.Release + ", or check its name: ls " + e.m.Kernels.Modules, "", nil})
	}
	if s.Source != "" && s.ConfErr == nil {
		list = append(list, e.wanted(s), e.headers(s), e.dependencies(s))
	}
	blocked := slices.ContainsFunc(list, func(l Link) bool { return l.State == Bad })
	if blocked && !s.Built && s.Failed == nil {
		list = append(list, Link{Step: "built", State: Note, Is: "not yet"})
	} else {
		list = append(list, e.built(s))
	}
	if s.Built && s.ConfErr == nil {
		list = append(list, e.placed(s))
	}
	if s.Installed {
		list = append(list, e.places.links(e.m, s)...)
	}
	return list
}

func (e *explainer) registered(s observe.Seen) Link {
	if s.Source == "" {
		return Link{Step: "registered", State: Bad, Is: "its source is gone: " + e.m.Tree.SourceDir(s.ID) + " leads nowhere",
			Do: fmt.Sprintf("reinstall the package that brings %s, or run: dkms remove %[1]s --all", s.ID)}
	}
	return Link{Step: "registered", State: Good, Is: s.Source}
}

func (e *explainer) conf(s observe.Seen) Link {
	if s.ConfErr != nil {
		return Link{Step: "dkms.conf", State: Bad, Is: s.ConfErr.Error(), Do: "correct it, or set the directive in /etc/dkms/" + s.Name + ".conf"}
	}
	var modules []string
	for _, m := range s.Conf.Modules {
		modules = append(modules, m.DestName)
	}
	is := "modules: " + strings.Join(modules, " ")
	if len(modules) == 0 {
		is = "no module"
	}
	return Link{Step: "dkms.conf", State: Good, Is: is}
}

// wanted says whether automatic work takes s.
func (e *explainer) wanted(s observe.Seen) Link {
	l := Link{Step: stepWanted, State: Good, Is: "it is for this kernel"}
	install := fmt.Sprintf("run: dkms install %s -k %s", s.ID, e.plan.View.Release)
	bad := Bad
	if s.Installed {
		bad = Note // it is there all the same
	}
	item := e.item(s.ID)
	switch disabled := e.m.Disabled(); {
	case s.Conf.Excluded != "":
		l.State, l.Is, l.Do = bad, s.Conf.Excluded, fmt.Sprintf("install a version that is for it, or overrule BUILD_EXCLUSIVE_* in /etc/dkms/%s.conf", s.Name)
	case !s.Conf.Autoinstall:
		l.State, l.Is, l.Do = bad, "its dkms.conf does not set AUTOINSTALL: it is only installed by hand", fmt.Sprintf("%s, or set AUTOINSTALL=yes in /etc/dkms/%s.conf", install, s.Name)
	case disabled != "":
		l.State, l.Is, l.Do = bad, disabled+" exists: nothing is installed automatically", "remove it, or "+install
	case item == nil:
		l.State, l.Is, l.Do = bad, "another version is taken", install
	case item.Verdict == plan.Skip && !item.Deferred:
		l.State, l.Is, l.Do = bad, item.Why, install
	}
	return l
}

// needsBuild reports whether s has to be built before it can be installed.
func needsBuild(s observe.Seen) bool { return !s.Built || !s.Complete() || s.Damaged != "" }

func (e *explainer) headers(s observe.Seen) Link {
	v := e.plan.View
	if v.Headers {
		return Link{Step: "headers", State: Good, Is: e.m.Kernel(v.Target).SourceDir}
	}
	l := Link{Step: "headers", State: Note, Is: v.LacksHeaders + " does not exist", Do: v.HeadersHint}
	if needsBuild(s) {
		l.State = Bad
	}
	return l
}

func (e *explainer) dependencies(s observe.Seen) Link {
	l := Link{Step: "dependencies", State: Good, Is: "none"}
	if len(s.Conf.BuildDepends) > 0 {
		l.Is = strings.Join(s.Conf.BuildDepends, " ")
	}
	item := e.item(s.ID)
	if item == nil || !needsBuild(s) {
		return l
	}
	if f := item.Failure; f != nil && f.Status == failure.StatusDepends {
		l.State, l.Is, l.Do = Bad, f.Why, f.Hint
	} else if item.Deferred {
		l.State, l.Is, l.Do = Bad, item.Why, "install the package that brings it: then this one is built at once"
	}
	return l
}

func (e *explainer) built(s observe.Seen) Link {
	k := e.plan.View.Target
	l := Link{Step: "built", State: Bad, Do: fmt.Sprintf("run: dkms-kernel-install add %s", k.Release)}
	switch {
	case s.Damaged != "":
		l.Is = "what was built is damaged: " + s.Damaged
	case !needsBuild(s) && s.Stale != "":
		l.State, l.Is, l.Do = Note, "it is out of date: "+s.Stale, "run: dkms-kernel-install sync"
	case !needsBuild(s):
		l.State, l.Is, l.Do = Good, e.m.Tree.ModuleDir(s.ID, k), ""
	case s.Failed != nil:
		l.Is, l.Do, l.Log = strings.TrimSuffix(s.Failed.What, " before, and nothing has changed since")+": "+s.Failed.Why, s.Failed.Hint, s.Failed.Log
		l.Context = around(l.Log, s.Failed.Why)
	case s.Built:
		l.Is = "the build lacks a module that dkms.conf names"
	default:
		l.Is = "nothing has built it yet, or what has failed may be gone by now"
		if log := filepath.Join(e.m.Tree.BuildDir(s.ID), "make-"+k.Release+"-"+k.Arch+".log"); files.Exists(log) {
			l.Log = log
		}
	}
	return l
}

func (e *explainer) placed(s observe.Seen) Link {
	k := e.plan.View.Target
	l := Link{Step: "placed", State: Good, Is: "as it was built"}
	install := fmt.Sprintf("run: dkms install %s -k %s", s.ID, k.Release)
	other := e.m.Tree.InstalledVersion(s.Name, k)
	switch {
	case s.TakenBy != tree.ID{}:
		l.State, l.Is, l.Do = Note, s.TakenBy.String()+" was installed over it", install
	case s.Installed && !s.Current:
		l.State, l.Is, l.Do = Bad, "the kernel's directory does not hold what was built", "run: dkms-kernel-install add "+k.Release
	case s.WeakFrom != "" && !s.Installed:
		l.Is = "by links to the modules of kernel " + s.WeakFrom
	case !s.Installed && other != "":
		l.State, l.Is, l.Do = Note, "version "+tree.ID{Name: s.Name, Version: other}.Unkept().Version+" is installed", install
	case !s.Installed:
		l.State, l.Is, l.Do = Bad, "it is built, and not installed", install
		if keeps := e.m.Modules(k).Keeps(observe.Placement(e.m, e.packages, observe.Installed(e.packages, k), k, s)); len(keeps) > 0 {
			l.State, l.Is, l.Do = Note, "the kernel has it: "+strings.Join(keeps, ", "), "to install it all the same: dkms install --force "+s.ID.String()+" -k "+k.Release
		}
	}
	return l
}

// around returns the lines of the log around the one that says why; nil if there is none
// that can be read.
func around(log, why string) []string {
	const each = 3
	if log == "" || why == "" {
		return nil
	}
	fi, err := os.Stat(log)
	if err != nil || fi.Size() > 1<<20 {
		return nil
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.ToValidUTF8(string(text), "?"), "\n")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, why) })
	if i < 0 {
		return nil
	}
	return slices.Clone(lines[max(0, i-each):min(len(lines), i+each+1)])
}
