package serve

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// spare is how much a plugin's memory may grow after its start, and after each rest, before garbage is collected. A collection
// waits for each lane that computes or dozes while the other lanes wait for it, and Go's own rule would have one in the middle
// of the first load, of which the scratch memory is four megabytes soon. Lanes that have their memory allocate nothing.
const spare = 32 << 20

// rest collects garbage now, gives memory back to the system and lets it grow by spare again. There may be dozens of plugins, and the
// start of each and a load leave megabytes behind.
func rest() {
	holds.mu.Lock()
	holds.latest++ // this collection is not what the one before waits for
	holds.mu.Unlock()
	debug.FreeOSMemory()
	hold()
}

// hold lets the memory grow by spare before the next collection, with which the rule before comes back: a plugin that goes on allocating
// must not collect at a limit all the time.
func hold() {
	holds.mu.Lock()
	defer holds.mu.Unlock()
	holds.latest++
	own := holds.latest
	if !holds.on {
		holds.on, holds.percent, holds.limit = true, debug.SetGCPercent(-1), debug.SetMemoryLimit(-1)
	}
	debug.SetMemoryLimit(min(held()+spare, holds.limit))
	runtime.SetFinalizer(&sentinel{new(byte)}, func(*sentinel) {
		holds.mu.Lock()
		defer holds.mu.Unlock()
		if own == holds.latest {
			holds.on = false
			debug.SetGCPercent(holds.percent)
			debug.SetMemoryLimit(holds.limit)
		}
	})
}

// holds counts them, so that only the latest one's end counts, and keeps the rule that comes back: Go's, or that of the plugin's author.
var holds struct {
	mu      sync.Mutex
	latest  int
	on      bool
	percent int   // as debug.SetGCPercent takes it
	limit   int64 // as debug.SetMemoryLimit does
}

// sentinel is garbage from the beginning, so the next collection finds it. It has a pointer, since small values without one share
// their memory with others that may live.
type sentinel struct{ _ *byte }

// held is what the runtime has from the system, as the limit counts it (runtime/debug.SetMemoryLimit).
func held() int64 {
	s := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(s)
	return int64(s[0].Value.Uint64() - s[1].Value.Uint64())
}
