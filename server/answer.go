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
	role  bool // each choice begins with an event that has the role
}

// generate runs a request and answers it at once or as a stream.
func (s *Server) generate(ctx context.Context, r *request, want *openai.Request, prompts []prompt, d dialect) (*reply, error) {
	g, err := s.start(ctx, r, want, prompts)
	if err != nil {
		return nil, err
	}
	if want.Stream {
		return &reply{
			status: http.StatusOK, contentType: mimeEvents, header: s.promise(r),
			stream: func(ctx context.Context, w *events) error { return g.stream(ctx, r, d, w) },
		}, nil
	}
	defer g.close()
	choices, err := g.whole(ctx)
	u := g.usage()
	r.tokens.prompt, r.tokens.completion = u.PromptTokens, u.CompletionTokens
	if err != nil {
		return nil, err
	}
	q := g.quality()
	r.quality = q.Status()
	if g.recorder != nil {
		if d.head.Pimoe, err = g.record(); err != nil {
			return nil, err
		}
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, header: s.disclosure(q, g.programs()), body: d.whole(d.head, choices, u, s.meta(q))}, nil
}

// stream writes the pieces as events until all choices have ended.
func (g *generation) stream(ctx context.Context, r *request, d dialect, w *events) error {
	defer g.close()
	if d.role {
		for _, c := range g.choices {
			w.data(d.event(d.head, openai.Choice{Index: c.index, Role: true}, g.want.IncludeUsage))
		}
	}
	plain := make([]openai.Pieces, len(g.choices))
	for i := range plain {
		plain[i] = openai.NewPieces(d.event(d.head, openai.Choice{Index: i, Text: openai.PieceText}, g.want.IncludeUsage))
	}
	var event []byte                           // the memory of the last one
	known := make([]moe.Kinds, len(g.choices)) // what the client has been told of each choice
	emit := func(p piece) error {
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
	if g.want.IncludeUsage {
		w.data(d.usage(d.head, u))
	}
	if p := g.programs(); p != "" { // its header has left before anybody knew
		w.remark("plugins " + p)
	}
	w.done()
	return nil
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
