package serve

import (
	"math"
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

// Garbage is left alone until there is a good deal of it, after a start and after each rest; then it is collected as Go does by itself.
func TestHold(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	for _, begin := range []func(){hold, rest, rest} {
		debug.FreeOSMemory()
		begin()
		if n := collections(spare >> 21); n != 0 {
			t.Errorf("half of what is spared was collected %d times", n)
		}
		if n := collections(spare >> 19); n == 0 {
			t.Error("twice of it was not collected")
		}
		for began := time.Now(); debug.SetMemoryLimit(-1) != math.MaxInt64; time.Sleep(time.Millisecond) { // the finalizer's turn
			if time.Since(began) > 5*time.Second {
				t.Fatal("the limit stays")
			}
		}
		percent := debug.SetGCPercent(100)
		if percent != 100 {
			t.Errorf("afterwards the runtime collects at %d %%, want 100", percent)
		}
	}
}
