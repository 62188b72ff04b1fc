// SPDX-License-Identifier: GPL-2.0-or-later

// Package plan decides what to do for one kernel: which packages to build and
// install, in what order, and why others are passed over. It is pure: it reads no
// file and runs no program. Nothing changes a plan that is made.
package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/kmod"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
	"dkms-kernel-install/internal/version"
)

// Goal is how far a package is to be taken.
type Goal int

// The goals of work.
const (
	Built Goal = iota
	Installed
)

// Request says what is wanted.
type Request struct {
	// Only names the packages to take; nil means what automatic work takes: the newest
	// version of each package that has AUTOINSTALL set, or else the newest that can be.
	Only []tree.ID
	Goal Goal
	// Match, if it is not nil, narrows automatic work to the packages whose names
	// it accepts, and to those that depend on them or that they depend on.
	Match func(name string) bool
	// Leaving is the release of a kernel whose modules are about to go. If it is not
	// empty, automatic work takes the packages that this kernel has only by links to
	// those, whether or not AUTOINSTALL is set, and those that they depend on.
	Leaving string
	// Renew builds again what is stale. Dependents also takes the installed
	// packages that depend on one in Only; and Waiting, those that automatic work
	// takes and that have waited for one to be registered or installed. The engine
	// sets it with Dependents, unless automatic work is switched off.
	Renew, Dependents, Waiting bool
	// Force does again what is done, and ignores missing dependencies and conflicts.
	// Retry builds what failed before, though nothing has changed since; Force
	// implies it.
	Force, Retry bool
}

// Verdict is what the plan says of one package.
type Verdict int

// The verdicts on a package.
const (
	Do      Verdict = iota // work is to be done
	Current                // everything is done
	Skip                   // the package is not meant for this kernel
	Fail                   // it is meant for it, and cannot be done
)

// Item is the plan for one package.
type Item struct {
	observe.Seen
	Verdict Verdict
	// Build and Place say what Do does; Resign, that the build need only be signed again.
	Build, Place, Resign bool
	// Explicit reports whether the request names the package; Deferred, whether it is
	// skipped until a package that it depends on is registered; Waited, whether it is
	// taken because it may have been.
	Explicit, Deferred, Waited bool
	// Instead is the version that this one, an older one, is taken in place of, because
	// that cannot be; empty if there is none. If Spare is set, that is not sure: the
	// item is done only if the one with the index Newer, which is of a newer version, or a
	// new build of the same, fails.
	Instead string
	Spare   bool
	Newer   int
	// Needs are the items, by index in the plan, that must succeed first. Of several
	// versions of a package one is enough.
	Needs []int
	// DependsOn holds the versions of the packages that a build is to be made against,
	// by name, if it is to record them.
	DependsOn map[string]string
	Why       string           // of Do and Skip; of Current, if there is something to know
	Failure   *failure.Failure // of Fail
}

// Plan is what to do for one kernel. Each item stands after those that it needs.
type Plan struct {
	View  observe.View
	Items []Item
}

// Settled reports whether there is nothing to do, by confs that are all known.
func (p Plan) Settled() bool {
	return !slices.ContainsFunc(p.Items, func(i Item) bool { return i.Verdict == Do || i.ConfErr != nil })
}

// String returns the plan in a line for each item.
func (p Plan) String() string {
	var b strings.Builder
	for _, item := range p.Items {
		words := []string{item.ID.String()}
		switch item.Verdict {
		case Do:
			switch {
			case item.Resign:
				words = append(words, "sign")
			case item.Build:
				words = append(words, "build")
			}
			if item.Place {
				words = append(words, "place")
			}
			for _, n := range item.Needs {
				words = append(words, "after "+p.Items[n].Name)
			}
		case Current:
			words = append(words, "current")
			if item.Why != "" {
				words[1] += ": " + item.Why
			}
		case Skip:
			verb := "skip: "
			if item.Deferred {
				verb = "defer: "
			}
			words = append(words, verb+item.Why)
		case Fail:
			words = append(words, "fail: "+item.Failure.Why)
		}
		if item.Spare {
			words = append(words, "if "+p.Items[item.Newer].ID.String()+" fails")
		}
		fmt.Fprintln(&b, strings.Join(words, " "))
	}
	return b.String()
}

// Make plans the work for the kernel of a view.
func Make(v observe.View, r Request) Plan {
	p := planner{request: r, view: v, all: v.Packages, newest: map[string]string{}, index: map[string]int{}, state: map[string]int{}, spares: map[string][]int{}}
	for i := range p.all { // without a copy of each
		if pkg := &p.all[i]; version.Compare(pkg.Version, p.newest[pkg.Name]) >= 0 {
			p.newest[pkg.Name] = pkg.Version
		}
	}
	p.waited = p.waiting()
	for _, pkg := range p.all {
		if !p.wanted(pkg) && !p.waited[pkg.ID] {
			continue
		}
		if i, ok := p.index[pkg.Name]; !ok || version.Compare(pkg.Version, p.chosen[i].Version) >= 0 {
			p.index[pkg.Name] = len(p.chosen)
		}
		p.chosen = append(p.chosen, pkg)
	}
	p.share()
	for _, pkg := range p.chosen {
		if p.matches(pkg, nil) {
			p.visit(pkg.Name, nil)
		}
	}
	p.conflicts()
	p.dependents()
	p.headers()
	p.dependencies()
	return Plan{v, p.items}
}

type planner struct {
	request Request
	view    observe.View
	all     []observe.Seen
	newest  map[string]string // version, by name, of all
	chosen  []observe.Seen
	index   map[string]int   // in chosen, by name, of the newest
	shared  map[tree.ID]bool // see share
	waited  map[tree.ID]bool // see waiting
	items   []Item
	// state is, by package name, 1 + the index of the item of the newest version that can
	// be, or visiting; spares are the indices of those that are done if that one fails.
	state  map[string]int
	spares map[string][]int
}

const visiting = -1

// wanted reports whether the request is about pkg.
func (p *planner) wanted(pkg observe.Seen) bool {
	if p.request.Only != nil {
		return slices.Contains(p.request.Only, pkg.ID) || p.request.Dependents && pkg.Installed && pkg.ConfErr == nil &&
			slices.ContainsFunc(p.request.Only, func(id tree.ID) bool { return slices.Contains(pkg.Conf.BuildDepends, id.Name) })
	}
	if p.orphaned(pkg) {
		return true
	}
	if version.Compare(p.newest[pkg.Name], pkg.Version) > 0 {
		return repair(pkg)
	}
	// A conf that cannot be read does not say whether it wants automatic work. To
	// leave it out would hide the error.
	return pkg.Conf.Autoinstall || pkg.Source == "" || pkg.ConfErr != nil || repair(pkg)
}

// waiting returns the packages that are not installed, that automatic work takes, and
// that depend on one that the request names, directly or by others of them.
func (p *planner) waiting() map[tree.ID]bool {
	list := map[tree.ID]bool{}
	if !p.request.Waiting {
		return list
	}
	names := map[string]bool{}
	for _, id := range p.request.Only {
		names[id.Name] = true
	}
	for again := true; again; {
		again = false
		for _, pkg := range p.all {
			if !names[pkg.Name] && !pkg.Installed && pkg.Version == p.newest[pkg.Name] && pkg.ConfErr == nil && pkg.Conf.Autoinstall && pkg.Conf.Excluded == "" &&
				slices.ContainsFunc(pkg.Conf.BuildDepends, func(dep string) bool { return names[dep] }) {
				names[pkg.Name], list[pkg.ID], again = true, true, true
			}
		}
	}
	return list
}

// share finds the packages for which automatic work has nothing to do because
// the kernel shares the modules of another one. A package that does not want
// that, or that another one needs in order to be built, is built.
func (p *planner) share() {
	p.shared = map[tree.ID]bool{}
	if p.request.Only != nil || p.request.Force {
		return
	}
	for _, pkg := range p.all {
		p.shared[pkg.ID] = p.weak(pkg) && pkg.WeakFrom != p.request.Leaving && !pkg.Conf.NoWeakModules
	}
	for again := true; again; {
		again = false
		for _, pkg := range p.chosen {
			if item := p.decide(pkg); !item.Build {
				continue
			}
			for _, dep := range p.chosen {
				if p.shared[dep.ID] && slices.Contains(pkg.Conf.BuildDepends, dep.Name) {
					p.shared[dep.ID] = false
					again = true
				}
			}
		}
	}
}

// weak reports whether the kernel has pkg only by links to modules of another one.
func (p *planner) weak(pkg observe.Seen) bool {
	return pkg.WeakFrom != "" && !slices.ContainsFunc(p.all, func(other observe.Seen) bool {
		return other.Name == pkg.Name && other.Installed // modprobe prefers that one
	})
}

// orphaned reports whether the kernel is about to lose pkg.
func (p *planner) orphaned(pkg observe.Seen) bool {
	return p.weak(pkg) && pkg.WeakFrom == p.request.Leaving
}

// matches reports whether the request's Match takes pkg: by its own name, or by one
// that it depends on. path is the chain of dependencies that led here.
func (p *planner) matches(pkg observe.Seen, path []string) bool {
	if p.request.Leaving != "" {
		return p.orphaned(pkg)
	}
	if p.request.Match == nil || p.request.Match(pkg.Name) {
		return true
	}
	if !pkg.Built || slices.Contains(path, pkg.Name) {
		return false
	}
	path = append(path, pkg.Name)
	return slices.ContainsFunc(pkg.Conf.BuildDepends, func(dep string) bool {
		i, ok := p.index[dep]
		return ok && p.matches(p.chosen[i], path)
	})
}

// repair reports whether the tree calls the package installed, yet its files are
// not in the kernel's directory: they were there before and are put back, whoever
// asked for them then. A newer version takes the link over in the same run.
func repair(p observe.Seen) bool {
	return p.Installed && !p.Current && p.TakenBy == (tree.ID{})
}

// visit adds the items of the package called name and, before them, those that it
// depends on: first the newest version's; if that cannot be, or may fail, those of older
// ones. path is the chain of dependencies that led here.
func (p *planner) visit(name string, path []string) {
	if p.state[name] != 0 {
		return
	}
	i, ok := p.index[name]
	if !ok {
		return
	}
	p.state[name] = visiting
	path = append(path, name)
	newest := p.item(p.chosen[i], path)
	p.items = append(p.items, newest)
	state, last := len(p.items), len(p.items)-1
	for _, pkg := range p.older(newest) {
		item := p.decide(pkg) // what is built of the newest needs no other
		if pkg.ID != newest.ID {
			item = p.item(pkg, path)
			item.Instead = newest.Version
		}
		if item.Verdict != Do && item.Verdict != Current || item.Build && !p.view.Headers {
			continue
		}
		p.items = append(p.items, item)
		if n := len(p.items) - 1; p.items[last].Verdict == Do {
			p.items[n].Spare, p.items[n].Newer, last = true, last, n
			p.spares[name] = append(p.spares[name], n)
		} else {
			state, last = n+1, n
		}
		if item.Installed || !item.Build {
			break
		}
	}
	p.state[name] = state
}

// older returns the older versions that automatic work may take in place of the newest,
// the newest of them first. If the newest is to be built again, what is built of it comes
// before them if it was installed, and is not in the kernel's directory.
func (p *planner) older(newest Item) (list []observe.Seen) {
	sure := newest.Verdict == Current || newest.Verdict == Do && !newest.Build || newest.Deferred
	there := newest.Installed && (newest.Current || newest.TakenBy != tree.ID{}) // and stays, if it cannot be built again
	if sure || there || p.request.Only != nil || p.request.Leaving != "" {
		return nil
	}
	built := newest.Seen
	if built.Stale = ""; built.Installed && !p.decide(built).Build {
		list = append(list, built)
	}
	for _, pkg := range p.all {
		if pkg.Name == newest.Name && pkg.ID != newest.ID && (pkg.Conf.Autoinstall || pkg.Installed) {
			list = append(list, pkg)
		}
	}
	slices.SortStableFunc(list, func(a, b observe.Seen) int { return version.Compare(b.Version, a.Version) })
	return list
}

// item returns the item of pkg, and adds those that it depends on. path is the chain of
// dependencies that led here, with its own name at the end.
func (p *planner) item(pkg observe.Seen, path []string) Item {
	item := p.decide(pkg)
	for _, dep := range item.Conf.BuildDepends {
		if item.Verdict != Do && item.Verdict != Current {
			break
		}
		p.visit(dep, path)
		if p.state[dep] == visiting && item.Build && !p.request.Force && !p.chosen[p.index[dep]].Installed {
			cycle := append(slices.Clone(path[slices.Index(path, dep):]), dep)
			item.fail(dependencyMissing, "BUILD_DEPENDS goes round in a circle: "+strings.Join(cycle, " needs "),
				"remove one of these BUILD_DEPENDS in an override in /etc/dkms")
			break
		}
		p.depend(&item, dep)
	}
	p.failedBefore(&item)
	return item
}

// depend records that item cannot be built before dep is there.
func (p *planner) depend(item *Item, dep string) {
	if n := p.state[dep]; n > 0 {
		on := p.items[n-1]
		if on.Verdict == Do || on.Verdict == Fail || on.Verdict == Skip {
			item.Needs = append(item.Needs, n-1)
		}
		item.Needs = append(item.Needs, p.spares[dep]...)
		if p.request.Renew && item.Built && (!item.Build || item.Resign) && on.Verdict == Do && on.Build && !on.Resign {
			item.do(true, p.request.Goal == Installed, dep+" is built again")
		}
		if item.Conf.BuildDependsRebuild && item.Built {
			if was, ok := item.BuiltAgainst[dep]; ok && was != on.Version {
				item.do(true, true, fmt.Sprintf("it was built against %s/%s", dep, was))
			}
		}
		return
	}
	// It is not part of this plan; it may be there already.
	known := false
	for _, pkg := range p.all {
		if pkg.Name == dep {
			known = true
			if pkg.Installed {
				return
			}
		}
	}
	if !item.Build || p.request.Force {
		return
	}
	if known {
		item.fail(dependencyMissing, fmt.Sprintf("it needs %s, which is not installed for this kernel and is not built automatically", dep),
			fmt.Sprintf("run: dkms install %s, or set AUTOINSTALL=yes in /etc/dkms/%[1]s.conf", dep))
	} else {
		item.skip(fmt.Sprintf("it needs %s, which is not registered", dep))
		item.Deferred = true
	}
}

// decide says what to do with one package, its dependencies left aside.
func (p *planner) decide(pkg observe.Seen) Item {
	item := Item{Seen: pkg, Explicit: slices.Contains(p.request.Only, pkg.ID), Waited: p.waited[pkg.ID]}
	reinstall := fmt.Sprintf("reinstall the package that brings %s, or remove it", pkg.ID)
	taken := pkg.TakenBy != (tree.ID{}) && !item.Explicit && !p.request.Force
	pkg.Current = pkg.Current || taken
	switch {
	case pkg.Source == "":
		item.fail(broken, "its source is gone: the link in the tree leads nowhere", reinstall)
	case pkg.ConfErr != nil && item.Explicit && pkg.Installed && pkg.Current && p.request.Goal == Installed && !p.request.Force:
		item.Verdict, item.Why = Current, "it is installed, but cannot be built again: "+pkg.ConfErr.Error()
	case pkg.ConfErr != nil:
		kind, hint := badConf, "correct it, or set the directive in /etc/dkms/"+pkg.Name+".conf"
		if errors.Is(pkg.ConfErr, fs.ErrNotExist) {
			kind.status, hint = failure.StatusNoConf, reinstall
		}
		item.fail(kind, pkg.ConfErr.Error(), hint)
	case pkg.Conf.Excluded != "":
		item.skip(pkg.Conf.Excluded)
	case p.shared[pkg.ID]:
		item.Verdict = Current
	default:
		why := ""
		switch {
		case !pkg.Built || !pkg.Complete():
			why = "not built"
		case pkg.Damaged != "":
			why = "what was built is damaged: " + pkg.Damaged
		case p.request.Renew && pkg.Stale != "", p.forced(pkg) && p.request.Goal == Installed && pkg.OtherKey:
			why = pkg.Stale
		case p.forced(pkg) && p.request.Goal == Built:
			why = "it is to be built anyway"
		}
		build := why != ""
		place := p.request.Goal == Installed && (!pkg.Installed || !pkg.Current || build || p.forced(pkg))
		if why == "" && !pkg.Installed {
			why = "not installed"
		} else if why == "" && !pkg.Current {
			why = "the kernel's directory does not hold what was built"
		}
		item.do(build, place, why)
		item.Resign = build && pkg.OtherKey && why == pkg.Stale
		if taken && item.Verdict == Current {
			item.Why = fmt.Sprintf("%s was installed over it", pkg.TakenBy)
		}
	}
	return item
}

// forced reports whether work on pkg that is already done is to be done again.
func (p *planner) forced(pkg observe.Seen) bool {
	return p.request.Force && (p.request.Only == nil || slices.Contains(p.request.Only, pkg.ID))
}

func (i *Item) do(build, place bool, why string) {
	i.Build, i.Place, i.Resign = build, place, false
	i.Verdict, i.Why = Do, why
	if !build && !place {
		i.Verdict, i.Why = Current, ""
	}
}

func (i *Item) skip(why string) {
	i.Verdict, i.Why = Skip, why
	i.Build, i.Place = false, false
}

// kind is a kind of failure: what to call it, and its exit status.
type kind struct {
	what   string
	status int
}

var (
	broken            = kind{"package broken", failure.StatusNoConf}
	badConf           = kind{"dkms.conf unusable", failure.StatusBadConf}
	dependencyMissing = kind{"dependency missing", failure.StatusDepends}
)

func (i *Item) fail(k kind, why, hint string) {
	i.failWith(&failure.Failure{What: k.what, Why: why, Hint: hint, Status: k.status})
}

func (i *Item) failWith(f *failure.Failure) {
	i.Verdict, i.Failure, i.Why = Fail, f, ""
	i.Build, i.Place = false, false
}

// failedBefore fails an item whose build failed before and would again. What is
// built against something new may succeed.
func (p *planner) failedBefore(item *Item) {
	if item.Verdict != Do || !item.Build || item.Failed == nil || p.request.Force || p.request.Retry && (p.request.Only == nil || item.Explicit) {
		return
	}
	if !slices.ContainsFunc(item.Needs, func(n int) bool { return p.items[n].Verdict == Do && p.items[n].Build }) {
		item.failWith(item.Failed)
	}
}

// headers fails what would have to be built for a kernel without headers.
func (p *planner) headers() {
	if p.view.Headers {
		return
	}
	f := &failure.Failure{
		What:   "headers of kernel " + p.view.Release + " missing",
		Why:    p.view.LacksHeaders + " does not exist",
		Hint:   p.view.HeadersHint,
		Status: failure.StatusHeaders,
	}
	for n := range p.items {
		if item := &p.items[n]; item.Verdict == Do && item.Build {
			item.failWith(f)
		}
	}
}

// dependencies finds the versions of what items depend on that record them.
func (p *planner) dependencies() {
	for n := range p.items {
		item := &p.items[n]
		if !item.Conf.BuildDependsRebuild {
			continue
		}
		item.DependsOn = map[string]string{}
		for _, name := range item.Conf.BuildDepends {
			for _, pkg := range p.all {
				if pkg.Name == name && pkg.Installed {
					item.DependsOn[name] = pkg.Version
				}
			}
			if i := p.state[name]; i > 0 {
				item.DependsOn[name] = p.items[i-1].Version
			}
		}
	}
}

// conflicts has automatic work skip every package that would install a module of the
// same name as one that another package has installed, or is about to.
func (p *planner) conflicts() {
	if p.request.Force || p.request.Only != nil || p.request.Goal != Installed {
		return
	}
	owner := map[string]tree.ID{}
	claim := func(pkg observe.Seen) {
		for _, m := range pkg.Conf.Modules {
			if _, taken := owner[kmod.Normal(m.DestName)]; !taken {
				owner[kmod.Normal(m.DestName)] = pkg.ID
			}
		}
	}
	for _, pkg := range p.all {
		if pkg.Installed && pkg.TakenBy == (tree.ID{}) {
			claim(pkg)
		}
	}
	for n := range p.items {
		item := &p.items[n]
		if item.Verdict != Do {
			continue
		}
		for _, m := range item.Conf.Modules {
			if id, taken := owner[kmod.Normal(m.DestName)]; taken && id.Name != item.Name {
				item.skip(fmt.Sprintf("its module %s.ko belongs to %s for this kernel; to install it all the same: dkms install %s -k %s", m.DestName, id, item.ID, p.view.Release))
				break
			}
		}
		if item.Verdict == Do && !item.Spare {
			claim(item.Seen)
		}
	}
}

// dependents carries failures and skips over to what depends on them.
func (p *planner) dependents() {
	for n := range p.items {
		item := &p.items[n]
		for _, need := range item.Needs {
			on := p.items[need]
			if item.Verdict != Do || !item.Build || p.request.Force {
				break
			}
			if p.served(item, on.Name) {
				continue
			}
			switch on.Verdict {
			case Fail:
				item.fail(dependencyMissing, fmt.Sprintf("it needs %s, which fails", on.ID), "first solve what is wrong with "+on.Name)
				item.Failure.Again = on.Failure.Again
			case Skip:
				if item.Deferred = on.Deferred; item.Deferred {
					item.skip(fmt.Sprintf("it needs %s, which is deferred", on.ID))
					break
				}
				item.skip(fmt.Sprintf("it needs %s, which is not for this kernel: %s", on.ID, on.Why))
			}
		}
		item.Needs = slices.DeleteFunc(item.Needs, func(need int) bool { return p.items[need].Verdict != Do && !p.items[need].Spare })
	}
}

// served reports whether a version of the package called name, which item needs, can be.
func (p *planner) served(item *Item, name string) bool {
	return slices.ContainsFunc(item.Needs, func(need int) bool {
		on := p.items[need]
		return on.Name == name && (on.Verdict == Do || on.Verdict == Current)
	})
}
