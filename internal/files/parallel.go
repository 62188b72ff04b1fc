// SPDX-License-Identifier: GPL-2.0-or-later

package files

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// Each calls do for 0 to n-1, as many at a time as there are processors for this
// process, and returns when all calls have. Unlike a goroutine for each, a few do not
// get each a stack of their own to grow.
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
