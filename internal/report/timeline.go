// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"io"
	"slices"
	"sync"
	"time"

	"dkms-kernel-install/internal/execute"
	"dkms-kernel-install/internal/tree"
)

// Timeline hears of a run as the Text in it does, and keeps when the work on each package
// was done.
type Timeline struct {
	*Text
	began   time.Time
	mu      sync.Mutex
	running []work // by lane; one that has ended has no package
	ended   []span
}

// work is a package for a kernel that is worked on since a moment of the run.
type work struct {
	id    tree.ID
	k     tree.Target
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
func NewTimeline(text *Text) *Timeline { return &Timeline{Text: text, began: time.Now()} }

// Start keeps that the work on a package for a kernel begins.
func (t *Timeline) Start(id tree.ID, k tree.Target, build bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w := work{id, k, time.Since(t.began)}
	if i := slices.IndexFunc(t.running, func(w work) bool { return w.id == tree.ID{} }); i >= 0 {
		t.running[i] = w
	} else {
		t.running = append(t.running, w)
	}
	t.Text.Start(id, k, build)
}

// Done keeps that it has ended.
func (t *Timeline) Done(r execute.Result) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.IndexFunc(t.running, func(w work) bool { return w.id == r.ID && w.k == r.Kernel }); i >= 0 && r.ID != (tree.ID{}) {
		w := t.running[i]
		t.running[i] = work{}
		t.ended = append(t.ended, span{
			Name: r.ID.String() + " for " + r.Kernel.Release, Category: r.Outcome.String(), Phase: "X",
			Start: w.since.Microseconds(), Took: (time.Since(t.began) - w.since).Microseconds(), Process: 1, Lane: i + 1,
		})
	}
	t.Text.Done(r)
}

// Write writes what was kept, in the trace-event format, which browsers' viewers open.
func (t *Timeline) Write(w io.Writer) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return writeJSON(w, struct {
		Events []span `json:"traceEvents"`
	}{append([]span{}, t.ended...)})
}
