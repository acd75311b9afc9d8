package host

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func groupCallOf(layer int, segments ...expert.Segment) *expert.Call {
	rows := 0
	for _, s := range segments {
		rows += s.Rows
	}
	return &expert.Call{Layer: layer, Segments: segments, Y: tensor.NewMatrix(rows, 1)}
}

// An observation ends with the first step after its time, holds all since the last one, and begins anew; while one waits
// for the router, the next one grows.
func TestObservations(t *testing.T) {
	now := time.Unix(100, 0)
	o := newObservations(router.Spec{Layers: []int{1, 4}, Experts: 3}, metrics.New())
	o.now = func() time.Time { return now }
	step := func(after time.Duration, out Outcome) {
		now = now.Add(after)
		o.step(out)
	}
	taken := func() any {
		select {
		case got := <-o.ready:
			return got
		default:
			return nil
		}
	}
	o.call(groupCallOf(4, expert.Segment{Expert: 1, Rows: 5}), time.Second)
	step(time.Hour, Outcome{Tokens: 5})
	if got := taken(); got != nil {
		t.Fatalf("nobody asked and %+v was told", got)
	}

	o.wanted.Store(true)
	step(0, Outcome{Tokens: 2, LogProb: -3, Waiting: time.Second})
	o.call(groupCallOf(4, expert.Segment{Expert: 0, Rows: 3}, expert.Segment{Expert: 2, Rows: 1}), 8*time.Millisecond)
	o.call(groupCallOf(4, expert.Segment{Expert: 2, Rows: 2}), 6*time.Millisecond)
	o.call(groupCallOf(1, expert.Segment{Expert: 1, Rows: 1}), time.Millisecond)
	o.call(groupCallOf(9, expert.Segment{Expert: 1, Rows: 1}), time.Millisecond) // a layer that the router does not know
	step(observeEvery-1, Outcome{Tokens: 1, LogProb: -6, Waiting: 2 * time.Second})
	if got := taken(); got != nil {
		t.Fatalf("too early: %+v", got)
	}
	step(1, Outcome{Waiting: time.Second})
	want := router.Observation{
		Loads: []router.Load{
			{Layer: 1, Expert: 1, Rows: 1, Busy: time.Millisecond},
			{Layer: 4, Expert: 0, Rows: 3, Busy: 6 * time.Millisecond}, {Layer: 4, Expert: 2, Rows: 3, Busy: 8 * time.Millisecond},
		},
		Waiting: 2 * time.Second, Tokens: 3, LogProb: -3,
	}
	step(time.Hour, Outcome{Tokens: 4, LogProb: -4})
	step(time.Hour, Outcome{Tokens: 4, LogProb: -8})
	if diff := cmp.Diff(want, taken()); diff != "" {
		t.Error(diff)
	}
	step(0, Outcome{})
	if diff := cmp.Diff(router.Observation{Tokens: 8, LogProb: -1.5}, taken()); diff != "" {
		t.Error(diff)
	}
	step(0, Outcome{})
	if got := taken(); got != nil {
		t.Errorf("told twice: %+v", got)
	}
}
