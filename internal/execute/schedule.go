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
	// key names what only one task at a time may use; empty for nothing.
	key string
	// cost is how long the task keeps one processor busy, as far as known.
	cost time.Duration
	// tokens of the jobserver are what the task builds with; 0 for one that
	// does not build. memory is what it then may need, in bytes.
	tokens int
	memory int64
	// run does the task. It calls letGo once it builds no more, if it has
	// something else to do.
	run func(letGo func())
}

// means are what there is for tasks that build.
type means struct {
	server *jobserver.Server // nil for no limit
	// memory returns how much is available; ok is false where nobody knows.
	memory func() (bytes int64, ok bool)
}

const (
	// others is how many tasks may run at a time that do not build: most end at
	// once, the rest wait for disks.
	others = 16
	// again is after what time a build that does not fit into memory looks
	// whether somebody else has left some.
	again = time.Second
)

// schedule runs tasks: those that build as the jobserver has tokens for them and
// memory allows it, the others as they come. Where needs and keys leave a choice
// those come first that most depends on: so the last to end ends as early as can
// be. There must be no circle of needs. When ctx is done, tasks run as they come.
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

	// asking is the task for which tokens are awaited, -1 for none; stop
	// ends that.
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

// ask sees to it that the first task that can build does, as soon as there are
// tokens. It returns what to wait for where memory is short.
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

// first returns the first task in list that can start now; -1 where there is none.
func (s *scheduler) first(list []int) int {
	for _, i := range list {
		if !s.busy[s.tasks[i].key] {
			return i
		}
	}
	return -1
}

// start starts a task, which holds its tokens of the jobserver if held says so.
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

// paths returns for each task how long it and the longest chain of those that
// depend on it take.
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

// room is the memory that builds share.
type room struct {
	builds   int   // that run
	reserved int64 // what they may need
	total    int64 // what was available when none ran
}

// fits reports whether one more build, which may need that many bytes, has room where
// so many are available now. Builds that have just begun will need more than they
// use, and others who use the machine may take some: so both what was there and
// what is there counts. A build that is alone always fits.
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
