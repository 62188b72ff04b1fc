// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/explain"
	"dkms-kernel-install/internal/observe"
	"dkms-kernel-install/internal/tree"
)

func TestTable(t *testing.T) {
	small := Table{
		Kernels: []string{"6.1", "6.2"}, Running: 1,
		Rows: []Row{{"bad/1", []Sign{PassedOver, Failed}}, {"toy/10", []Sign{Installed, Installed}}},
	}
	like := func(running int, rows ...string) Table { // a character for each kernel
		t := Table{Running: running}
		for i := range rows[0] {
			t.Kernels = append(t.Kernels, fmt.Sprintf("6.1.%d", i))
		}
		for n, row := range rows {
			r := Row{Name: fmt.Sprintf("toy%d/1.0", n)}
			for _, mark := range row {
				for s := range signs {
					if signs[s].mark == string(mark) {
						r.Signs = append(r.Signs, Sign(s))
					}
				}
			}
			t.Rows = append(t.Rows, r)
		}
		return t
	}
	for _, tt := range []struct {
		name  string
		table Table
		width int
		color bool
		want  string
	}{
		{"small", small, 80, false, `
        6.1  6.2*
bad/1   -    x
toy/10  +    +

x failed   + installed   - passed over   * the running kernel
`},
		{"in color", small, 80, true, "\n" +
			"        6.1  6.2*\n" +
			"bad/1   \x1b[2m-\x1b[0m    \x1b[31mx\x1b[0m\n" +
			"toy/10  \x1b[32m+\x1b[0m    \x1b[32m+\x1b[0m\n\n" +
			"\x1b[31mx\x1b[0m failed   \x1b[32m+\x1b[0m installed   \x1b[2m-\x1b[0m passed over   * the running kernel\n"},
		{"all columns fit exactly", small, 18, false, `
        6.1  6.2*
bad/1   -    x
toy/10  +    +

x failed
+ installed
- passed over
* the run…g kernel
`},
		{"equal neighbors share a column, and not with the running kernel", like(5, "+++++++++x+"), 60, false, `
          6.1.0 … 6.1.4 (5)
          |  6.1.5*
          |  |  6.1.6 … 6.1.8 (3)
          |  |  |  6.1.9
          |  |  |  |  6.1.10
toy0/1.0  +  +  +  x  +

x failed   + installed   * the running kernel
`},
		{"equal neighbors, and now all fits", like(-1, "+++++++"), 30, false, `
          6.1.0 … 6.1.6 (7)
toy0/1.0  +

+ installed
`},
		{"several tables", like(-1, "+-+-", "++xx"), 20, false, `
          6.1.0
          |  6.1.1
toy0/1.0  +  -
toy1/1.0  +  +

          6.1.2
          |  6.1.3
toy0/1.0  +  -
toy1/1.0  x  x

x failed
+ installed
- passed over
`},
		{"no kernel", Table{Running: -1, Rows: []Row{{Name: "averyverylongname/1.0"}}}, 12, false, `
avery…/1.0
`},
		{"long names", Table{Kernels: []string{"6.1.0-18-amd64", "6.1.0-19-amd64"}, Running: -1, Rows: []Row{{"a-package-of-a-long-name/1.0", []Sign{Kept, Stale}}}}, 20, false, `
            6.1.…d64
a-pac…/1.0  k

            6.1.…d64
a-pac…/1.0  ~

~ out of date
k kept fro…n upgrade
`},
		{"what to do", Table{Todos: []Todo{{"toy/1.0 for 6.1: built: nope", "run: make it so, captain"}, {"averyveryverylongword", ""}}}, 20, false, `

toy/1.0 for 6.1:
  built: nope
  do:  run: make it
       so, captain
averyveryverylongwor
  d
`},
		{"text of packages", Table{Kernels: []string{"6.1"}, Running: -1, Rows: []Row{{"e\x1b[31m/1\u202e\n\t", []Sign{Absent}}},
			Todos: []Todo{{"e\x1b[31m: \u009b\nnope", "\x1b[2J"}}}, 80, true, "\n" +
			"              6.1\ne?[31m/1?;    \x1b[2m.\x1b[0m\n\n\x1b[2m.\x1b[0m not there\n\ne?[31m: ?; nope\n  do:  ?[2J\n"},
		{"nothing", Table{Running: -1}, 0, false, "\n"},
	} {
		if diff := cmp.Diff(tt.want, "\n"+tt.table.Text(tt.width, tt.color)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

// However narrow the terminal and long the names, no line is wider, and all is there.
func TestTableWidth(t *testing.T) {
	table := Table{Running: 20}
	for i := range 40 {
		table.Kernels = append(table.Kernels, fmt.Sprintf("6.%d.0-%s", i, strings.Repeat("ü", i*5)))
	}
	for n := range 12 {
		r := Row{Name: strings.Repeat("n\x1b", 100*(n%2)) + fmt.Sprintf("p%d/1.0", n)}
		for i := range 40 {
			r.Signs = append(r.Signs, Sign((i*i+n)%len(signs)))
		}
		table.Rows = append(table.Rows, r)
	}
	table.Todos = []Todo{{table.Rows[1].Name + " for " + strings.Join(table.Kernels, ", "), strings.Repeat("do ", 200)}}
	colors := regexp.MustCompile("\x1b\\[[0-9]+m")
	for width := 10; width < 300; width += 5 {
		text := table.Text(width, true)
		if plain := table.Text(width, false); colors.ReplaceAllString(text, "") != plain || plain != clean(plain) {
			t.Fatalf("%d: colors are not all that makes a difference", width)
		}
		marks := 0
		for line := range strings.Lines(text) {
			if n := length(strings.TrimSuffix(colors.ReplaceAllString(line, ""), "\n")); n > width {
				t.Errorf("%d: a line of %d: %q", width, n, line)
			}
			marks += strings.Count(line, "\x1b[0m")
		}
		if want := 40*12 + len(signs); marks != want {
			t.Errorf("%d: %d marks, want %d", width, marks, want)
		}
	}
}

func TestOverview(t *testing.T) {
	k := func(release string) tree.Target { return tree.Target{Release: release, Arch: "x86_64"} }
	other := tree.Target{Release: "6.1", Arch: "i686"}
	id := func(name string) tree.ID { return tree.ID{Name: name, Version: "6.1"} }
	bad := func(id tree.ID, release string, links ...explain.Link) explain.Chain {
		return explain.Chain{ID: id, Kernel: k(release), Links: links}
	}
	got := Overview([]tree.Target{other, k("6.1"), k("6.2"), k("6.3")}, k("6.2"),
		[]observe.Status{
			{ID: id("added"), State: observe.StateAdded},
			{ID: id("broken"), State: observe.StateBroken},
			{ID: id("toy"), Kernel: k("6.1"), State: observe.StateInstalled},
			{ID: id("toy"), Kernel: k("6.2"), State: observe.StateInstalled, Differs: true},
			{ID: id("toy"), Kernel: other, State: observe.StateKept},
			{ID: id("two"), Kernel: k("6.1"), State: observe.StateBuilt},
			{ID: id("two"), Kernel: k("6.2"), State: observe.StateBuilt, Missing: true},
			{ID: id("two"), Kernel: k("6.3"), State: observe.StateWeak},
		},
		[]observe.FailedBuild{
			{ID: id("added"), Kernel: k("6.3"), What: "build failed", Why: "nope", TryAgain: "dkms install added/6.1 -k 6.3"},
			{ID: id("two"), Kernel: k("6.2"), What: "build failed", Why: "told already", TryAgain: "it"},
			{ID: id("gone"), Kernel: k("6.4")},
		},
		[]explain.Chain{
			bad(id("added"), "6.1", explain.Link{Step: "wanted", State: explain.Bad, Is: "no", Do: "run: dkms install added/6.1 -k 6.1"}),
			bad(id("added"), "6.2", explain.Link{Step: "wanted", State: explain.Bad, Is: "no", Do: "run: dkms install added/6.1 -k 6.2"}),
			bad(id("broken"), "6.1", explain.Link{Step: "registered", State: explain.Bad, Is: "no", Do: "run: dkms remove broken/6.1 -k 6.1"}),
			bad(id("broken"), "6.2", explain.Link{Step: "registered", State: explain.Bad, Is: "no", Do: "run: dkms remove broken/6.1 -k 6.2"}),
			bad(id("toy"), "6.1", explain.Link{Step: "wanted", State: explain.Note}, explain.Link{Step: "built", State: explain.Note}),
			bad(id("toy"), "6.3", explain.Link{Step: "headers", State: explain.Bad, Is: "/6.3/build is not there", Do: "install 6.3.1"}),
			bad(id("two"), "6.1", explain.Link{Step: "built", State: explain.Bad, Is: "/6.1/x is bad", Do: "a newer one may support kernel 6.1; run: dkms-kernel-install add 6.1"}),
			bad(id("two"), "6.2", explain.Link{Step: "built", State: explain.Bad, Is: "/6.2/x is bad", Do: "a newer one may support kernel 6.2; run: dkms-kernel-install add 6.2"}),
			bad(id("two"), "6.3", explain.Link{Step: "headers", State: explain.Bad, Is: "/6.3/build is not there", Do: "install 6.3.1"}),
		})
	want := Table{
		Kernels: []string{"6.1/i686", "6.1", "6.2", "6.3"}, Running: 2,
		Rows: []Row{
			{"added/6.1", []Sign{Absent, PassedOver, PassedOver, Failed}},
			{"broken/6.1", []Sign{Gone, Gone, Gone, Gone}},
			{"toy/6.1", []Sign{Kept, Stale, Differs, Absent}},
			{"two/6.1", []Sign{Absent, Built, Failed, Linked}},
		},
		Todos: []Todo{
			{"broken/6.1 for 6.1, 6.2: registered: no", "run: dkms remove broken/6.1 -k 6.1 -k 6.2"},
			{"toy/6.1, two/6.1 for 6.3: headers: /6.3/build is not there", "install 6.3.1"},
			{"two/6.1 for 6.1, 6.2: built: /KERNEL/x is bad", "a newer one may support these kernels; run: dkms-kernel-install add 6.1 6.2"},
			{"added/6.1 for 6.3: built: build failed: nope", "run: dkms install added/6.1 -k 6.3"},
			{"gone/6.1 for 6.4: built: : ", "run: "},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestSome(t *testing.T) {
	if got := some(strings.Fields("a b c d")); got != "a, b, c, d" {
		t.Error(got)
	}
	if got := some(strings.Fields("a b c d e")); got != "a, b, c and 2 more" {
		t.Error(got)
	}
}
