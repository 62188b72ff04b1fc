package engine

// task is a piece of work in a schedule.
type task struct {
	// needs are the indices of the tasks that must end first.
	needs []int
	// key names what only one task at a time may use; empty for nothing.
	key string
	run func()
}

// schedule runs tasks, workers at a time, in their order where needs and keys
// leave a choice. There must be no circle of needs.
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
		for i := range tasks {
			if running == workers {
				break
			}
			if key := tasks[i].key; started[i] || waiting[i] > 0 || busy[key] {
				continue
			} else if key != "" {
				busy[key] = true
			}
			started[i] = true
			running++
			go func() {
				tasks[i].run()
				ended <- i
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
