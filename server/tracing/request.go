package tracing

import (
	"context"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/pimoe/pimoe/core/spans"
)

// mostSpans bounds the spans of one request; steps that begin beyond it are not followed.
const mostSpans = 4000

// Request is a request of a client that has a place in a trace. Few are followed; the others only have ids. A nil Request has
// none, and all its methods do nothing.
type Request struct {
	t     *Tracer
	trace trace.TraceID
	id    trace.SpanID
	root  *root // nil = not followed
}

// root is the request's own span.
type root struct {
	span
	name  string
	state string       // what the client's tracestate says
	left  atomic.Int64 // of mostSpans
	last  End
}

// Begin gives a request its place. work says that it runs on the model: of others only those whose client asks for it are
// followed, since health checks and scrapes come all the time. name is the route's, never a path.
func (t *Tracer) Begin(p Parent, name string, work bool, began time.Time) *Request {
	if t == nil || !t.On() && !p.IsValid() {
		return nil
	}
	r := &Request{t: t, trace: p.TraceID(), id: newSpanID()}
	if !p.IsValid() {
		r.trace = newTraceID()
	}
	if t.On() && (work || p.IsSampled()) && t.decide(p.IsSampled()) {
		r.root = &root{span: span{r: r, id: r.id, parent: p.SpanID(), began: began}, name: name, state: p.TraceState().String()}
		r.root.left.Store(mostSpans)
	}
	return r
}

// Traceparent is what the client is told; empty = nothing.
func (r *Request) Traceparent() string {
	if r == nil {
		return ""
	}
	return format(r.trace, r.id, r.Followed())
}

// TraceID is the trace's name for logs; empty = there is none.
func (r *Request) TraceID() string {
	if r == nil {
		return ""
	}
	return r.trace.String()
}

// Followed reports whether spans are made.
func (r *Request) Followed() bool { return r != nil && r.root != nil }

// End is what became of a request.
type End struct {
	ID, Method, Route, Tenant string
	Status                    int
	Code                      string // of an error, as its answer has it
	Prompt, Completion        int    // tokens
	Took                      time.Duration
}

// End ends the request's span.
func (r *Request) End(e End) {
	if !r.Followed() {
		return
	}
	r.root.end(nil)
	r.root.last = e
	r.t.queue.put(r.root)
	r.t.exemplars.Note("pimoe_http_request_seconds", e.Took.Seconds(), r.TraceID(), "route", e.Method+" "+e.Route)
}

type requestKey struct{}

// With makes a request known to whoever gets the context.
func With(ctx context.Context, r *Request) context.Context {
	if !r.Followed() {
		return ctx
	}
	return context.WithValue(ctx, requestKey{}, r)
}

// From is the followed request that a context belongs to; nil = none.
func From(ctx context.Context) *Request {
	r, _ := ctx.Value(requestKey{}).(*Request)
	return r
}

// Layers has the layers of what is computed with the context followed, outside of a continuation: hidden states that a client has
// sent. The function that it returns ends that.
func Layers(ctx context.Context, rows int) (context.Context, func(error)) {
	r := From(ctx)
	if r == nil {
		return ctx, func(error) {}
	}
	s := r.step(r.id, spans.Part{Tokens: rows, Prompt: true, Sequences: 1, Rows: rows}, nil)
	return spans.WithStep(ctx, s), s.End
}
