package tracing

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk"
)

// What is followed is noted in plain values, on the way of the request, and becomes OTLP in the exporter's goroutine (otlp.go).

// span is what all of them have.
type span struct {
	r          *Request
	id, parent trace.SpanID
	began      time.Time
	ended      time.Time
	failed     string // the class of an error; empty = it went well
}

// start begins a span below another one.
func (r *Request) start(parent trace.SpanID) span {
	r.root.left.Add(-1)
	return span{r: r, id: newSpanID(), parent: parent, began: r.t.now()}
}

// end ends it. It belongs to the queue as soon as it is put there.
func (s *span) end(err error) {
	s.ended, s.failed = s.r.t.now(), classOf(err)
}

// Generation follows one request of the engine. A nil one does nothing.
type Generation struct {
	span
	once   sync.Once    // Done
	prompt atomic.Int64 // parts of the prompt so far; the decode loop counts
	decode atomic.Int64 // decode steps so far
	done   generated
}

// generated is what only the end of a generation can tell.
type generated struct {
	usage engine.Usage
	// queued, first and all are since its begin: when it got its first step, its first token, and its end.
	queued, first, all time.Duration
	stepped            bool // it has had a step
	steps              int64
}

// Follow has a request of the engine followed, if the client's is. It is called before Submit, and Done after the end.
func (r *Request) Follow(q *engine.Request) *Generation {
	if !r.Followed() {
		return nil
	}
	g := &Generation{span: r.start(r.id)}
	q.Trace = g
	return g
}

// Step implements spans.Request.
func (g *Generation) Step(p spans.Part, leader spans.Step) spans.Step {
	every, n := g.r.t.rates.Load().StepEvery, &g.decode
	if p.Prompt {
		n = &g.prompt
	}
	if count := n.Add(1); every == 0 || (count-1)%int64(every) != 0 || g.r.root.left.Load() <= 0 {
		return nil
	}
	return g.r.step(g.id, p, leader)
}

// Done ends the span, with those that only the end can tell: how long the request waited, read its prompt and wrote. It may be
// called again.
func (g *Generation) Done(u engine.Usage, err error) {
	if g == nil {
		return
	}
	g.once.Do(func() {
		g.end(err)
		d := generated{usage: u, queued: u.Queued, first: u.FirstToken, stepped: g.prompt.Load() > 0, steps: g.decode.Load()}
		d.all = max(g.ended.Sub(g.began), u.FirstToken)
		if !d.stepped {
			d.queued = d.all
		}
		if d.first == 0 {
			d.first = d.all
		}
		g.ended, g.done = g.began.Add(d.all), d
		g.r.root.left.Add(int64(1 - g.spans()))
		g.note(d)
		g.r.t.queue.put(g)
	})
}

// note makes the generation an exemplar.
func (g *Generation) note(d generated) {
	e, id := g.r.t.exemplars, g.r.TraceID()
	if d.usage.FirstToken > 0 {
		e.Note(engine.TimeToFirstToken, d.usage.FirstToken.Seconds(), id)
		if n := d.usage.CompletionTokens; n > 1 {
			e.Note(engine.InterToken, (d.all-d.first).Seconds()/float64(n-1), id)
		}
	}
	if d.stepped {
		e.Note("pimoe_queue_seconds", d.queued.Seconds(), id)
	}
}

// classOf is an error's class: texts are for the log.
func classOf(err error) string {
	if err == nil {
		return ""
	}
	for _, c := range []struct {
		is   error
		name string
	}{
		{sdk.ErrDeadline, "deadline"}, {context.DeadlineExceeded, "deadline"}, {context.Canceled, "cancelled"}, {sdk.ErrInvalidOutput, "invalid_output"},
		{sdk.ErrUnavailable, "unavailable"}, {sdk.ErrOverloaded, "overloaded"}, {sdk.ErrInvalid, "invalid"},
	} {
		if errors.Is(err, c.is) {
			return c.name
		}
	}
	return "error"
}

// step is a step, or another one's step that has a part of the request.
type step struct {
	span
	part   spans.Part
	leader *step // whose span has the layers; nil = this one
}

func (r *Request) step(parent trace.SpanID, p spans.Part, leader spans.Step) spans.Step {
	s := &step{span: r.start(parent), part: p}
	s.leader, _ = leader.(*step)
	return s
}

// Layer implements spans.Step.
func (s *step) Layer(n, rows int) spans.Layer {
	return &layer{span: s.r.start(s.id), number: n, rows: rows}
}

// End implements spans.Step.
func (s *step) End(err error) {
	s.end(err)
	s.r.t.queue.put(s)
}

// layer is a layer of a step.
type layer struct {
	span
	number, rows int
}

// Call implements spans.Layer.
func (l *layer) Call(c spans.Call) spans.Span {
	return &call{span: l.r.start(l.id), what: c}
}

// End implements spans.Layer.
func (l *layer) End(err error) {
	l.end(err)
	l.r.t.queue.put(l)
}

// call is an attempt of a call on a process. What the process says of its own time is a span of its own.
type call struct {
	span
	what    spans.Call
	outcome spans.Outcome
}

// ID implements spans.Span.
func (c *call) ID() ([16]byte, [8]byte) { return c.r.trace, c.id }

// End implements spans.Span.
func (c *call) End(o spans.Outcome) {
	c.end(o.Err)
	c.outcome = o
	c.r.root.left.Add(int64(1 - c.spans()))
	c.r.t.queue.put(c)
}

var (
	_ spans.Request = (*Generation)(nil)
	_ spans.Step    = (*step)(nil)
	_ spans.Layer   = (*layer)(nil)
	_ spans.Span    = (*call)(nil)
)
