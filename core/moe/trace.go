package moe

import (
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk/expert"
)

// Answer says who has answered a call, and how long that took.
type Answer struct {
	Group    string
	Replica  int
	PID      int
	Backend  string
	Class    string // the numeric class
	Program  string // "sha256:..." of what the process executes; empty in process
	Version  string // of the plugin, as it says
	Attempts int    // how many times the call was sent, one after the other
	Took     time.Duration
}

// Attributable is a Pending whose owner can tell who has answered. Note is called before Wait, which fills to if the call
// was answered.
type Attributable interface {
	expert.Pending
	Note(to *Answer)
}

// Tracer follows rows through a Forward, from the goroutine of Forward. What it is told of a row is about that row alone,
// but for the times: a layer's rows travel together.
type Tracer interface {
	Traces(row int) bool
	// Hop is one row's way through the layer; h is lent.
	Hop(row int, h *Hop)
}

// Hop is the way of one row through one layer.
type Hop struct {
	Layer   int
	Route   time.Duration // until the router had answered
	Combine time.Duration
	Experts []Served // ascending
}

// Served is one expert that the router has chosen for a row.
type Served struct {
	Expert int
	Weight float32 // of the router
	By     *Answer // who computed it; nil = nobody has, and the policy says what was done
	Other  int     // the expert that was computed in its place; itself, unless the policy is Substitute
}

// hops are the memory of tracing one work.
type hops struct {
	answers []Answer // by call
	rows    []tracedRow
}

type tracedRow struct {
	n       int // number in the work
	experts []Served
}

// note has the answers of a work's calls noted. It is called between sending and receiving.
func (w *work) note(in Input) {
	if in.Trace == nil {
		return
	}
	w.hops = &hops{answers: make([]Answer, len(w.calls))}
	for i, p := range w.pending {
		w.hops.note(i, p)
	}
}

// note has the answer of one call noted; nil does not.
func (h *hops) note(call int, p expert.Pending) {
	if a, ok := p.(Attributable); ok && h != nil {
		a.Note(&h.answers[call])
	}
}

// witness lists who has answered for the rows that are traced, but those of skip, which other work answers. The plan still
// says which call had which row: rescue changes it.
func (w *work) witness(in Input, skip []int32) {
	if w.hops == nil {
		return
	}
	k := w.routes.K
	for n, row := range w.of {
		if _, other := slices.BinarySearch(skip, row); other || !in.Trace.Traces(int(row)) {
			continue
		}
		t := tracedRow{n: n, experts: make([]Served, k)}
		ids := slices.Sorted(slices.Values(w.routes.IDs[n*k : (n+1)*k])) // the plan's order
		for i, id := range ids {
			t.experts[i] = Served{Expert: int(id), Other: int(id), Weight: w.plan.weight[n*k+i], By: w.answerOf(int(w.plan.from[n*k+i]))}
		}
		w.hops.rows = append(w.hops.rows, t)
	}
}

// answerOf is who has given a dispatched row's result; nil if nobody has.
func (w *work) answerOf(at int) *Answer {
	for i := range w.plan.calls {
		if c := &w.plan.calls[i]; at >= c.from && at < c.to && w.hops.answers[i].Group != "" {
			return &w.hops.answers[i]
		}
	}
	return nil
}

// replaced says what a rescue has found for a missing expert of a row; by nil means that the row had the other one anyway.
func (h *hops) replaced(n, chosen, other int, by *Answer) {
	at := slices.IndexFunc(h.rows, func(t tracedRow) bool { return t.n == n })
	if at < 0 {
		return
	}
	experts := h.rows[at].experts
	of := func(e int) int { return slices.IndexFunc(experts, func(s Served) bool { return s.Expert == e }) }
	if own := of(other); by == nil && own >= 0 {
		by = experts[own].By
	}
	i := of(chosen)
	experts[i].Other, experts[i].By = other, by
}

// tell shows a work's hops.
func (w *work) tell(in Input, route, combine time.Duration) {
	if w.hops == nil {
		return
	}
	for _, t := range w.hops.rows {
		in.Trace.Hop(int(w.of[t.n]), &Hop{Layer: in.Layer, Route: route, Combine: combine, Experts: t.experts})
	}
}

// stopwatch measures what a traced Forward takes; it costs nothing where nobody traces.
type stopwatch struct {
	on    bool
	began time.Time
}

func (in *Input) stopwatch() stopwatch {
	if in.Trace == nil {
		return stopwatch{}
	}
	return stopwatch{true, time.Now()}
}

func (s stopwatch) took() time.Duration {
	if !s.on {
		return 0
	}
	return time.Since(s.began)
}
