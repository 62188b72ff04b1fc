// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Each calls do for 0 to n-1, up to GOMAXPROCS calls at a time, and returns when all
// calls have returned. The calls share a few goroutines, as each new one has to grow
// its stack first.
func Each(n int, do func(i int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		group.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	group.Wait()
}
