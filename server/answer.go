package server

import (
	"context"
	"net/http"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/server/openai"
)

// dialect is how one of the two generation routes writes its answer.
type dialect struct {
	head  openai.Head
	whole func(openai.Head, []openai.Choice, openai.Usage, *openai.Meta) []byte
	event func(openai.Head, openai.Choice, bool) []byte
	usage func(openai.Head, openai.Usage) []byte
	meta  func(openai.Head, openai.Meta, bool) []byte
	kind  string // of route, for the cache
	role  bool   // each choice begins with an event that has the role
}

// generate answers a request at once or as a stream, with a kept answer where there is one.
func (s *Server) generate(ctx context.Context, r *request, want *openai.Request, prompts []prompt, d dialect) (*reply, error) {
	if r.numbered != nil {
		if err := r.numbered.adapt(s, want, len(prompts)); err != nil {
			return nil, err
		}
	}
	l := s.lookup(ctx, r, want, prompts, d.kind)
	if want.Stream {
		return s.generateStream(ctx, r, want, prompts, d, l)
	}
	a, err := s.answer(ctx, r, want, prompts, l)
	if err != nil {
		return nil, err
	}
	if a.record != nil {
		d.head.Pimoe = a.record
	}
	header := s.disclosure(a.quality, a.Programs)
	l.tell(header)
	return &reply{status: http.StatusOK, contentType: mimeJSON, header: header, body: d.whole(d.head, a.Choices, a.Usage, s.meta(a.quality))}, nil
}

// generateStream is generate for a client that wants events. It waits for no equal request: its first token comes as soon as
// it can be had.
func (s *Server) generateStream(ctx context.Context, r *request, want *openai.Request, prompts []prompt, d dialect, l *lookup) (*reply, error) {
	if a := l.find(ctx); a != nil {
		header := s.disclosure(a.quality, a.Programs)
		l.tell(header)
		return &reply{
			status: http.StatusOK, contentType: mimeEvents, header: header,
			stream: func(_ context.Context, w *events) error { return a.stream(want, d, w) },
		}, nil
	}
	g, err := s.start(ctx, r, want, prompts)
	if err != nil {
		return nil, err
	}
	header := s.promise(r)
	l.tell(header)
	return &reply{
		status: http.StatusOK, contentType: mimeEvents, header: header,
		stream: func(ctx context.Context, w *events) error { return g.stream(ctx, r, d, w, l) },
	}, nil
}

// stream writes the pieces as events until all choices have ended.
func (g *generation) stream(ctx context.Context, r *request, d dialect, w *events, l *lookup) error {
	defer g.close()
	d.open(len(g.choices), g.want, w)
	kept := l.gather(g)
	plain := make([]openai.Pieces, len(g.choices))
	for i := range plain {
		plain[i] = openai.NewPieces(d.event(d.head, openai.Choice{Index: i, Text: openai.PieceText}, g.want.IncludeUsage))
	}
	var event []byte                           // the memory of the last one
	known := make([]moe.Kinds, len(g.choices)) // what the client has been told of each choice
	emit := func(p piece) error {
		kept.add(p)
		if p.quality.Kinds != known[p.Index] {
			known[p.Index] = p.quality.Kinds
			m := g.s.meta(p.quality)
			m.Index = &p.Index
			w.named("degraded", d.meta(d.head, *m, g.want.IncludeUsage))
		}
		if p.traced != nil {
			g.emitTraced(d, p, w)
			return w.err
		}
		if p.Text != "" && p.Finish == "" && p.Logprobs == nil && p.Calls == nil {
			event = plain[p.Index].Append(event[:0], p.Text)
			w.data(event)
			return w.err
		}
		for _, e := range split(p.Choice) {
			w.data(d.event(d.head, e, g.want.IncludeUsage))
		}
		return w.err
	}
	err := g.run(ctx, emit, func() error { w.comment(); return w.err })
	u := g.usage()
	r.tokens.prompt, r.tokens.completion = u.PromptTokens, u.CompletionTokens
	if err != nil {
		return err
	}
	if q := g.quality(); g.s.streamed(r) {
		r.quality = q.Status()
		w.named("summary", d.meta(d.head, *g.s.meta(q), g.want.IncludeUsage))
	}
	if g.recorder != nil {
		record, err := g.record()
		if err != nil {
			return err
		}
		h := d.head
		h.Pimoe = record
		w.data(d.meta(h, *g.s.meta(g.quality()), g.want.IncludeUsage))
	}
	d.finish(u, g.programs(), g.want, w)
	kept.keep(g)
	return nil
}

// open begins a stream.
func (d dialect) open(choices int, want *openai.Request, w *events) {
	if !d.role {
		return
	}
	for i := range choices {
		w.data(d.event(d.head, openai.Choice{Index: i, Role: true}, want.IncludeUsage))
	}
}

// finish ends a stream.
func (d dialect) finish(u openai.Usage, programs string, want *openai.Request, w *events) {
	if want.IncludeUsage {
		w.data(d.usage(d.head, u))
	}
	if programs != "" { // its header has left before anybody knew
		w.remark("plugins " + programs)
	}
	w.done()
}

// emitTraced writes the events of a piece, of which the first has the trace, also where the text is still held back.
func (g *generation) emitTraced(d dialect, p piece, w *events) {
	h := d.head
	h.Pimoe = g.traceOf(p)
	list := split(p.Choice)
	if len(list) == 0 {
		list = []openai.Choice{{Index: p.Index}}
	}
	for _, e := range list {
		w.data(d.event(h, e, g.want.IncludeUsage))
		h.Pimoe = nil
	}
}

// split makes the events of a piece: none for a token whose text is still held back, and one of its own for the finish
// reason, as OpenAI's streams have it.
func split(p openai.Choice) []openai.Choice {
	var out []openai.Choice
	if p.Text != "" || len(p.Logprobs) > 0 || len(p.Calls) > 0 {
		text := p
		text.Finish = ""
		out = append(out, text)
	}
	if p.Finish != "" {
		out = append(out, openai.Choice{Index: p.Index, Finish: p.Finish})
	}
	return out
}
