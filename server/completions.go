package server

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
)

// completions is POST /v1/completions.
func (s *Server) completions(ctx context.Context, r *request) (*reply, error) {
	want, err := openai.DecodeCompletion(r.body)
	if err != nil {
		return nil, err
	}
	if err := s.checkModel(want.Model); err != nil {
		return nil, err
	}
	if err := s.checkVocabulary(want); err != nil {
		return nil, err
	}
	prompts := make([]prompt, len(want.Prompts))
	for i, p := range want.Prompts {
		if prompts[i], err = s.encodePrompt(p, i, len(prompts), want.Echo); err != nil {
			return nil, err
		}
	}
	return s.generate(ctx, r, want, prompts, dialect{
		head: s.head("cmpl-", want.Model),
		kind: "completion", whole: openai.Head.Completion, event: openai.Head.CompletionEvent, usage: openai.Head.CompletionUsage,
		meta: openai.Head.CompletionMeta,
	})
}

// encodePrompt turns one prompt into ids.
func (s *Server) encodePrompt(p openai.Prompt, i, of int, echo bool) (prompt, error) {
	param := "prompt"
	if of > 1 {
		param = fmt.Sprintf("prompt[%d]", i)
	}
	out := prompt{ids: p.IDs, text: p.Text}
	if p.IDs == nil {
		out.ids = s.service.text.Encode(p.Text, true)
		if echo {
			out.lead = max(len(out.ids)-len(s.service.text.Encode(p.Text, false)), 0)
		}
	} else if echo {
		out.text = s.service.text.Decode(p.IDs, false)
	}
	for _, id := range p.IDs {
		if int(id) >= s.service.vocab {
			return prompt{}, &strictjson.Error{Path: param, Expected: fmt.Sprintf("token ids below %d", s.service.vocab), Got: fmt.Sprint(id)}
		}
	}
	return out, s.checkLength(out.ids, param)
}

// head is what all objects of one answer share.
func (s *Server) head(prefix, model string) openai.Head {
	return openai.Head{
		ID: prefix + uuid.NewString(), Created: time.Now().Unix(), Model: model,
		Fingerprint: s.service.fingerprint(), Routing: s.service.routing,
	}
}
