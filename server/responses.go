package server

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
)

const responsesPath = "/v1/responses"

// responses is POST /v1/responses: a chat in other words, without a memory of earlier answers.
func (s *Server) responses(ctx context.Context, r *request) (*reply, error) {
	want, err := openai.DecodeResponse(r.body)
	if err != nil {
		return nil, err
	}
	if err := s.checkModel(want.Model); err != nil {
		return nil, err
	}
	if err := s.checkVocabulary(want.Request); err != nil {
		return nil, err
	}
	p, err := s.renderChat(ctx, want.Request)
	if err != nil {
		return nil, inResponses(err)
	}
	g, err := s.start(ctx, r, want.Request, []prompt{p})
	if err != nil {
		return nil, inResponses(err)
	}
	a := &response{g: g, r: r, want: want}
	if want.Stream {
		return &reply{status: http.StatusOK, contentType: mimeEvents, header: s.promise(r), stream: a.stream, fail: a.fail}, nil
	}
	return a.whole(ctx)
}

// inResponses names a field of a chat as this route calls it.
func inResponses(err error) error {
	names := map[string]string{"messages": "input", "max_tokens": "max_output_tokens", "response_format or tools": "text.format or tools"}
	var f *fault
	var shape *strictjson.Error
	switch {
	case errors.As(err, &f) && names[f.param] != "":
		f.message = strings.Replace(f.message, f.param+":", names[f.param]+":", 1)
		f.param = names[f.param]
	case errors.As(err, &shape) && names[shape.Path] != "":
		shape.Path = names[shape.Path]
	}
	return err
}

// response is an answer under way.
type response struct {
	g     *generation
	r     *request
	want  *openai.ResponseRequest
	out   *openai.Responder
	known moe.Kinds // what the client of a stream has been told
}

// begin makes the responder. emit takes the events of a stream, nil = there is none.
func (a *response) begin(emit func(kind string, event []byte)) {
	params := a.want.Sampling.Params(a.g.s.service.defaults, 0)
	newID := func(prefix string) string { return prefix + strings.ReplaceAll(uuid.NewString(), "-", "") }
	a.out = openai.NewResponder(a.want, a.g.s.head("resp_", a.want.Model), params.Temperature, params.TopP, newID, emit)
	a.out.Begin()
}

// end finishes the answer.
func (a *response) end() ([]byte, error) {
	if a.g.recorder != nil {
		record, err := a.g.record()
		if err != nil {
			return nil, err
		}
		a.out.Attach(record)
	}
	q := a.g.quality()
	a.r.quality = q.Status()
	return a.out.End(a.g.usage(), a.g.s.meta(q)), nil
}

// count is for the log, also of an answer that fails.
func (a *response) count() {
	u := a.g.usage()
	a.r.tokens.prompt, a.r.tokens.completion = u.PromptTokens, u.CompletionTokens
}

func (a *response) whole(ctx context.Context) (*reply, error) {
	defer a.g.close()
	a.begin(nil)
	err := a.g.run(ctx, func(p piece) error { a.out.Push(p.Choice); return nil }, nil)
	a.count()
	if err != nil {
		return nil, err
	}
	body, err := a.end()
	if err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, header: a.g.s.disclosure(a.g.quality(), a.g.programs()), body: body}, nil
}

// stream writes the events until the answer has ended. This API has no [DONE].
func (a *response) stream(ctx context.Context, w *events) error {
	defer a.g.close()
	a.begin(w.named)
	emit := func(p piece) error {
		if p.quality.Kinds != a.known {
			a.known = p.quality.Kinds
			a.out.Emit("response.pimoe.degraded", map[string]any{"meta": a.g.s.meta(p.quality)})
		}
		if p.traced != nil {
			a.out.Emit("response.pimoe.trace", map[string]any{"pimoe": a.g.traceOf(p)})
		}
		a.out.Push(p.Choice)
		return w.err
	}
	err := a.g.run(ctx, emit, func() error { w.comment(); return w.err })
	a.count()
	if err != nil {
		return err
	}
	if p := a.g.programs(); p != "" { // its header has left before anybody knew
		w.remark("plugins " + p)
	}
	if _, err := a.end(); err != nil {
		return err
	}
	return w.err
}

// fail is the last event of a stream that has failed.
func (a *response) fail(_ *events, f *fault) {
	if a.out != nil { // nil = it has failed before its first event
		a.out.Fail(f.openai(a.r.id))
	}
}
