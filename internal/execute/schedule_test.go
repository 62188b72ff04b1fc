// SPDX-License-Identifier: GPL-2.0-or-later

package execute

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"dkms-kernel-install/internal/jobserver"
)

func plenty() (int64, bool) { return 1 << 40, true }

func server(t *testing.T, n int) *jobserver.Server {
	t.Helper()
	s, err := jobserver.New(n, "GNU Make 4.3")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func TestSchedule(t *testing.T) {
	for _, tt := range []struct {
		name  string
		tasks []task // each with one token, unless it says otherwise
		want  []int  // order of the starts, with one token
	}{
		{"none", nil, nil},
		{"in order", []task{{}, {}, {}}, []int{0, 1, 2}},
		{"costly first", []task{{cost: 1}, {cost: 3}, {cost: 2}}, []int{1, 2, 0}},
		{"needs", []task{{needs: []int{2}, cost: 9}, {}, {needs: []int{1}}}, []int{1, 2, 0}},
		{"one key", []task{{key: "a"}, {key: "a", cost: 1}, {key: "a"}}, []int{1, 0, 2}},
		{"the longest path first", []task{{cost: 5}, {cost: 1}, {cost: 5, needs: []int{1}}, {cost: 4}}, []int{1, 0, 2, 3}},
		{"a path through several", []task{{cost: 8}, {cost: 1}, {cost: 1, needs: []int{1}}, {cost: 7, needs: []int{2, 4}}, {cost: 3}},
			[]int{4, 1, 0, 2, 3}},
		{"more tokens than there are", []task{{tokens: 9}, {tokens: 9}}, []int{0, 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []int
			for i := range tt.tasks {
				tt.tasks[i].tokens = max(1, tt.tasks[i].tokens)
				tt.tasks[i].run = func(func()) { got = append(got, i) }
			}
			schedule(t.Context(), tt.tasks, means{server: server(t, 1), memory: plenty})
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestScheduleLimits runs many tasks and looks at how many run at a time.
func TestScheduleLimits(t *testing.T) {
	const tokens, memory = 3, 100
	for _, limited := range []bool{true, false} {
		var mu sync.Mutex
		running, building, used, most, mostUsed, keyed := 0, 0, int64(0), 0, int64(0), map[string]int{}
		done := make([]bool, 300)
		tasks := make([]task, len(done))
		for i := range tasks {
			t0 := &tasks[i]
			if i%2 == 0 {
				t0.key = string(rune('a' + i%5))
			}
			t0.tokens = []int{1, 2, 0, 1, 3, 1, 1}[i%7]
			t0.memory = []int64{10, 50, 0, 90}[i%4]
			t0.cost = time.Duration(rand.IntN(100))
			if i >= 10 {
				t0.needs = []int{i - 10, i / 2}
			}
			t0.run = func(letGo func()) {
				mu.Lock()
				running += t0.tokens
				if t0.tokens > 0 {
					building++
					if used += t0.memory; building > 1 {
						mostUsed = max(mostUsed, used)
					}
				}
				keyed[t0.key]++
				most = max(most, running)
				if keyed[t0.key] > 1 && t0.key != "" {
					t.Errorf("two tasks with key %s run at a time", t0.key)
				}
				for _, n := range t0.needs {
					if !done[n] {
						t.Errorf("task %d runs before %d has ended", i, n)
					}
				}
				mu.Unlock()
				time.Sleep(100 * time.Microsecond)
				mu.Lock()
				running -= t0.tokens
				if t0.tokens > 0 {
					building--
					used -= t0.memory
				}
				mu.Unlock()
				if i%3 == 0 {
					letGo()
				}
				mu.Lock()
				keyed[t0.key]--
				done[i] = true
				mu.Unlock()
			}
		}
		m := means{memory: func() (int64, bool) { return memory, true }}
		if limited {
			m.server = server(t, tokens)
		}
		schedule(t.Context(), tasks, m)
		for i, ok := range done {
			if !ok {
				t.Errorf("task %d did not run", i)
			}
		}
		if limited && most > tokens {
			t.Errorf("tasks with %d tokens ran at a time, not %d", most, tokens)
		}
		if mostUsed > memory {
			t.Errorf("tasks ran at a time that need %d of %d bytes", mostUsed, memory)
		}
	}
}

// Tasks that do not build, and those that build no more, keep no build waiting.
func TestScheduleLetGo(t *testing.T) {
	var both sync.WaitGroup
	both.Add(3)
	meet := func() {
		both.Done()
		both.Wait()
	}
	schedule(t.Context(), []task{
		{tokens: 1, run: func(letGo func()) { letGo(); meet() }},
		{tokens: 1, run: func(letGo func()) { letGo(); letGo(); meet() }},
		{run: func(func()) { meet() }},
	}, means{server: server(t, 1), memory: plenty})
}

// A build that becomes ready, and that more depends on, goes before one that has
// been waiting for many tokens.
func TestScheduleOvertakes(t *testing.T) {
	s := server(t, 2)
	var mu sync.Mutex
	var got []string
	ran := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, name)
	}
	ready := make(chan struct{})
	schedule(t.Context(), []task{
		{tokens: 1, cost: 50, run: func(func()) { <-ready; ran("long") }},
		{tokens: 1, cost: 10, run: func(func()) { ran("base") }},
		{tokens: 2, cost: 9, run: func(func()) { ran("wide") }},
		{tokens: 1, cost: 30, needs: []int{1}, run: func(func()) { ran("dependent"); close(ready) }},
	}, means{server: s, memory: plenty})
	if diff := cmp.Diff([]string{"base", "dependent", "long", "wide"}, got); diff != "" {
		t.Error(diff)
	}
}

// When the run is stopped, nothing waits for tokens or memory any more.
func TestScheduleStopped(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make([]bool, 5)
	tasks := make([]task, len(ran))
	for i := range tasks {
		tasks[i] = task{tokens: i%2 + 1, memory: 10, run: func(func()) {
			ran[i] = true
			if i == 1 {
				cancel()
			}
			<-ctx.Done()
		}}
	}
	tasks[1].cost = 1
	tasks[4].needs = []int{3}
	schedule(ctx, tasks, means{server: server(t, 2), memory: func() (int64, bool) { return 15, true }})
	for i, ok := range ran {
		if !ok {
			t.Errorf("task %d was not run to say so", i)
		}
	}
}

func TestRoom(t *testing.T) {
	for _, tt := range []struct {
		name            string
		room            room
		need, available int64
		want            bool
	}{
		{"alone, whatever there is", room{}, 100, 0, true},
		{"both fit", room{builds: 1, reserved: 50, total: 100}, 50, 90, true},
		{"the first will need what is free", room{builds: 1, reserved: 60, total: 100}, 50, 95, false},
		{"somebody else took it", room{builds: 1, reserved: 10, total: 100}, 50, 40, false},
		{"somebody else left some", room{builds: 1, reserved: 60, total: 100}, 50, 120, true},
		{"a build needs more than thought", room{builds: 2, reserved: 20, total: 100}, 10, 5, false},
		{"one that was alone does not fit", room{builds: 1, reserved: 300, total: 100}, 1, 50, false},
	} {
		if got := tt.room.fits(tt.need, tt.available); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	var r room
	r.enter(10, 100)
	r.enter(20, 90)
	r.leave(10)
	if want := (room{1, 20, 100}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
	r.leave(20)
	r.enter(5, 70)
	if want := (room{1, 5, 70}); r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
}
