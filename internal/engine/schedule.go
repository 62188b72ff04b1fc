package engine

// task is a piece of work in a schedule.
type task struct {
	// needs are the indices of the tasks that must end first.
	needs []int
	// key names what only one task at a time may use; empty for nothing.
	key string
	// cost tells how long the task may take, compared to others.
	cost int64
	run  func()
}

// schedule runs tasks, workers at a time. Where needs and keys leave a choice the
// costly ones come first, so that in the end no worker is alone with a long one.
// There must be no circle of needs.
func schedule(tasks []task, workers int) {
	waiting := make([]int, len(tasks)) // needs that have not ended
	after := make([][]int, len(tasks))
	for i, t := range tasks {
		waiting[i] = len(t.needs)
		for _, n := range t.needs {
			after[n] = append(after[n], i)
		}
	}
	started := make([]bool, len(tasks))
	busy := map[string]bool{}
	ended := make(chan int)
	for running, left := 0, len(tasks); left > 0; {
		for running < workers {
			next := -1
			for i, t := range tasks {
				if !started[i] && waiting[i] == 0 && !busy[t.key] && (next < 0 || t.cost > tasks[next].cost) {
					next = i
				}
			}
			if next < 0 {
				break
			}
			if key := tasks[next].key; key != "" {
				busy[key] = true
			}
			started[next] = true
			running++
			go func() {
				tasks[next].run()
				ended <- next
			}()
		}
		i := <-ended
		running--
		left--
		delete(busy, tasks[i].key)
		for _, n := range after[i] {
			waiting[n]--
		}
	}
}
