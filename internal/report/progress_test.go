// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/report/reporttest"
	"dkms-kernel-install/internal/tree"
)

func jobOf(name, release string) job {
	return job{tree.ID{Name: name, Version: "1"}, tree.Target{Release: release, Arch: "x86_64"}}
}

func TestProgressLines(t *testing.T) {
	one := []work{{jobOf("toy", "6.1"), true, 61 * time.Second}, {jobOf("bad", "6.12.57+deb13-amd64"), false, 3661 * time.Second}}
	long := strings.Repeat("n", 200)
	var many []work
	for i := range 40 {
		many = append(many, work{jobOf(long, fmt.Sprintf("6.%d", i)), true, time.Second})
	}
	for _, tt := range []struct {
		name          string
		state         state
		columns, rows int
		want          string
	}{
		{"nothing", state{}, 80, 24, ""},
		{"all done", state{builds: 2, ended: 2}, 80, 24, ""},
		{"some", state{running: one, builds: 3, ended: 1}, 80, 24, `
1 of 3 done
  1:01  building toy/1 for 6.1
1:01:01  installing bad/1 for 6.12.57+deb13-amd64`},
		{"no build", state{running: one[:1]}, 80, 24, `
  1:01  building toy/1 for 6.1`},
		{"how long", state{running: one[:1], builds: 2, left: 119 * time.Second}, 80, 24, `
0 of 2 done, about 2 min to come
  1:01  building toy/1 for 6.1`},
		{"narrow", state{running: one, builds: 30, ended: 10, left: 10 * time.Hour}, 20, 24, `
10 of 30 done
  1:01  toy/1…r 6.1
1:01:01  bad/1…md64`},
		{"many, long", state{running: many, builds: 40}, 30, 10, `
0 of 40 done
  0:01  nnnnnnnnnn…/1 for 6.0
  0:01  nnnnnnnnnn…/1 for 6.1
  0:01  nnnnnnnnnn…/1 for 6.2
        and 37 more`},
		{"narrower than that", state{running: one, builds: 3}, 12, 24, ""},
		{"low", state{running: one, builds: 3}, 80, 3, ""},
		{"steers", state{running: []work{{jobOf("\x1b[2Jx\ny", "6\u202e"), true, 0}}}, 80, 24, `
  0:00  building ?[2Jx; y/1 for 6?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			list := tt.state.lines(tt.columns, tt.rows)
			if diff := cmp.Diff(strings.TrimPrefix(tt.want, "\n"), strings.Join(list, "\n")); diff != "" {
				t.Error(diff)
			}
			for _, line := range list {
				if length(line) >= tt.columns {
					t.Errorf("%q is %d wide", line, length(line))
				}
			}
		})
	}
}

func TestLeft(t *testing.T) {
	a, b, c := jobOf("a", "6.1"), jobOf("b", "6.1"), jobOf("c", "6.1")
	known := func(j job, elapsed, busy time.Duration) execute.Expected {
		return execute.Expected{ID: j.id, Kernel: j.k, Elapsed: elapsed, Busy: busy}
	}
	const s = time.Second
	for _, tt := range []struct {
		name       string
		expected   []execute.Expected
		running    []work
		done, took time.Duration
		want       time.Duration
	}{
		{"nothing", nil, nil, 0, 0, 0},
		{"has just begun", []execute.Expected{known(a, 10*s, 10*s)}, []work{{a, true, s / 2}}, 0, s / 2, 0},
		{"one", []execute.Expected{known(a, 10*s, 5*s)}, []work{{a, true, 4 * s}}, 0, 4 * s, 6 * s},
		{"is not known", []execute.Expected{known(a, 10*s, 5*s), known(b, 0, 0)}, []work{{a, true, 4 * s}}, 0, 4 * s, 0},
		{"takes longer than ever", []execute.Expected{known(a, 10*s, 5*s)}, []work{{a, true, 14 * s}}, 0, 14 * s, 0},
		{"others are as long", []execute.Expected{known(a, 10*s, 10*s), known(b, 10*s, 10*s), known(c, 10*s, 10*s)}, []work{{a, true, 5 * s}}, 10 * s, 15 * s, 25 * s},
		{"all of it takes twice as long", []execute.Expected{known(a, 10*s, 10*s), known(b, 10*s, 10*s)}, []work{{a, true, 5 * s}}, 10 * s, 30 * s, 30 * s},
		{"those before were from the cache", []execute.Expected{known(a, 10*s, 5*s), known(b, 10*s, 5*s)}, []work{{a, true, 2 * s}}, 99 * s, 3 * s, 10 * s},
		{"one that does not share", []execute.Expected{known(a, 10*s, s), known(b, 100*s, s)}, []work{{a, true, 5 * s}, {b, true, 5 * s}}, 0, 5 * s, 95 * s},
		{"only an installation runs", []execute.Expected{known(a, 10*s, 5*s)}, []work{{b, false, 4 * s}}, 0, 4 * s, 0},
	} {
		expected := map[job]execute.Expected{}
		for _, e := range tt.expected {
			expected[job{e.ID, e.Kernel}] = e
		}
		if got := left(expected, tt.running, tt.done, tt.took); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
	for d, want := range map[time.Duration]string{
		1: "5 s", 9 * s: "10 s", 54 * s: "55 s", 55 * s: "1 min", 89 * s: "1 min", 91 * s: "2 min", 89 * time.Minute: "89 min", 100 * time.Minute: "2 h",
	} {
		if got := toCome(d); got != ", about "+want+" to come" {
			t.Errorf("%v: %s", d, got)
		}
	}
}

// writes counts what it passes on.
type writes struct {
	*reporttest.Screen
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.Screen.Write(p)
}

// TestProgress shows a run on a terminal that changes its size, and looks at it now and then.
func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		screen, rows := &writes{Screen: &reporttest.Screen{Columns: 60}}, 24
		p := NewProgress(screen, func() (int, int) { return screen.Columns, rows })
		out := Clean(p.Above(screen))
		timeline := NewTimeline(NewText(out, "", true, false))
		// look looks after some time, and returns how often something was written since.
		look := func(after time.Duration, want string) (n int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			p.mu.Lock()
			defer p.mu.Unlock()
			if diff := cmp.Diff(want, screen.String()); diff != "" {
				t.Error(diff)
			}
			if screen.NoWrap || screen.X != 0 && !p.within {
				t.Errorf("the cursor is at %d", screen.X)
			}
			n, screen.n = screen.n, 0
			return n
		}
		// resize changes the size, which makes the lines below the cursor look so.
		resize := func(columns, lines int, below string) {
			p.mu.Lock()
			defer p.mu.Unlock()
			screen.Columns, rows = columns, lines
			fmt.Fprint(screen, below)
		}

		stop := p.Show(t.Context(), timeline)
		a, b := jobOf("a", "6.1"), jobOf("b", "6.1")
		timeline.Expect([]execute.Expected{{ID: a.id, Kernel: a.k}, {ID: b.id, Kernel: b.k}})
		if n := look(time.Minute, "\n"); n > 0 {
			t.Errorf("%d writes of nothing", n)
		}
		timeline.Start(a.id, a.k, true)
		text := "a/1 for 6.1: building\n"
		look(0, text)
		look(1100*time.Millisecond, text+"0 of 2 done\n  0:01  building a/1 for 6.1\n")
		timeline.Start(b.id, b.k, true)
		text += "b/1 for 6.1: building\n"
		look(period, text+"0 of 2 done\n  0:01  building a/1 for 6.1\n  0:00  building b/1 for 6.1\n")
		if n := look(10*time.Second, text+"0 of 2 done\n  0:11  building a/1 for 6.1\n  0:10  building b/1 for 6.1\n"); n > 20 {
			t.Errorf("%d writes in 10 seconds", n)
		}
		for i := range 100 {
			timeline.Note(fmt.Sprint(i))
			text += fmt.Sprintln(i)
		}
		fmt.Fprint(out, "within a line")
		if n := look(time.Second, text+"within a line\n"); n > 105 {
			t.Errorf("%d writes for 100 lines", n)
		}
		fmt.Fprint(out, ".\n")
		text += "within a line.\n"
		look(0, text+"0 of 2 done\n  0:12  building a/1 for 6.1\n  0:11  building b/1 for 6.1\n")

		// The terminal gets narrower, and wraps what was there: the cursor stays where it was.
		resize(20, 24, "0 of 2 done\n  0:12  building a/1\nfor 6.1\n  0:11  building b/1\nfor 6.1\r\x1b[4A")
		look(time.Second, text+"0 of 2 done\n  0:13  a/1 for 6.1\n  0:12  b/1 for 6.1\n")
		resize(20, 3, "")
		look(time.Second, text)
		resize(60, 24, "")
		timeline.Done(execute.Result{ID: a.id, Kernel: a.k, Outcome: execute.Done, Built: true, Took: 14 * time.Second})
		text += "a/1 for 6.1: built in 14.0 s\n"
		look(0, text+"1 of 2 done\n  0:13  building b/1 for 6.1\n")
		stop()
		look(0, text)
		timeline.Note("that was it")
		if n := look(time.Minute, text+"that was it\n"); n != 1 {
			t.Errorf("%d writes after the end", n)
		}
	})
}
