// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"cmp"
	"context"
	"slices"
	"time"

	"dkms-kernel-install/internal/jobserver"
)

// task is a piece of work in a schedule.
type task struct {
	// needs are the indices of the tasks that must end first.
	needs []int
	// key names what one task at a time may use; empty for none.
	key string
	// cost is how long the task keeps one processor busy, as far as known.
	cost time.Duration
	// tokens of the jobserver are what the task builds with; 0 for one that
	// does not build. memory is what it then may need, in bytes.
	tokens int
	memory int64
	// run does the task. It may call letGo when its build has ended and other
	// work follows.
	run func(letGo func())
}

// means is what there is for tasks that build.
type means struct {
	server *jobserver.Server // nil for no limit
	// memory returns how much is available; ok is false if nobody knows.
	memory func() (bytes int64, ok bool)
}

const (
	// others is how many tasks that do not build may run at a time: most end at
	// once, the rest wait for disks.
	others = 16
	// again is how long a build that does not fit into memory waits before it looks
	// again.
	again = time.Second
)

// schedule runs tasks: those that build when the jobserver has tokens for them and
// there is enough memory, the others at once. Among tasks that can start, the one with
// the longest chain of dependents starts first, so that the whole ends as early as
// possible. There must be no cycle of needs. Once ctx is done, tasks no longer wait for
// tokens and memory.
func schedule(ctx context.Context, tasks []task, m means) {
	after := dependents(tasks)
	s := &scheduler{
		tasks: tasks, means: m, after: after, paths: paths(tasks, after), asking: -1, busy: map[string]bool{},
		ended: make(chan int), released: make(chan int), answers: make(chan error),
	}
	s.run(ctx)
}

type scheduler struct {
	means
	tasks []task
	after [][]int
	paths []time.Duration
	busy  map[string]bool
	// building and other hold the tasks that are ready, in the order in which
	// they are to start.
	building, other []int
	others          int // running tasks that do not build
	room            room

	// asking is the task for which tokens are awaited, -1 for none; stop ends the
	// wait.
	asking int
	stop   context.CancelFunc

	ended, released chan int
	answers         chan error
}

func (s *scheduler) run(ctx context.Context) {
	waiting := make([]int, len(s.tasks)) // needs that have not ended
	for i, t := range s.tasks {
		waiting[i] = len(t.needs)
		if len(t.needs) == 0 {
			s.ready(i)
		}
	}
	done := ctx.Done()
	for left := len(s.tasks); left > 0; {
		for s.others < others {
			i := s.first(s.other)
			if i < 0 {
				break
			}
			s.start(i, false)
		}
		look := s.ask(ctx)
		select {
		case i := <-s.ended:
			left--
			delete(s.busy, s.tasks[i].key)
			if s.tasks[i].tokens == 0 {
				s.others--
			}
			for _, n := range s.after[i] {
				if waiting[n]--; waiting[n] == 0 {
					s.ready(n)
				}
			}
		case i := <-s.released:
			s.room.leave(s.tasks[i].memory)
		case err := <-s.answers:
			i := s.asking
			s.asking = -1
			s.stop()
			if err == nil && i == s.first(s.building) {
				s.start(i, true)
			} else if err == nil {
				s.server.Release(s.tasks[i].tokens)
			}
		case <-look:
		case <-done:
			done = nil
		}
	}
}

// ask asks the jobserver for the tokens of the first task that can build. If memory is
// short, it returns what to wait for instead.
func (s *scheduler) ask(ctx context.Context) (look <-chan time.Time) {
	for {
		i := s.first(s.building)
		switch {
		case s.asking >= 0:
			if i != s.asking || ctx.Err() != nil {
				s.stop() // which the answer will say
			}
			return nil
		case i < 0:
			return nil
		case ctx.Err() != nil:
			s.start(i, false) // to say that it was not done
			continue
		}
		available, known := s.memory()
		if known && !s.room.fits(s.tasks[i].memory, available) {
			return time.After(again)
		}
		if s.server == nil {
			s.start(i, false)
			continue
		}
		s.asking = i
		var asking context.Context
		asking, s.stop = context.WithCancel(ctx)
		go func() { s.answers <- s.server.Acquire(asking, s.tasks[i].tokens) }()
		return nil
	}
}

// ready puts a task among those that can start.
func (s *scheduler) ready(i int) {
	list := &s.other
	if s.tasks[i].tokens > 0 {
		list = &s.building
	}
	at, _ := slices.BinarySearchFunc(*list, i, s.order)
	*list = slices.Insert(*list, at, i)
}

func (s *scheduler) remove(list *[]int, i int) {
	if at, _ := slices.BinarySearchFunc(*list, i, s.order); at > 0 {
		*list = slices.Delete(*list, at, at+1)
	} else {
		*list = (*list)[1:] // the usual case, of many
	}
}

func (s *scheduler) order(a, b int) int {
	return cmp.Or(cmp.Compare(s.paths[b], s.paths[a]), cmp.Compare(a, b))
}

// first returns the first task in list that can start now; -1 if there is none.
func (s *scheduler) first(list []int) int {
	for _, i := range list {
		if !s.busy[s.tasks[i].key] {
			return i
		}
	}
	return -1
}

// start starts a task. Held reports whether it holds its tokens of the jobserver.
func (s *scheduler) start(i int, held bool) {
	t := s.tasks[i]
	if t.key != "" {
		s.busy[t.key] = true
	}
	if t.tokens == 0 {
		s.others++
		s.remove(&s.other, i)
	} else {
		available, _ := s.memory()
		s.room.enter(t.memory, available)
		s.remove(&s.building, i)
	}
	go func() {
		building := t.tokens > 0
		letGo := func() {
			if !building {
				return
			}
			building = false
			if held {
				s.server.Release(t.tokens)
			}
			s.released <- i
		}
		t.run(letGo)
		letGo()
		s.ended <- i
	}()
}

// dependents returns for each task those that need it.
func dependents(tasks []task) [][]int {
	after := make([][]int, len(tasks))
	for i, t := range tasks {
		for _, n := range t.needs {
			after[n] = append(after[n], i)
		}
	}
	return after
}

// paths returns for each task how long it takes together with the longest chain of
// tasks that depend on it.
func paths(tasks []task, after [][]int) []time.Duration {
	known := make([]bool, len(tasks))
	length := make([]time.Duration, len(tasks))
	var path func(i int) time.Duration
	path = func(i int) time.Duration {
		if !known[i] {
			known[i] = true
			for _, n := range after[i] {
				length[i] = max(length[i], path(n))
			}
			length[i] += tasks[i].cost
		}
		return length[i]
	}
	for i := range tasks {
		path(i)
	}
	return length
}

// room accounts for the memory that builds share.
type room struct {
	builds   int   // that run
	reserved int64 // what they may need
	total    int64 // what was available when none ran
}

// fits reports whether one more build, which may need so many bytes, fits into what is
// available. Builds that have just begun will need more than they use now, and other
// programs may have taken some: so both what was available before the builds and what is
// available now must suffice. A build that is alone always fits.
func (r room) fits(need, available int64) bool {
	return r.builds == 0 || need <= available && need <= max(r.total, available)-r.reserved
}

func (r *room) enter(need, available int64) {
	if r.builds == 0 {
		r.total = available
	}
	r.builds++
	r.reserved += need
}

func (r *room) leave(need int64) {
	r.builds--
	r.reserved -= need
}
