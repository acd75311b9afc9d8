//go:build !(linux && (amd64 || arm64))

package team

import (
	"runtime"
	"sync/atomic"
	"time"
)

// Without futexes a worker that sleeps looks again ten thousand times a second.
const nap = 100 * time.Microsecond

func sleep(word *atomic.Uint32, value uint32, limit time.Duration) { time.Sleep(nap) }

func doze(word *atomic.Uint32, value uint32, limit time.Duration) { time.Sleep(nap) }

func wake(*atomic.Uint32, int) {}

func yield() { runtime.Gosched() }

func watch(word *atomic.Uint32, old uint32, looks uint32) uint32 {
	for range looks {
		if v := word.Load(); v != old {
			return v
		}
	}
	return word.Load()
}
