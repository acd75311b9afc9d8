package host

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// observeEvery is the time that one observation is about. A decode step takes some milliseconds, so that a quarter of a
// second holds enough of them for a mean, and a router that follows load still does so within a second or two.
const observeEvery = 250 * time.Millisecond

// observeLimit bounds one Observe of a plugin.
const observeLimit = 2 * time.Second

// Outcome is what whoever computes steps knows of one of them and the host doesn't.
type Outcome struct {
	Tokens  int           // that were chosen, or given, and scored
	LogProb float64       // sum of the natural logarithms of the probabilities that the model gave to them
	Waiting time.Duration // how long the oldest request that has not had its first step has waited; 0 = there is none
}

// observations collects what a router.Observer is told and tells it, outside of every call's way. It costs one atomic
// load a call while the router does not observe. Nothing of it runs by the clock: an observation ends with the step that
// makes it old enough.
type observations struct {
	wanted  atomic.Bool // the router's plugin observes
	layers  []int       // ascending; a layer's place is its place in loads
	experts int
	now     func() time.Time
	ready   chan router.Observation // one at most: the next one grows until it is taken
	told    *metrics.Counter

	mu      sync.Mutex // guards all below
	loads   []load     // by layer, then expert
	since   time.Time  // of the first step; zero = there was none
	tokens  int
	logProb float64 // sum
	waiting time.Duration
}

// load is what one unit has had to do.
type load struct {
	rows int
	busy time.Duration
}

func newObservations(spec router.Spec, m *metrics.Registry) *observations {
	return &observations{
		layers: spec.Layers, experts: spec.Experts, now: time.Now, ready: make(chan router.Observation, 1),
		told: m.Counter("pimoe_router_observations_total"), loads: make([]load, len(spec.Layers)*spec.Experts),
	}
}

// call takes an answered call of an expert group, whose time it shares out by rows.
func (o *observations) call(c *expert.Call, took time.Duration) {
	if o == nil || !o.wanted.Load() || c.Y.Rows == 0 {
		return
	}
	at, known := slices.BinarySearch(o.layers, c.Layer)
	if !known {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range c.Segments {
		l := &o.loads[at*o.experts+s.Expert]
		l.rows += s.Rows
		l.busy += took * time.Duration(s.Rows) / time.Duration(c.Y.Rows)
	}
}

// step takes the outcome of a step, and closes the observation if it is old enough and the one before was taken.
func (o *observations) step(out Outcome) {
	if !o.wanted.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if o.since.IsZero() {
		o.since = now
	}
	o.tokens += out.Tokens
	o.logProb += out.LogProb
	o.waiting = max(o.waiting, out.Waiting)
	if now.Sub(o.since) < observeEvery || len(o.ready) > 0 {
		return
	}
	o.ready <- o.take() // has room: nobody else fills it
	o.since = time.Time{}
}

// take is all that has been collected; the next observation begins with nothing.
func (o *observations) take() router.Observation {
	out := router.Observation{Waiting: o.waiting, Tokens: o.tokens}
	if o.tokens > 0 {
		out.LogProb = o.logProb / float64(o.tokens)
	}
	for at, layer := range o.layers {
		for e := range o.experts {
			if l := o.loads[at*o.experts+e]; l.rows > 0 {
				out.Loads = append(out.Loads, router.Load{Layer: layer, Expert: e, Rows: l.rows, Busy: l.busy})
			}
		}
	}
	clear(o.loads)
	o.tokens, o.logProb, o.waiting = 0, 0, 0
	return out
}

// run tells the router, one observation after the other, until life ends.
func (o *observations) run(life context.Context, r *routerSeat) {
	for {
		select {
		case <-life.Done():
			return
		case next := <-o.ready:
			r.table.Load().current.observe(life, next)
		}
	}
}
