package engine

import (
	"testing"
	"time"
)

// The pace finds the chunk with which a step takes the time that it should, on slow and on fast machines, where a step
// also costs something without rows; soon when steps get slower, and again when they get faster.
func TestPace(t *testing.T) {
	const streams = 32
	p := &pace{}
	steps := func(n int, base, row time.Duration) (last time.Duration) {
		for range n {
			rows := streams + min(p.chunk(streams), 480)
			last = base + time.Duration(rows)*row
			p.took(rows, last)
		}
		return last
	}
	for _, test := range []struct {
		name      string
		n         int
		base, row time.Duration
		from, to  time.Duration
	}{
		{"first steps", 40, 5 * time.Millisecond, 200 * time.Microsecond, 42 * time.Millisecond, 52 * time.Millisecond},
		{"half as fast", 5, 5 * time.Millisecond, 400 * time.Microsecond, 42 * time.Millisecond, 60 * time.Millisecond},
		{"fast again", 60, 5 * time.Millisecond, 200 * time.Microsecond, 42 * time.Millisecond, 52 * time.Millisecond},
		{"so slow that the least chunk goes", 40, 10 * time.Millisecond, 2 * time.Millisecond, 138 * time.Millisecond, 138 * time.Millisecond},
		{"so fast that all goes", 80, 0, time.Microsecond, 512 * time.Microsecond, 512 * time.Microsecond},
	} {
		if last := steps(test.n, test.base, test.row); last < test.from || last > test.to {
			t.Errorf("%s: steps of %v, want %v to %v", test.name, last, test.from, test.to)
		}
	}
	p = &pace{fixed: 10}
	p.took(100, time.Second)
	if n := p.chunk(3); n != 10 {
		t.Errorf("chunk %d, want the configured 10", n)
	}
}

// The context of steps is kept while its deadline suits, and never after its end.
func TestPatience(t *testing.T) {
	var p patience
	defer p.drop()
	now := time.Now()
	at := func(s int) time.Time { return now.Add(time.Duration(s) * time.Second) }
	first, d := p.get(at(10), at(20), now)
	if !d.Equal(at(20)) {
		t.Errorf("deadline %v, want the latest allowed", d.Sub(now))
	}
	if ctx, d := p.get(at(15), at(30), now); ctx != first || !d.Equal(at(20)) {
		t.Error("a context that suits was not kept")
	}
	second, d := p.get(at(40), at(40), now)
	if second == first || !d.Equal(at(40)) || first.Err() == nil {
		t.Error("a context whose deadline is too early was kept, or not ended")
	}
	p.cancel()
	if ctx, _ := p.get(at(40), at(40), now); ctx.Err() != nil {
		t.Error("a cancelled context was kept")
	}
	if _, d := p.get(at(5), at(6), now); !d.Equal(at(6)) {
		t.Error("a context whose deadline is too late was kept")
	}
}
