package reuse_test

import (
	"runtime"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/backends/internal/reuse"
)

// TestKept: what was put comes back, also after collections, and never to two takers at once.
func TestKept(t *testing.T) {
	var p reuse.Pool[[]byte]
	v := p.Take()
	*v = make([]byte, 10)
	p.Put(v)
	runtime.GC()
	runtime.GC()
	if w := p.Take(); w != v || len(*w) != 10 {
		t.Errorf("took %v, put %v", w, v)
	}
	if w := p.Take(); w == v {
		t.Error("the same was given out twice")
	}
	var wg sync.WaitGroup
	var counters reuse.Pool[int]
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				n := counters.Take()
				*n++
				counters.Put(n)
			}
		})
	}
	wg.Wait()
	sum := 0
	for range 8 {
		sum += *counters.Take()
	}
	if sum != 8000 {
		t.Errorf("%d uses were counted, want 8000", sum)
	}
}
