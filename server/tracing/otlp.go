package tracing

import (
	"os"
	"time"

	"go.opentelemetry.io/otel/trace"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	resource "go.opentelemetry.io/proto/otlp/resource/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
)

// record is one or more spans that have ended together. Nobody changes it any more.
type record interface {
	spans() int
	encode(e *encoder)
}

// encoder makes OTLP of records. It points into them instead of copying, and allocates attributes by the hundred: an export
// has thousands of them.
type encoder struct {
	made []*otlp.Span
	room []attribute
}

// source is what an export says of where its spans come from.
type source struct {
	resource *resource.Resource
	scope    *common.InstrumentationScope
}

func newSource(o Options) source {
	host, _ := os.Hostname() // a span without it is as good
	var e encoder
	about := &otlp.Span{}
	e.text(about, "service.name", "pimoe")
	e.text(about, "service.version", o.Version)
	e.text(about, "host.name", host)
	e.number(about, "process.pid", os.Getpid())
	e.text(about, "pimoe.model", o.Model)
	return source{&resource.Resource{Attributes: about.Attributes}, &common.InstrumentationScope{Name: "github.com/pimoe/pimoe/server/tracing"}}
}

// of is an export.
func (s source) of(b bundle) []*otlp.ResourceSpans {
	e := encoder{made: make([]*otlp.Span, 0, b.spans)}
	for _, r := range b.records {
		r.encode(&e)
	}
	return []*otlp.ResourceSpans{{Resource: s.resource, ScopeSpans: []*otlp.ScopeSpans{{Scope: s.scope, Spans: e.made}}}}
}

// attribute is a pair with its value, in one piece.
type attribute struct {
	pair   common.KeyValue
	value  common.AnyValue
	text   common.AnyValue_StringValue
	number common.AnyValue_IntValue
}

// attributesAtOnce is some twenty calls' worth.
const attributesAtOnce = 256

// The kinds of spans, as OTLP has them.
const (
	internal = otlp.Span_SPAN_KIND_INTERNAL
	server   = otlp.Span_SPAN_KIND_SERVER
	client   = otlp.Span_SPAN_KIND_CLIENT
)

// sampled are a span's flags: it is followed, and whether its parent is elsewhere is known.
const sampled = uint32(trace.FlagsSampled) | uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK)

// add begins a span of a request with room for some attributes.
func (e *encoder) add(name string, kind otlp.Span_SpanKind, s *span, attributes int) *otlp.Span {
	out := &otlp.Span{
		TraceId: s.r.trace[:], SpanId: s.id[:], ParentSpanId: s.parent[:], TraceState: s.r.root.state, Flags: sampled, Name: name, Kind: kind,
		StartTimeUnixNano: nanoseconds(s.began), EndTimeUnixNano: nanoseconds(s.ended),
	}
	if attributes > 0 {
		out.Attributes = make([]*common.KeyValue, 0, attributes)
	}
	e.made = append(e.made, out)
	return out
}

// below is a span of its own within another one, without anything to say but when.
func (e *encoder) below(s *span, name string, kind otlp.Span_SpanKind, began, ended time.Time, attributes int) *otlp.Span {
	return e.add(name, kind, &span{r: s.r, id: newSpanID(), parent: s.id, began: began, ended: ended}, attributes)
}

func nanoseconds(t time.Time) uint64 { return uint64(max(t.UnixNano(), 0)) }

func (e *encoder) attribute(to *otlp.Span, key string) *attribute {
	if len(e.room) == 0 {
		e.room = make([]attribute, attributesAtOnce)
	}
	a := &e.room[0]
	e.room = e.room[1:]
	a.pair.Key, a.pair.Value = key, &a.value
	to.Attributes = append(to.Attributes, &a.pair)
	return a
}

func (e *encoder) text(to *otlp.Span, key, value string) {
	a := e.attribute(to, key)
	a.text.StringValue, a.value.Value = value, &a.text
}

func (e *encoder) number(to *otlp.Span, key string, value int) {
	a := e.attribute(to, key)
	a.number.IntValue, a.value.Value = int64(value), &a.number
}

func (e *encoder) truth(to *otlp.Span, key string, value bool) {
	e.attribute(to, key).value.Value = truths[value]
}

var truths = map[bool]*common.AnyValue_BoolValue{false: {}, true: {BoolValue: true}}

// fail marks a span whose work ended with an error of a class.
func (e *encoder) fail(to *otlp.Span, class string) {
	if class != "" {
		e.text(to, "error.type", class)
		to.Status = &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: class}
	}
}

func (r *root) spans() int { return 1 }

func (r *root) encode(e *encoder) {
	x := &r.last
	s := e.add(r.name, server, &r.span, 7)
	if r.parent.IsValid() {
		s.Flags |= uint32(otlp.SpanFlags_SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK)
	} else {
		s.ParentSpanId = nil
	}
	e.text(s, "http.request.method", x.Method)
	e.text(s, "http.route", x.Route)
	e.number(s, "http.response.status_code", x.Status)
	e.text(s, "pimoe.request_id", x.ID)
	e.text(s, "pimoe.tenant", x.Tenant)
	if x.Prompt+x.Completion > 0 {
		e.number(s, "gen_ai.usage.input_tokens", x.Prompt)
		e.number(s, "gen_ai.usage.output_tokens", x.Completion)
	}
	if x.Status >= 500 || x.Status == 499 {
		s.Status = &otlp.Status{Code: otlp.Status_STATUS_CODE_ERROR, Message: x.Code}
	}
}

func (g *Generation) spans() int {
	n := 2 // itself and the queue
	if g.done.stepped {
		n++
	}
	if g.done.usage.FirstToken > 0 {
		n++
	}
	return n
}

func (g *Generation) encode(e *encoder) {
	d, u := &g.done, &g.done.usage
	at := g.began.Add
	e.below(&g.span, "queue", internal, g.began, at(d.queued), 0)
	if d.stepped {
		s := e.below(&g.span, "prefill", internal, at(d.queued), at(max(d.first, d.queued)), 2)
		e.number(s, "gen_ai.usage.input_tokens", u.PromptTokens)
		e.number(s, "pimoe.cached_tokens", u.CachedTokens)
	}
	if u.FirstToken > 0 {
		s := e.below(&g.span, "decode", internal, at(d.first), g.ended, 2)
		e.number(s, "gen_ai.usage.output_tokens", u.CompletionTokens)
		e.number(s, "pimoe.steps", int(d.steps))
	}
	s := e.add("generate", internal, &g.span, 2)
	e.text(s, "pimoe.quality", u.Quality.Status())
	e.fail(s, g.failed)
}

func (s *step) spans() int { return 1 }

func (s *step) encode(e *encoder) {
	to, p := e.add("step", internal, &s.span, 6), &s.part
	e.truth(to, "pimoe.prompt", p.Prompt)
	e.number(to, "pimoe.position", p.Position)
	e.number(to, "pimoe.tokens", p.Tokens)
	e.number(to, "pimoe.batch.sequences", p.Sequences)
	e.number(to, "pimoe.batch.rows", p.Rows)
	if l := s.leader; l != nil {
		to.Links = []*otlp.Span_Link{{TraceId: l.r.trace[:], SpanId: l.id[:], Flags: sampled}}
	}
	e.fail(to, s.failed)
}

func (l *layer) spans() int { return 1 }

func (l *layer) encode(e *encoder) {
	s := e.add("layer", internal, &l.span, 3)
	e.number(s, "pimoe.layer", l.number)
	e.number(s, "pimoe.rows", l.rows)
	e.fail(s, l.failed)
}

func (c *call) spans() int {
	if c.outcome.Began.IsZero() {
		return 1
	}
	return 2
}

func (c *call) encode(e *encoder) {
	x, name, compute := &c.what, "expert.call", "expert.compute"
	if x.Router {
		name, compute = "router.call", "router.compute"
	}
	if o := &c.outcome; !o.Began.IsZero() {
		e.below(&c.span, compute, server, o.Began, o.Began.Add(o.Took), 0)
	}
	s := e.add(name, client, &c.span, 12)
	e.text(s, "pimoe.group", x.Group)
	e.number(s, "pimoe.replica", x.Replica)
	e.number(s, "pimoe.process", x.PID)
	e.text(s, "pimoe.plugin.version", x.Version)
	e.number(s, "pimoe.attempt", x.Attempt)
	e.truth(s, "pimoe.hedge", x.Hedge)
	e.number(s, "pimoe.rows", x.Rows)
	if !x.Router {
		e.text(s, "pimoe.backend", x.Backend)
		e.text(s, "pimoe.class", x.Class)
		e.number(s, "pimoe.experts", x.Units)
	}
	if c.outcome.Dropped {
		e.truth(s, "pimoe.dropped", true)
	}
	e.fail(s, c.failed)
}

var (
	_ record = (*root)(nil)
	_ record = (*Generation)(nil)
	_ record = (*step)(nil)
	_ record = (*layer)(nil)
	_ record = (*call)(nil)
)
