// SPDX-License-Identifier: GPL-2.0-or-later

package plan

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/failure"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

// pkg makes a package that is to be installed automatically, with one module of
// its own name; changes adjust it.
func pkg(name, version string, changes ...func(*observe.Seen)) observe.Seen {
	p := observe.Seen{
		ID:     tree.ID{Name: name, Version: version},
		Source: "/usr/src/" + name + "-" + version,
		Conf: conf.Conf{Name: name, Version: version, Autoinstall: true,
			Modules: []conf.Module{{BuiltName: name, DestName: name, DestLocation: "/extra"}}},
	}
	for _, change := range changes {
		change(&p)
	}
	return p
}

func built(p *observe.Seen)      { p.Built, p.Modules = true, []string{p.Name + ".ko.xz"} }
func installed(p *observe.Seen)  { built(p); p.Installed, p.Current = true, true }
func damaged(p *observe.Seen)    { installed(p); p.Current = false }
func manual(p *observe.Seen)     { p.Conf.Autoinstall = false }
func sourceless(p *observe.Seen) { p.Source = "" }
func confused(p *observe.Seen)   { p.ConfErr = errors.New("AUTOINSTALL must be yes or no") }
func rekeyed(p *observe.Seen) {
	installed(p)
	p.Stale, p.OtherKey = "it is signed with another key", true
}
func excluded(p *observe.Seen) { p.Conf.Excluded = "it is only for kernels up to 5" }
func stale(p *observe.Seen)    { p.Stale = "its source has changed" }
func failed(p *observe.Seen) {
	p.Failed = &failure.Failure{What: "build failed before", Why: "it did before", Hint: "try again", Status: failure.StatusMake}
}
func needs(names ...string) func(*observe.Seen) {
	return func(p *observe.Seen) { p.Conf.BuildDepends = names }
}
func taken(name string) func(*observe.Seen) {
	return func(p *observe.Seen) { damaged(p); p.TakenBy = tree.ID{Name: name, Version: "1"} }
}
func weak(p *observe.Seen)     { p.WeakFrom = "6.1" }
func stubborn(p *observe.Seen) { p.Conf.NoWeakModules = true }
func modules(names ...string) func(*observe.Seen) {
	return func(p *observe.Seen) {
		p.Conf.Modules = nil
		for _, n := range names {
			p.Conf.Modules = append(p.Conf.Modules, conf.Module{BuiltName: n, DestName: n})
		}
	}
}

func TestMake(t *testing.T) {
	auto := Request{Goal: Installed}
	only := func(ids ...string) Request {
		r := Request{Goal: Installed}
		for _, s := range ids {
			name, version, _ := strings.Cut(s, "/")
			r.Only = append(r.Only, tree.ID{Name: name, Version: version})
		}
		return r
	}
	force := func(r Request) Request { r.Force = true; return r }
	waiting := func(r Request) Request { r.Waiting = true; return r }
	retry := func(r Request) Request { r.Retry = true; return r }
	renew := func(r Request) Request { r.Renew = true; return r }
	build := func(r Request) Request { r.Goal = Built; return r }
	leaving := func(release string) Request { return Request{Goal: Installed, Leaving: release} }

	for _, tt := range []struct {
		name     string
		packages []observe.Seen
		request  Request
		want     string
	}{
		{"nothing", nil, auto, ""},
		{"new", []observe.Seen{pkg("a", "1")}, auto, "a/1 build place\n"},
		{"built", []observe.Seen{pkg("a", "1", built)}, auto, "a/1 place\n"},
		{"installed", []observe.Seen{pkg("a", "1", installed)}, auto, "a/1 current\n"},
		{"files gone", []observe.Seen{pkg("a", "1", damaged)}, auto, "a/1 place\n"},
		{"files gone, and stale", []observe.Seen{pkg("a", "1", damaged, stale)}, renew(auto), "a/1 build place\na/1 place if a/1 fails\n"},
		{"files gone, and failed before", []observe.Seen{pkg("a", "1", damaged, stale, failed)}, renew(auto), "a/1 fail: it did before\na/1 place\n"},
		{"files gone, and a dependency is stale", []observe.Seen{pkg("a", "1", damaged, needs("b")), pkg("b", "1", damaged, stale)}, renew(auto),
			"b/1 build place\nb/1 place if b/1 fails\na/1 build place after b after b\na/1 place if a/1 fails\n"},
		{"module gone from the tree", []observe.Seen{pkg("a", "1", installed, modules("a", "b"))}, auto, "a/1 build place\n"},
		{"not automatic", []observe.Seen{pkg("a", "1", manual), pkg("b", "1")}, auto, "b/1 build place\n"},
		{"not automatic, files gone", []observe.Seen{pkg("a", "1", manual, damaged)}, auto, "a/1 place\n"},
		{"broken", []observe.Seen{pkg("a", "1", sourceless), pkg("b", "1")}, auto,
			"a/1 fail: its source is gone: the link in the tree leads nowhere\nb/1 build place\n"},
		{"bad conf", []observe.Seen{pkg("a", "1", confused), pkg("b", "1")}, auto,
			"a/1 fail: AUTOINSTALL must be yes or no\nb/1 build place\n"},
		{"bad conf, asked, installed before", []observe.Seen{pkg("a", "1", confused, installed)}, only("a/1"),
			"a/1 current: it is installed, but cannot be built again: AUTOINSTALL must be yes or no\n"},
		{"bad conf, forced, installed before", []observe.Seen{pkg("a", "1", confused, installed)}, force(only("a/1")), "a/1 fail: AUTOINSTALL must be yes or no\n"},
		{"excluded", []observe.Seen{pkg("a", "1", excluded)}, auto, "a/1 skip: it is only for kernels up to 5\n"},

		{"newest of two", []observe.Seen{pkg("a", "1.9"), pkg("a", "1.10")}, auto, "a/1.10 build place\na/1.9 build place if a/1.10 fails\n"},
		{"newer than the installed", []observe.Seen{pkg("a", "1.9", installed), pkg("a", "1.10")}, auto, "a/1.10 build place\na/1.9 current if a/1.10 fails\n"},
		{"newest not automatic", []observe.Seen{pkg("a", "1"), pkg("a", "2", manual)}, auto, ""},
		{"newest not automatic, old one's files gone", []observe.Seen{pkg("a", "1", damaged), pkg("a", "2", manual)}, auto, "a/1 place\n"},
		{"newest broken", []observe.Seen{pkg("a", "1", installed), pkg("a", "2", sourceless)}, auto,
			"a/2 fail: its source is gone: the link in the tree leads nowhere\na/1 current\n"},
		{"newest broken, older one not installed", []observe.Seen{pkg("a", "1"), pkg("a", "2", sourceless)}, auto,
			"a/2 fail: its source is gone: the link in the tree leads nowhere\na/1 build place\n"},
		{"newest excluded", []observe.Seen{pkg("a", "1"), pkg("a", "2", excluded)}, auto, "a/2 skip: it is only for kernels up to 5\na/1 build place\n"},
		{"newest excluded, older one installed by hand", []observe.Seen{pkg("a", "1", manual, damaged), pkg("a", "2", excluded)}, auto,
			"a/2 skip: it is only for kernels up to 5\na/1 place\n"},
		{"newest excluded, older one not automatic", []observe.Seen{pkg("a", "1", manual), pkg("a", "2", excluded)}, auto, "a/2 skip: it is only for kernels up to 5\n"},
		{"newest excluded, and installed before", []observe.Seen{pkg("a", "1"), pkg("a", "2", excluded, installed)}, auto, "a/2 skip: it is only for kernels up to 5\n"},
		{"newest excluded, asked", []observe.Seen{pkg("a", "1"), pkg("a", "2", excluded)}, only("a/2"), "a/2 skip: it is only for kernels up to 5\n"},
		{"newest failed before", []observe.Seen{pkg("a", "1"), pkg("a", "2", failed)}, auto, "a/2 fail: it did before\na/1 build place\n"},
		{"two newest cannot be", []observe.Seen{pkg("a", "1"), pkg("a", "2", confused), pkg("a", "3", excluded)}, auto, "a/3 skip: it is only for kernels up to 5\na/1 build place\n"},
		{"three, one installed", []observe.Seen{pkg("a", "1"), pkg("a", "2", installed), pkg("a", "3")}, auto, "a/3 build place\na/2 current if a/3 fails\n"},
		{"newest excluded, and a newer one than the installed", []observe.Seen{pkg("a", "1", installed), pkg("a", "2"), pkg("a", "3", excluded)}, auto,
			"a/3 skip: it is only for kernels up to 5\na/2 build place\na/1 current if a/2 fails\n"},
		{"newest deferred", []observe.Seen{pkg("a", "1"), pkg("a", "2", needs("b"))}, auto, "a/2 defer: it needs b, which is not registered\n"},
		{"newest of a dependency excluded", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1"), pkg("b", "2", excluded)}, auto,
			"b/2 skip: it is only for kernels up to 5\nb/1 build place\na/1 build place after b\n"},
		{"newest may fail, and the older one depends on what is not installed yet", []observe.Seen{pkg("a", "1", needs("b")), pkg("a", "2"), pkg("b", "1"), pkg("c", "1", needs("a"))}, auto,
			"a/2 build place\nb/1 build place\na/1 build place after b if a/2 fails\nc/1 build place after a after a\n"},
		{"newest of a dependency may fail", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1"), pkg("b", "2")}, auto,
			"b/2 build place\nb/1 build place if b/2 fails\na/1 build place after b after b\n"},

		{"dependency", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1")}, auto, "b/1 build place\na/1 build place after b\n"},
		{"chain", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", needs("c")), pkg("c", "1")}, auto,
			"c/1 build place\nb/1 build place after c\na/1 build place after b\n"},
		{"diamond", []observe.Seen{pkg("a", "1", needs("b", "c")), pkg("b", "1", needs("d")), pkg("c", "1", needs("d")), pkg("d", "1")}, auto,
			"d/1 build place\nb/1 build place after d\nc/1 build place after d\na/1 build place after b after c\n"},
		{"dependency installed", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", installed)}, auto, "b/1 current\na/1 build place\n"},
		{"dependency installed by hand", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", installed, manual)}, auto, "a/1 build place\n"},
		{"dependency unknown", []observe.Seen{pkg("a", "1", needs("b"))}, auto, "a/1 defer: it needs b, which is not registered\n"},
		{"what depends on a deferred one", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", needs("c"))}, auto,
			"b/1 defer: it needs c, which is not registered\na/1 defer: it needs b/1, which is deferred\n"},
		{"waiting", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", needs("c")), pkg("c", "1"), pkg("d", "1")}, waiting(only("c/1")),
			"c/1 build place\nb/1 build place after c\na/1 build place after b\n"},
		{"waiting, not automatic, and older", []observe.Seen{pkg("a", "1", needs("c"), manual), pkg("b", "1", needs("c")), pkg("b", "2", needs("c"), excluded), pkg("c", "1")}, waiting(only("c/1")),
			"c/1 build place\n"},
		{"dependency unknown, already built", []observe.Seen{pkg("a", "1", needs("b"), built)}, auto, "a/1 place\n"},
		{"dependency not automatic", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", manual)}, auto,
			"a/1 fail: it needs b, which is not installed for this kernel and is not built automatically\n"},
		{"dependency fails", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", confused), pkg("c", "1", needs("a"))}, auto,
			"b/1 fail: AUTOINSTALL must be yes or no\na/1 fail: it needs b/1, which fails\nc/1 fail: it needs a/1, which fails\n"},
		{"dependency excluded", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", excluded)}, auto,
			"b/1 skip: it is only for kernels up to 5\na/1 skip: it needs b/1, which is not for this kernel: it is only for kernels up to 5\n"},
		{"circle", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", needs("a")), pkg("c", "1")}, auto,
			"b/1 fail: BUILD_DEPENDS goes round in a circle: a needs b needs a\na/1 fail: it needs b/1, which fails\nc/1 build place\n"},
		{"circle, built by force", []observe.Seen{pkg("a", "1", needs("b"), built), pkg("b", "1", needs("a"), built)}, auto, "b/1 place\na/1 place after b\n"},
		{"circle, forced", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", needs("a"))}, force(only("a/1")), "a/1 build place\n"},
		{"circle of one", []observe.Seen{pkg("a", "1", needs("a"))}, auto, "a/1 fail: BUILD_DEPENDS goes round in a circle: a needs a\n"},
		{"dependency forced", []observe.Seen{pkg("a", "1", needs("b"))}, force(only("a/1")), "a/1 build place\n"},
		{"dependency of an asked one", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", installed)}, only("a/1"), "a/1 build place\n"},
		{"dependency of an asked one missing", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1")}, only("a/1"),
			"a/1 fail: it needs b, which is not installed for this kernel and is not built automatically\n"},

		{"dependency changed", []observe.Seen{pkg("a", "1", installed, needs("b"), func(p *observe.Seen) {
			p.Conf.BuildDependsRebuild = true
			p.BuiltAgainst = map[string]string{"b": "1"}
		}), pkg("b", "2", installed)}, auto, "b/2 current\na/1 build place\n"},
		{"dependency unchanged", []observe.Seen{pkg("a", "1", installed, needs("b"), func(p *observe.Seen) {
			p.Conf.BuildDependsRebuild = true
			p.BuiltAgainst = map[string]string{"b": "2"}
		}), pkg("b", "2", installed)}, auto, "b/2 current\na/1 current\n"},
		{"dependency changed, no matter", []observe.Seen{pkg("a", "1", installed, needs("b"), func(p *observe.Seen) {
			p.BuiltAgainst = map[string]string{"b": "1"}
		}), pkg("b", "2", installed)}, auto, "b/2 current\na/1 current\n"},

		{"shared", []observe.Seen{pkg("a", "1", weak), pkg("b", "1")}, auto, "a/1 current\nb/1 build place\n"},
		{"shared and built", []observe.Seen{pkg("a", "1", weak, built)}, auto, "a/1 current\n"},
		{"shared, and does not want it", []observe.Seen{pkg("a", "1", weak, stubborn)}, auto, "a/1 build place\n"},
		{"shared and excluded", []observe.Seen{pkg("a", "1", weak, excluded)}, auto, "a/1 skip: it is only for kernels up to 5\n"},
		{"shared, older version", []observe.Seen{pkg("a", "1", weak), pkg("a", "2")}, auto, "a/2 build place\na/1 current if a/2 fails\n"},
		{"shared, older version installed", []observe.Seen{pkg("a", "1", installed), pkg("a", "2", weak)}, auto, "a/2 build place\na/1 current if a/2 fails\n"},
		{"shared, asked", []observe.Seen{pkg("a", "1", weak)}, only("a/1"), "a/1 build place\n"},
		{"shared, forced", []observe.Seen{pkg("a", "1", weak)}, force(auto), "a/1 build place\n"},
		{"shared, and a dependency", []observe.Seen{pkg("a", "1", needs("b")), pkg("b", "1", weak, needs("c")), pkg("c", "1", weak), pkg("d", "1", weak)}, auto,
			"c/1 build place\nb/1 build place after c\na/1 build place after b\nd/1 current\n"},
		{"shared with a kernel that goes", []observe.Seen{pkg("a", "1", weak), pkg("b", "1"), pkg("c", "1", weak, manual), pkg("d", "1", damaged)}, leaving("6.1"),
			"a/1 build place\nc/1 build place\n"},
		{"shared with a kernel that stays", []observe.Seen{pkg("a", "1", weak)}, leaving("6.0"), ""},
		{"shared with a kernel that goes, another version installed", []observe.Seen{pkg("a", "1", installed), pkg("a", "2", weak)}, leaving("6.1"), ""},
		{"shared with a kernel that goes, newer version", []observe.Seen{pkg("a", "1", weak), pkg("a", "2")}, leaving("6.1"), "a/2 build place\n"},
		{"shared with a kernel that goes, and a dependency", []observe.Seen{pkg("a", "1", weak, needs("b")), pkg("b", "1"), pkg("c", "1")}, leaving("6.1"),
			"b/1 build place\na/1 build place after b\n"},
		{"shared with its dependency", []observe.Seen{pkg("a", "1", weak, needs("b")), pkg("b", "1", weak)}, auto, "b/1 current\na/1 current\n"},

		{"conflict", []observe.Seen{pkg("a", "1", modules("x")), pkg("b", "1", modules("y", "x"))}, auto,
			"a/1 build place\nb/1 skip: its module x.ko belongs to a/1 for this kernel; to install it all the same: dkms install b/1 -k \n"},
		{"conflict of a dash and an underscore", []observe.Seen{pkg("a", "1", modules("n-n")), pkg("b", "1", modules("y", "n_n"))}, auto,
			"a/1 build place\nb/1 skip: its module n_n.ko belongs to a/1 for this kernel; to install it all the same: dkms install b/1 -k \n"},
		{"conflict with an installed one", []observe.Seen{pkg("a", "1", modules("x")), pkg("b", "1", modules("x"), installed, func(p *observe.Seen) { p.Modules = []string{"x.ko"} })}, auto,
			"a/1 skip: its module x.ko belongs to b/1 for this kernel; to install it all the same: dkms install a/1 -k \nb/1 current\n"},
		{"conflict with an installed one, asked", []observe.Seen{pkg("a", "1", modules("x")), pkg("b", "1", modules("x"), installed)}, only("a/1"), "a/1 build place\n"},
		{"taken", []observe.Seen{pkg("a", "1", modules("x"), taken("b"), func(p *observe.Seen) { p.Modules = []string{"x.ko"} }), pkg("b", "1", modules("x"), installed, func(p *observe.Seen) { p.Modules = []string{"x.ko"} })}, auto,
			"a/1 current: b/1 was installed over it\nb/1 current\n"},
		{"taken, asked", []observe.Seen{pkg("a", "1", taken("b"))}, only("a/1"), "a/1 place\n"},
		{"taken, forced", []observe.Seen{pkg("a", "1", taken("b"))}, force(auto), "a/1 place\n"},
		{"conflict forced", []observe.Seen{pkg("a", "1", modules("x"), installed), pkg("b", "1", modules("x"))}, force(only("b/1")), "b/1 build place\n"},
		{"no conflict between versions", []observe.Seen{pkg("a", "1", installed), pkg("a", "2")}, auto, "a/2 build place\na/1 current if a/2 fails\n"},

		{"failed before", []observe.Seen{pkg("a", "1", failed), pkg("b", "1", needs("a"))}, auto,
			"a/1 fail: it did before\nb/1 fail: it needs a/1, which fails\n"},
		{"failed before, asked", []observe.Seen{pkg("a", "1", failed)}, retry(only("a/1")), "a/1 build place\n"},
		{"failed before, forced", []observe.Seen{pkg("a", "1", failed)}, force(auto), "a/1 build place\n"},
		{"failed before, built since", []observe.Seen{pkg("a", "1", failed, built)}, auto, "a/1 place\n"},
		{"failed before, built against something new", []observe.Seen{pkg("a", "1", failed, needs("b")), pkg("b", "1")}, auto,
			"b/1 build place\na/1 build place after b\n"},
		{"failed before, built against what is built", []observe.Seen{pkg("a", "1", failed, needs("b")), pkg("b", "1", built)}, auto,
			"b/1 place\na/1 fail: it did before\n"},

		{"signed with another key", []observe.Seen{pkg("a", "1", rekeyed), pkg("b", "1", installed, needs("a"))}, renew(auto), "a/1 sign place\nb/1 current\n"},
		{"signed with another key, and dependent on what is out of date", []observe.Seen{pkg("a", "1", rekeyed, needs("b")), pkg("b", "1", installed, func(p *observe.Seen) { p.Stale = "it changed" })}, renew(auto),
			"b/1 build place\na/1 build place after b\n"},
		{"signed with another key, not asked to renew", []observe.Seen{pkg("a", "1", rekeyed)}, auto, "a/1 current\n"},
		{"signed with another key, forced", []observe.Seen{pkg("a", "1", rekeyed)}, force(only("a/1")), "a/1 sign place\n"},
		{"signed with another key, build forced", []observe.Seen{pkg("a", "1", rekeyed)}, force(build(only("a/1"))), "a/1 build\n"},
		{"one asked", []observe.Seen{pkg("a", "1"), pkg("b", "1")}, only("b/1"), "b/1 build place\n"},
		{"old version asked", []observe.Seen{pkg("a", "1"), pkg("a", "2", installed)}, only("a/1"), "a/1 build place\n"},
		{"asked though not automatic", []observe.Seen{pkg("a", "1", manual)}, only("a/1"), "a/1 build place\n"},
		{"asked and excluded", []observe.Seen{pkg("a", "1", excluded)}, only("a/1"), "a/1 skip: it is only for kernels up to 5\n"},
		{"build", []observe.Seen{pkg("a", "1")}, build(only("a/1")), "a/1 build\n"},
		{"build again", []observe.Seen{pkg("a", "1", built)}, force(build(only("a/1"))), "a/1 build\n"},
		{"build, done", []observe.Seen{pkg("a", "1", built)}, build(only("a/1")), "a/1 current\n"},
		{"install again", []observe.Seen{pkg("a", "1", installed)}, force(only("a/1")), "a/1 place\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := Make(observe.View{Headers: true, Packages: tt.packages}, tt.request)
			if diff := cmp.Diff(tt.want, p.String()); diff != "" {
				t.Error(diff)
			}
			for n, item := range p.Items {
				if f := item.Failure; (item.Verdict == Fail) != (f != nil) || f != nil && (f.What == "" || f.Status == 0 || f.Hint == "") {
					t.Errorf("%s: %+v", item.ID, item)
				}
				for _, need := range item.Needs {
					if need >= n {
						t.Errorf("%s stands before %s, which it needs", item.ID, p.Items[need].ID)
					}
				}
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	packages := []observe.Seen{pkg("a", "1"), pkg("b", "1", built), pkg("c", "1", installed), pkg("d", "1", needs("a"))}
	p := Make(observe.View{LacksHeaders: "/lib/modules/6.1/build/include", HeadersHint: "get them", Packages: packages}, Request{Goal: Installed})
	const missing = "/lib/modules/6.1/build/include does not exist"
	want := "a/1 fail: " + missing + "\nb/1 place\nc/1 current\nd/1 fail: " + missing + "\n"
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Error(diff)
	}
	// They are told together.
	if a, d := p.Items[0].Failure, p.Items[3].Failure; a != d || a.Status != failure.StatusHeaders || a.Hint != "get them" {
		t.Errorf("%+v, %+v", a, d)
	}
}

func TestDependsOn(t *testing.T) {
	records := func(p *observe.Seen) { p.Conf.BuildDependsRebuild = true }
	packages := []observe.Seen{pkg("a", "1", records, needs("b", "c", "d")), pkg("b", "1", installed), pkg("b", "2"), pkg("c", "1", installed, manual), pkg("e", "1", needs("b"))}
	p := Make(observe.View{Headers: true, Packages: packages}, Request{Goal: Installed, Force: true})
	for _, item := range p.Items {
		var want map[string]string
		if item.Name == "a" {
			want = map[string]string{"b": "2", "c": "1"}
		}
		if diff := cmp.Diff(want, item.DependsOn); diff != "" {
			t.Errorf("%s: %s", item.ID, diff)
		}
	}
}
