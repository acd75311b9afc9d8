package server

import (
	"context"

	"github.com/pimoe/pimoe/server/openai"
)

// chat is POST /v1/chat/completions.
func (s *Server) chat(ctx context.Context, r *request) (*reply, error) {
	want, err := openai.DecodeChat(r.body)
	if err != nil {
		return nil, err
	}
	if err := s.checkModel(want.Model); err != nil {
		return nil, err
	}
	if err := s.checkVocabulary(want); err != nil {
		return nil, err
	}
	p, err := s.renderChat(ctx, want)
	if err != nil {
		return nil, err
	}
	return s.generate(ctx, r, want, []prompt{p}, dialect{
		head: s.head("chatcmpl-", want.Model),
		kind: "chat", whole: openai.Head.Chat, event: openai.Head.ChatEvent, usage: openai.Head.ChatUsage, meta: openai.Head.ChatMeta, role: true,
	})
}

// renderChat turns a conversation into the ids that the model was trained on. The template writes the special tokens.
func (s *Server) renderChat(ctx context.Context, want *openai.Request) (prompt, error) {
	tools := want.ToolsJSON
	if want.ToolChoice.Mode == openai.ToolsNone {
		tools = nil
	}
	text, err := s.service.template(ctx, want.Messages, tools, want.Kwargs)
	if err != nil {
		return prompt{}, templateError(err)
	}
	p := prompt{ids: s.service.text.Encode(text, false)}
	return p, s.checkLength(p.ids, "messages")
}
