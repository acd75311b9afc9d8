package metrics

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// counts is what a Top prints.
func counts(t *Top) map[string]float64 {
	out := map[string]float64{}
	t.Each("(other)", func(name string, values []float64) { out[name] = values[0] })
	return out
}

// TestTopIsBounded: whatever comes, as many names as there are places have counts of their own, none of them goes back, and
// memory is bounded.
func TestTopIsBounded(t *testing.T) {
	const places = 8
	top := NewTop(places, 2)
	rng := rand.New(rand.NewPCG(1, 2))
	all, before := 0.0, map[string]float64{}
	had := map[string]float64{} // the largest count that each name was seen with
	for round := range 200 {
		for range 500 {
			name := fmt.Sprint("n", int(rng.ExpFloat64()*float64(3+round/4))) // the busy ones change
			if rng.IntN(4) == 0 {
				name = fmt.Sprint("once", rng.Uint64())
			}
			top.Add(name, 1, 2)
			all++
		}
		if round%5 == 0 {
			top.Turn()
		}
		now := counts(top)
		if len(now) > places+1 {
			t.Fatalf("%d names", len(now))
		}
		sum := 0.0
		for name, n := range now {
			if n < before[name] || n < had[name] {
				t.Fatalf("round %d: %s went from %v back to %v", round, name, max(before[name], had[name]), n)
			}
			had[name] = n
			sum += n
		}
		if sum > all {
			t.Fatalf("%v counted, %v printed", all, sum)
		}
		before = now
		if len(top.names) > places*(1+candidates) {
			t.Fatalf("%d names are remembered", len(top.names))
		}
	}
	if before["(other)"] == 0 {
		t.Error("nothing was left over")
	}
}

// TestTopChooses: a name that becomes busy gets a place, and one that is only as busy as others does not.
func TestTopChooses(t *testing.T) {
	top := NewTop(2, 1)
	add := func(name string, n int) {
		for range n {
			top.Add(name, 1)
		}
	}
	add("a", 10)
	add("b", 10)
	add("c", 12)
	top.Turn()
	if got := counts(top); got["a"] != 10 || got["b"] != 10 || got["(other)"] != 12 {
		t.Errorf("equals changed places: %v", got)
	}
	add("c", 100)
	add("a", 10)
	top.Turn()
	add("c", 5)
	add("b", 7)
	if got := counts(top); got["a"] != 20 || got["c"] != 5 || got["(other)"] != 119 || got["b"] != 0 {
		t.Errorf("the busy one: %v", got)
	}
	add("b", 1000)
	top.Turn()
	add("b", 1)
	if got := counts(top); got["b"] != 11 {
		t.Errorf("one that comes back goes on with what it had: %v", got)
	}
	if _, placed := top.Of("nobody"); placed {
		t.Error("nobody has a place")
	}
	none := NewTop(0, 1)
	none.Add("x", 3)
	if got := counts(none); len(got) != 1 || got["(other)"] != 3 {
		t.Errorf("without places: %v", got)
	}
}
