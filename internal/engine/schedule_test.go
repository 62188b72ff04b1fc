package engine

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSchedule(t *testing.T) {
	for _, tt := range []struct {
		name    string
		tasks   []task
		workers int
		want    []int // order of the starts, with one worker
	}{
		{"none", nil, 1, nil},
		{"in order", []task{{}, {}, {}}, 1, []int{0, 1, 2}},
		{"costly first", []task{{cost: 1}, {cost: 3}, {cost: 2}}, 1, []int{1, 2, 0}},
		{"needs", []task{{needs: []int{2}, cost: 9}, {}, {needs: []int{1}}}, 1, []int{1, 2, 0}},
		{"one key", []task{{key: "a"}, {key: "a"}, {key: "b"}}, 1, []int{0, 1, 2}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []int
			for i := range tt.tasks {
				tt.tasks[i].run = func() { got = append(got, i) }
			}
			schedule(tt.tasks, tt.workers)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestScheduleLimits runs many tasks and looks at how many run at a time.
func TestScheduleLimits(t *testing.T) {
	const workers = 3
	var mu sync.Mutex
	running, most, keyed := 0, 0, map[string]int{}
	done := make([]bool, 200)
	tasks := make([]task, len(done))
	for i := range tasks {
		key := string(rune('a' + i%5))
		tasks[i].key = key
		if i >= 10 {
			tasks[i].needs = []int{i - 10, i / 2}
		}
		tasks[i].run = func() {
			mu.Lock()
			running++
			keyed[key]++
			most = max(most, running)
			if keyed[key] > 1 {
				t.Errorf("two tasks with key %s run at a time", key)
			}
			for _, n := range tasks[i].needs {
				if !done[n] {
					t.Errorf("task %d runs before %d has ended", i, n)
				}
			}
			mu.Unlock()
			mu.Lock()
			running--
			keyed[key]--
			done[i] = true
			mu.Unlock()
		}
	}
	schedule(tasks, workers)
	for i, ok := range done {
		if !ok {
			t.Errorf("task %d did not run", i)
		}
	}
	if most > workers {
		t.Errorf("%d tasks ran at a time, not %d", most, workers)
	}
}
