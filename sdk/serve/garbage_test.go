package serve

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

var litter []byte // escapes, so it is made on the heap

// collections makes so many MiB of garbage and reports how often it was collected meanwhile.
func collections(mib int) uint32 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	before := s.NumGC
	for range 4 * mib {
		litter = make([]byte, 1<<18)
	}
	runtime.ReadMemStats(&s)
	return s.NumGC - before
}

// Garbage is left alone until there is a good deal of it, after a start and after each rest; then it is collected as before.
func TestHold(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	const percent, limit = 70, int64(1) << 40 // the author's
	defer debug.SetGCPercent(debug.SetGCPercent(percent))
	debug.SetMemoryLimit(limit)
	for _, begin := range []func(){hold, rest, rest} {
		debug.FreeOSMemory()
		begin()
		if n := collections(spare >> 21); n != 0 {
			t.Errorf("half of what is spared was collected %d times", n)
		}
		if n := collections(spare >> 19); n == 0 {
			t.Error("twice of it was not collected")
		}
		for began := time.Now(); debug.SetMemoryLimit(-1) != limit; time.Sleep(time.Millisecond) { // the finalizer's turn
			if time.Since(began) > 5*time.Second {
				t.Fatal("the limit stays")
			}
		}
		if got := debug.SetGCPercent(percent); got != percent {
			t.Errorf("afterwards the runtime collects at %d %%, want %d", got, percent)
		}
	}
}
