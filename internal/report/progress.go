// SPDX-License-Identifier: GPL-2.0-or-later

package report

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"dkms-kernel-install/internal/execute"
)

// period is how long what is shown stays at least.
const period = 200 * time.Millisecond

// Progress shows what a run works on, below the text on a terminal. The cursor stays at the
// beginning of that: so all that follows can be erased, even if the terminal got narrower
// and has wrapped lines. It may be used by several goroutines at once. A nil Progress shows
// nothing.
type Progress struct {
	terminal io.Writer
	size     func() (columns, rows int)

	mu       sync.Mutex
	timeline *Timeline // nil if nothing is to be shown
	shown    string
	drawn    time.Time // when it was
	within   bool      // the text ends within a line
}

// NewProgress returns a Progress on a terminal, of which size returns the size that it has
// at the moment, or zero values if nothing can be shown now.
func NewProgress(terminal io.Writer, size func() (columns, rows int)) *Progress {
	return &Progress{terminal: terminal, size: size}
}

// Above returns a writer to w, which is the same terminal. What is written there appears
// above what p shows.
func (p *Progress) Above(w io.Writer) io.Writer {
	if p == nil {
		return w
	}
	return above{p, w}
}

type above struct {
	*Progress
	w io.Writer
}

func (a above) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.show("")
	n, err := a.w.Write(b)
	if len(b) > 0 {
		a.within = b[len(b)-1] != '\n'
	}
	if time.Since(a.drawn) >= period {
		a.show(a.text())
	}
	return n, err
}

// Show shows the run that t hears of until ctx is done, or the function that it returns is
// called, after which p writes nothing.
func (p *Progress) Show(ctx context.Context, t *Timeline) (stop func()) {
	if p == nil {
		return func() {}
	}
	p.follow(t)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer p.follow(nil)
		tick := time.NewTicker(period)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				p.draw()
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// follow takes away what p shows, and has it show t from now on.
func (p *Progress) follow(t *Timeline) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show("")
	p.timeline = t
}

func (p *Progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.show(p.text())
}

// text returns what p is to show now.
func (p *Progress) text() string {
	if p.timeline == nil || p.within {
		return ""
	}
	columns, rows := p.size()
	return strings.Join(p.timeline.state(time.Since(p.timeline.began)).lines(columns, rows), "\r\n")
}

// show has p show text.
func (p *Progress) show(text string) {
	if text == p.shown {
		return
	}
	out := "\r\x1b[J" // erase what follows
	if text != "" {
		p.drawn = time.Now()
		// A character may be wider than it seems: no line is wrapped meanwhile.
		out += "\x1b[?7l" + text + "\r"
		if up := strings.Count(text, "\n"); up > 0 {
			out += fmt.Sprintf("\x1b[%dA", up)
		}
		out += "\x1b[?7h"
	}
	_, _ = io.WriteString(p.terminal, out) // as with any text, it may be that nobody reads it
	p.shown = text
}

// state is what goes on at a moment of a run.
type state struct {
	running       []work        // since then: how long it has been worked on
	ended, builds int           // builds that have ended, of all
	left          time.Duration // how much is to come, 0 if that is not known
}

// lines returns what a terminal of that size shows of s.
func (s state) lines(columns, rows int) (list []string) {
	width := columns - 1 // some terminals wrap a line that is full
	if len(s.running) == 0 || width < 12 || rows < 4 {
		return nil
	}
	if s.builds > 0 {
		head := fmt.Sprintf("%d of %d done", s.ended, s.builds)
		if more := toCome(s.left); s.left > 0 && length(head+more) <= width {
			head += more
		}
		list = append(list, shorten(head, width))
	}
	for i, w := range s.running {
		if rest := len(s.running) - i; rest > 1 && len(list)+1 >= rows/2 {
			return append(list, shorten(fmt.Sprintf("        and %d more", rest), width))
		}
		what := plain(fmt.Sprintf("%s for %s", w.id, w.k.Release))
		verb := "installing "
		if w.build {
			verb = "building "
		}
		line := fmt.Sprintf("%6s  ", clock(w.since))
		if length(line+verb+what) <= width {
			line += verb
		}
		list = append(list, line+shorten(what, width-length(line)))
	}
	return list
}

// clock returns d as a clock shows it.
func clock(d time.Duration) string {
	s := int(d.Seconds())
	if s >= 3600 {
		return fmt.Sprintf("%d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%d:%02d", s/60, s%60)
}

// toCome says that d is to come.
func toCome(d time.Duration) string {
	switch {
	case d < 55*time.Second:
		return fmt.Sprintf(", about %d s to come", (int(d.Seconds())/5+1)*5)
	case d < 90*time.Minute:
		return fmt.Sprintf(", about %d min to come", int(d.Round(time.Minute).Minutes()))
	}
	return fmt.Sprintf(", about %d h to come", int(d.Round(time.Hour).Hours()))
}

// left returns how much is to come of the builds that are expected, of which some run for
// some time, if those that are done could have kept all processors busy for that time, and
// that took so long: a run that has it harder than they had, or easier, most likely goes on
// so. The longest build may need more. It returns 0 if nobody knows, or it might not be
// true: a build that has just begun may come from the cache.
func left(expected map[job]execute.Expected, running []work, done, took time.Duration) time.Duration {
	if !slices.ContainsFunc(running, func(w work) bool { return w.build && w.since >= time.Second }) {
		return 0
	}
	runs := map[job]time.Duration{}
	for _, w := range running {
		runs[w.job] = w.since
	}
	var rest, longest float64
	of := done.Seconds()
	for j, e := range expected {
		if e.Elapsed <= 0 {
			return 0
		}
		part := min(runs[j].Seconds()/e.Elapsed.Seconds(), 1)
		of += part * e.Busy.Seconds()
		rest += (1 - part) * e.Busy.Seconds()
		longest = max(longest, (1-part)*e.Elapsed.Seconds())
	}
	if of == 0 {
		return 0
	}
	return time.Duration(max(longest, rest*took.Seconds()/of) * float64(time.Second))
}
