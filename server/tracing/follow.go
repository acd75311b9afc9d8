package tracing

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk"
)

// Generation follows one request of the engine. A nil one does nothing.
type Generation struct {
	r      *Request
	ctx    context.Context
	span   trace.Span
	began  time.Time
	once   sync.Once    // Done
	prompt atomic.Int64 // parts of the prompt so far; the decode loop counts
	decode atomic.Int64 // decode steps so far
}

// Follow has a request of the engine followed, if the client's is. It is called before Submit, and Done after the end.
func (r *Request) Follow(q *engine.Request) *Generation {
	if !r.Followed() {
		return nil
	}
	g := &Generation{r: r, began: r.t.now()}
	g.ctx, g.span = r.start(r.ctx, "generate", trace.WithTimestamp(g.began))
	q.Trace = g
	return g
}

// start begins a span below another one.
func (r *Request) start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	r.left.Add(-1)
	return r.t.tracer.Start(ctx, name, o...)
}

// Step implements spans.Request.
func (g *Generation) Step(p spans.Part, leader spans.Step) spans.Step {
	every, n := g.r.t.rates.Load().StepEvery, &g.decode
	if p.Prompt {
		n = &g.prompt
	}
	if count := n.Add(1); every == 0 || (count-1)%int64(every) != 0 || g.r.left.Load() <= 0 {
		return nil
	}
	return g.r.step(g.ctx, p, leader)
}

// Done ends the span and adds those that only the end can tell: how long the request waited, read its prompt and wrote. It may
// be called again.
func (g *Generation) Done(u engine.Usage, err error) {
	if g == nil {
		return
	}
	g.once.Do(func() {
		now := g.r.t.now()
		between := func(name string, from, to time.Duration, a ...attribute.KeyValue) {
			_, s := g.r.start(g.ctx, name, trace.WithTimestamp(g.began.Add(from)), trace.WithAttributes(a...))
			s.End(trace.WithTimestamp(g.began.Add(to)))
		}
		all := max(now.Sub(g.began), u.FirstToken)
		queued, first := u.Queued, u.FirstToken
		if g.prompt.Load() == 0 { // it has had no step
			queued = all
		}
		if first == 0 {
			first = all
		}
		between("queue", 0, queued)
		if g.prompt.Load() > 0 {
			between("prefill", queued, max(first, queued), attribute.Int("gen_ai.usage.input_tokens", u.PromptTokens), attribute.Int("pimoe.cached_tokens", u.CachedTokens))
		}
		if u.FirstToken > 0 {
			between("decode", first, all, attribute.Int("gen_ai.usage.output_tokens", u.CompletionTokens), attribute.Int64("pimoe.steps", g.decode.Load()))
			g.r.t.exemplars.Note(engine.TimeToFirstToken, u.FirstToken.Seconds(), g.r.TraceID())
			if u.CompletionTokens > 1 {
				g.r.t.exemplars.Note(engine.InterToken, (all-first).Seconds()/float64(u.CompletionTokens-1), g.r.TraceID())
			}
		}
		if g.prompt.Load() > 0 {
			g.r.t.exemplars.Note("pimoe_queue_seconds", u.Queued.Seconds(), g.r.TraceID())
		}
		g.span.SetAttributes(attribute.String("pimoe.quality", u.Quality.Status()))
		fail(g.span, err)
		g.span.End(trace.WithTimestamp(g.began.Add(all)))
	})
}

// fail marks a span whose work ended with an error by the error's class: texts are for the log.
func fail(s trace.Span, err error) {
	if err == nil {
		return
	}
	class := "error"
	for _, c := range []struct {
		is   error
		name string
	}{
		{sdk.ErrDeadline, "deadline"}, {context.DeadlineExceeded, "deadline"}, {context.Canceled, "cancelled"}, {sdk.ErrInvalidOutput, "invalid_output"},
		{sdk.ErrUnavailable, "unavailable"}, {sdk.ErrOverloaded, "overloaded"}, {sdk.ErrInvalid, "invalid"},
	} {
		if errors.Is(err, c.is) {
			class = c.name
			break
		}
	}
	s.SetAttributes(attribute.String("error.type", class))
	s.SetStatus(codes.Error, class)
}

// step is a step, or another one's step that has a part of the request.
type step struct {
	r    *Request
	ctx  context.Context
	span trace.Span
}

func (r *Request) step(ctx context.Context, p spans.Part, leader spans.Step) spans.Step {
	o := []trace.SpanStartOption{trace.WithAttributes(
		attribute.Bool("pimoe.prompt", p.Prompt), attribute.Int("pimoe.position", p.Position), attribute.Int("pimoe.tokens", p.Tokens),
		attribute.Int("pimoe.batch.sequences", p.Sequences), attribute.Int("pimoe.batch.rows", p.Rows),
	)}
	if l, ok := leader.(*step); ok { // its span has the layers
		o = append(o, trace.WithLinks(trace.Link{SpanContext: l.span.SpanContext()}))
	}
	s := &step{r: r}
	s.ctx, s.span = r.start(ctx, "step", o...)
	return s
}

// Layer implements spans.Step.
func (s *step) Layer(n, rows int) spans.Layer {
	l := &layer{r: s.r}
	l.ctx, l.span = s.r.start(s.ctx, "layer", trace.WithAttributes(attribute.Int("pimoe.layer", n), attribute.Int("pimoe.rows", rows)))
	return l
}

// End implements spans.Step.
func (s *step) End(err error) {
	fail(s.span, err)
	s.span.End()
}

// layer is a layer of a step.
type layer struct {
	r    *Request
	ctx  context.Context
	span trace.Span
}

// End implements spans.Layer.
func (l *layer) End(err error) {
	fail(l.span, err)
	l.span.End()
}

// Call implements spans.Layer.
func (l *layer) Call(c spans.Call) spans.Span {
	s := &call{r: l.r, kind: "expert"}
	if c.Router {
		s.kind = "router"
	}
	a := []attribute.KeyValue{
		attribute.String("pimoe.group", c.Group), attribute.Int("pimoe.replica", c.Replica), attribute.Int("pimoe.process", c.PID),
		attribute.String("pimoe.plugin.version", c.Version), attribute.Int("pimoe.attempt", c.Attempt), attribute.Bool("pimoe.hedge", c.Hedge),
		attribute.Int("pimoe.rows", c.Rows),
	}
	if !c.Router {
		a = append(a, attribute.String("pimoe.backend", c.Backend), attribute.String("pimoe.class", c.Class), attribute.Int("pimoe.experts", c.Units))
	}
	s.ctx, s.span = l.r.start(l.ctx, s.kind+".call", trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(a...))
	return s
}

// call is an attempt of a call on a process.
type call struct {
	r    *Request
	kind string
	ctx  context.Context
	span trace.Span
}

// ID implements spans.Span.
func (c *call) ID() ([16]byte, [8]byte) {
	s := c.span.SpanContext()
	return s.TraceID(), s.SpanID()
}

// End implements spans.Span. What the process says of its own time is a span of its own.
func (c *call) End(o spans.Outcome) {
	if !o.Began.IsZero() {
		_, s := c.r.start(c.ctx, c.kind+".compute", trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(o.Began))
		s.End(trace.WithTimestamp(o.Began.Add(o.Took)))
	}
	if o.Dropped {
		c.span.SetAttributes(attribute.Bool("pimoe.dropped", true))
	}
	fail(c.span, o.Err)
	c.span.End()
}

var (
	_ spans.Request = (*Generation)(nil)
	_ spans.Step    = (*step)(nil)
	_ spans.Layer   = (*layer)(nil)
	_ spans.Span    = (*call)(nil)
)
