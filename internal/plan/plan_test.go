package plan

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/conf"
	"dkms-kernel-install/internal/tree"
)

// pkg makes a package that is to be installed automatically, with one module of
// its own name; changes adjust it.
func pkg(name, version string, changes ...func(*Package)) Package {
	p := Package{
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

func built(p *Package)     { p.Built, p.Modules = true, []string{p.Name + ".ko.xz"} }
func installed(p *Package) { built(p); p.Installed, p.Current = true, true }
func damaged(p *Package)   { installed(p); p.Current = false }
func manual(p *Package)    { p.Conf.Autoinstall = false }
func broken(p *Package)    { p.Source = "" }
func badConf(p *Package)   { p.ConfErr = errors.New("AUTOINSTALL must be yes or no") }
func excluded(p *Package)  { p.Conf.Excluded = "it is only for kernels up to 5" }
func needs(names ...string) func(*Package) {
	return func(p *Package) { p.Conf.BuildDepends = names }
}
func weak(p *Package)     { p.WeakFrom = "6.1" }
func stubborn(p *Package) { p.Conf.NoWeakModules = true }
func modules(names ...string) func(*Package) {
	return func(p *Package) {
		p.Conf.Modules = nil
		for _, n := range names {
			p.Conf.Modules = append(p.Conf.Modules, conf.Module{BuiltName: n, DestName: n})
		}
	}
}

// show renders a plan in a line for each item.
func show(items []Item) string {
	var b strings.Builder
	for i, item := range items {
		fmt.Fprintf(&b, "%s ", item.ID)
		switch item.Verdict {
		case Do:
			if item.Build {
				b.WriteString("build ")
			}
			if item.Place {
				b.WriteString("place ")
			}
			for _, n := range item.Needs {
				if n >= i {
					b.WriteString("BEFORE ")
				}
				fmt.Fprintf(&b, "after %s ", items[n].Name)
			}
		case Current:
			b.WriteString("current ")
		case Skip:
			b.WriteString("skip: " + item.Why + " ")
		case Fail:
			b.WriteString("fail: " + item.Why + " ")
		}
		b.WriteString("\n")
	}
	return strings.ReplaceAll(b.String(), " \n", "\n")
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
	build := func(r Request) Request { r.Goal = Built; return r }

	for _, tt := range []struct {
		name     string
		packages []Package
		request  Request
		want     string
	}{
		{"nothing", nil, auto, ""},
		{"new", []Package{pkg("a", "1")}, auto, "a/1 build place\n"},
		{"built", []Package{pkg("a", "1", built)}, auto, "a/1 place\n"},
		{"installed", []Package{pkg("a", "1", installed)}, auto, "a/1 current\n"},
		{"files gone", []Package{pkg("a", "1", damaged)}, auto, "a/1 place\n"},
		{"module gone from the tree", []Package{pkg("a", "1", installed, modules("a", "b"))}, auto, "a/1 build place\n"},
		{"not automatic", []Package{pkg("a", "1", manual), pkg("b", "1")}, auto, "b/1 build place\n"},
		{"not automatic, files gone", []Package{pkg("a", "1", manual, damaged)}, auto, "a/1 place\n"},
		{"broken", []Package{pkg("a", "1", broken), pkg("b", "1")}, auto,
			"a/1 fail: its source is gone: the link in the tree leads nowhere\nb/1 build place\n"},
		{"bad conf", []Package{pkg("a", "1", badConf), pkg("b", "1")}, auto,
			"a/1 fail: AUTOINSTALL must be yes or no\nb/1 build place\n"},
		{"excluded", []Package{pkg("a", "1", excluded)}, auto, "a/1 skip: it is only for kernels up to 5\n"},

		{"newest of two", []Package{pkg("a", "1.9"), pkg("a", "1.10")}, auto, "a/1.10 build place\n"},
		{"newer than the installed", []Package{pkg("a", "1.9", installed), pkg("a", "1.10")}, auto, "a/1.10 build place\n"},
		{"newest not automatic", []Package{pkg("a", "1"), pkg("a", "2", manual)}, auto, ""},
		{"newest not automatic, old one's files gone", []Package{pkg("a", "1", damaged), pkg("a", "2", manual)}, auto, "a/1 place\n"},
		{"newest broken", []Package{pkg("a", "1", installed), pkg("a", "2", broken)}, auto,
			"a/2 fail: its source is gone: the link in the tree leads nowhere\n"},

		{"dependency", []Package{pkg("a", "1", needs("b")), pkg("b", "1")}, auto, "b/1 build place\na/1 build place after b\n"},
		{"chain", []Package{pkg("a", "1", needs("b")), pkg("b", "1", needs("c")), pkg("c", "1")}, auto,
			"c/1 build place\nb/1 build place after c\na/1 build place after b\n"},
		{"diamond", []Package{pkg("a", "1", needs("b", "c")), pkg("b", "1", needs("d")), pkg("c", "1", needs("d")), pkg("d", "1")}, auto,
			"d/1 build place\nb/1 build place after d\nc/1 build place after d\na/1 build place after b after c\n"},
		{"dependency installed", []Package{pkg("a", "1", needs("b")), pkg("b", "1", installed)}, auto, "b/1 current\na/1 build place\n"},
		{"dependency installed by hand", []Package{pkg("a", "1", needs("b")), pkg("b", "1", installed, manual)}, auto, "a/1 build place\n"},
		{"dependency unknown", []Package{pkg("a", "1", needs("b"))}, auto, "a/1 fail: it needs b, which is not registered\n"},
		{"dependency unknown, already built", []Package{pkg("a", "1", needs("b"), built)}, auto, "a/1 place\n"},
		{"dependency not automatic", []Package{pkg("a", "1", needs("b")), pkg("b", "1", manual)}, auto,
			"a/1 fail: it needs b, which is not installed for this kernel and is not built automatically\n"},
		{"dependency fails", []Package{pkg("a", "1", needs("b")), pkg("b", "1", badConf), pkg("c", "1", needs("a"))}, auto,
			"b/1 fail: AUTOINSTALL must be yes or no\na/1 fail: it needs b/1, which fails\nc/1 fail: it needs a/1, which fails\n"},
		{"dependency excluded", []Package{pkg("a", "1", needs("b")), pkg("b", "1", excluded)}, auto,
			"b/1 skip: it is only for kernels up to 5\na/1 skip: it needs b/1, which is not for this kernel: it is only for kernels up to 5\n"},
		{"circle", []Package{pkg("a", "1", needs("b")), pkg("b", "1", needs("a")), pkg("c", "1")}, auto,
			"b/1 fail: BUILD_DEPENDS goes round in a circle: a needs b needs a\na/1 fail: it needs b/1, which fails\nc/1 build place\n"},
		{"circle of one", []Package{pkg("a", "1", needs("a"))}, auto, "a/1 fail: BUILD_DEPENDS goes round in a circle: a needs a\n"},
		{"dependency forced", []Package{pkg("a", "1", needs("b"))}, force(only("a/1")), "a/1 build place\n"},
		{"dependency of an asked one", []Package{pkg("a", "1", needs("b")), pkg("b", "1", installed)}, only("a/1"), "a/1 build place\n"},
		{"dependency of an asked one missing", []Package{pkg("a", "1", needs("b")), pkg("b", "1")}, only("a/1"),
			"a/1 fail: it needs b, which is not installed for this kernel and is not built automatically\n"},

		{"dependency changed", []Package{pkg("a", "1", installed, needs("b"), func(p *Package) {
			p.Conf.BuildDependsRebuild = true
			p.BuiltAgainst = map[string]string{"b": "1"}
		}), pkg("b", "2", installed)}, auto, "b/2 current\na/1 build place\n"},
		{"dependency unchanged", []Package{pkg("a", "1", installed, needs("b"), func(p *Package) {
			p.Conf.BuildDependsRebuild = true
			p.BuiltAgainst = map[string]string{"b": "2"}
		}), pkg("b", "2", installed)}, auto, "b/2 current\na/1 current\n"},
		{"dependency changed, no matter", []Package{pkg("a", "1", installed, needs("b"), func(p *Package) {
			p.BuiltAgainst = map[string]string{"b": "1"}
		}), pkg("b", "2", installed)}, auto, "b/2 current\na/1 current\n"},

		{"shared", []Package{pkg("a", "1", weak), pkg("b", "1")}, auto, "a/1 current\nb/1 build place\n"},
		{"shared and built", []Package{pkg("a", "1", weak, built)}, auto, "a/1 current\n"},
		{"shared, and does not want it", []Package{pkg("a", "1", weak, stubborn)}, auto, "a/1 build place\n"},
		{"shared and excluded", []Package{pkg("a", "1", weak, excluded)}, auto, "a/1 skip: it is only for kernels up to 5\n"},
		{"shared, older version", []Package{pkg("a", "1", weak), pkg("a", "2")}, auto, "a/2 build place\n"},
		{"shared, older version installed", []Package{pkg("a", "1", installed), pkg("a", "2", weak)}, auto, "a/2 build place\n"},
		{"shared, asked", []Package{pkg("a", "1", weak)}, only("a/1"), "a/1 build place\n"},
		{"shared, forced", []Package{pkg("a", "1", weak)}, force(auto), "a/1 build place\n"},
		{"shared, and a dependency", []Package{pkg("a", "1", needs("b")), pkg("b", "1", weak, needs("c")), pkg("c", "1", weak), pkg("d", "1", weak)}, auto,
			"c/1 build place\nb/1 build place after c\na/1 build place after b\nd/1 current\n"},
		{"shared with its dependency", []Package{pkg("a", "1", weak, needs("b")), pkg("b", "1", weak)}, auto, "b/1 current\na/1 current\n"},

		{"conflict", []Package{pkg("a", "1", modules("x")), pkg("b", "1", modules("y", "x"))}, auto,
			"a/1 build place\nb/1 fail: its module x.ko belongs to a/1 for this kernel\n"},
		{"conflict with an installed one", []Package{pkg("a", "1", modules("x")), pkg("b", "1", modules("x"), installed, func(p *Package) { p.Modules = []string{"x.ko"} })}, auto,
			"a/1 fail: its module x.ko belongs to b/1 for this kernel\nb/1 current\n"},
		{"conflict forced", []Package{pkg("a", "1", modules("x"), installed), pkg("b", "1", modules("x"))}, force(only("b/1")), "b/1 build place\n"},
		{"no conflict between versions", []Package{pkg("a", "1", installed), pkg("a", "2")}, auto, "a/2 build place\n"},

		{"one asked", []Package{pkg("a", "1"), pkg("b", "1")}, only("b/1"), "b/1 build place\n"},
		{"old version asked", []Package{pkg("a", "1"), pkg("a", "2", installed)}, only("a/1"), "a/1 build place\n"},
		{"asked though not automatic", []Package{pkg("a", "1", manual)}, only("a/1"), "a/1 build place\n"},
		{"asked and excluded", []Package{pkg("a", "1", excluded)}, only("a/1"), "a/1 skip: it is only for kernels up to 5\n"},
		{"build", []Package{pkg("a", "1")}, build(only("a/1")), "a/1 build\n"},
		{"build again", []Package{pkg("a", "1", built)}, force(build(only("a/1"))), "a/1 build\n"},
		{"build, done", []Package{pkg("a", "1", built)}, build(only("a/1")), "a/1 current\n"},
		{"install again", []Package{pkg("a", "1", installed)}, force(only("a/1")), "a/1 place\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			items := Make(tt.packages, tt.request)
			if diff := cmp.Diff(tt.want, show(items)); diff != "" {
				t.Error(diff)
			}
			for _, item := range items {
				if item.Verdict == Fail && (item.Cause == NoCause || item.Hint == "") {
					t.Errorf("%s fails without cause or hint: %+v", item.ID, item)
				}
			}
		})
	}
}
