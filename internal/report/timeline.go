// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"cmp"
	"io"
	"slices"
	"sync"
	"time"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/tree"
)

// Timeline hears of a run as the Text in it does, and keeps when the work on each package
// was done, and what is to come.
type Timeline struct {
	*Text
	began    time.Time
	mu       sync.Mutex
	running  []work // by lane; one that has ended has no package
	ended    []span
	builds   int                      // that were expected
	unknown  bool                     // what one of them takes is
	expected map[job]execute.Expected // those of them that have not ended
	done     time.Duration            // how long those that have could keep all processors busy
	first    time.Duration            // when the first one began
}

// job is a package for a kernel.
type job struct {
	id tree.ID
	k  tree.Target
}

// work is a job that is worked on since a moment of the run.
type work struct {
	job
	build bool
	since time.Duration
}

// span is an event of the trace-event format, of a stretch of time in microseconds.
type span struct {
	Name     string `json:"name"`
	Category string `json:"cat"`
	Phase    string `json:"ph"`
	Start    int64  `json:"ts"`
	Took     int64  `json:"dur"`
	Process  int    `json:"pid"`
	Lane     int    `json:"tid"`
}

// NewTimeline returns a Timeline of a run that begins now and is told to text.
func NewTimeline(text *Text) *Timeline {
	return &Timeline{Text: text, began: time.Now(), expected: map[job]execute.Expected{}}
}

// Expect keeps which builds are to come.
func (t *Timeline) Expect(builds []execute.Expected) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.builds += len(builds)
	for _, e := range builds {
		t.expected[job{e.ID, e.Kernel}] = e
		t.unknown = t.unknown || e.Elapsed == 0
	}
}

// Start keeps that the work on a package for a kernel begins.
func (t *Timeline) Start(id tree.ID, k tree.Target, build bool) {
	t.Text.Start(id, k, build) // without the lock: who writes its line may ask for the state
	t.mu.Lock()
	defer t.mu.Unlock()
	w := work{job{id, k}, build, time.Since(t.began)}
	if build && t.first == 0 {
		t.first = w.since
	}
	if i := slices.IndexFunc(t.running, func(w work) bool { return w.id == tree.ID{} }); i >= 0 {
		t.running[i] = w
	} else {
		t.running = append(t.running, w)
	}
}

// Done keeps that it has ended.
func (t *Timeline) Done(r execute.Result) {
	t.end(r)
	t.Text.Done(r)
}

func (t *Timeline) end(r execute.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	done := job{r.ID, r.Kernel}
	t.done += t.expected[done].Busy
	delete(t.expected, done)
	if i := slices.IndexFunc(t.running, func(w work) bool { return w.job == done }); i >= 0 && r.ID != (tree.ID{}) {
		w := t.running[i]
		t.running[i] = work{}
		t.ended = append(t.ended, span{
			Name: r.ID.String() + " for " + r.Kernel.Release, Category: r.Outcome.String(), Phase: "X",
			Start: w.since.Microseconds(), Took: (time.Since(t.began) - w.since).Microseconds(), Process: 1, Lane: i + 1,
		})
	}
}

// state returns what goes on at a moment of the run.
func (t *Timeline) state(now time.Duration) state {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := state{builds: t.builds, ended: t.builds - len(t.expected)}
	for _, w := range t.running {
		if w.id != (tree.ID{}) {
			s.running = append(s.running, w)
		}
	}
	slices.SortStableFunc(s.running, func(a, b work) int { return cmp.Compare(a.since, b.since) })
	for i := range s.running {
		s.running[i].since = now - s.running[i].since
	}
	if !t.unknown {
		s.left = left(t.expected, s.running, t.done, now-t.first)
	}
	return s
}

// Write writes what was kept, in the trace-event format, which browsers' viewers open.
func (t *Timeline) Write(w io.Writer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return writeJSON(w, struct {
		Events []span `json:"traceEvents"`
	}{append([]span{}, t.ended...)})
}
