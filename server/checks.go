package server

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/openai"
	"github.com/pimoe/pimoe/server/strictjson"
)

// checkReproducible refuses a seed, which asks for an answer that can be had again, where routes depend on what else the
// server does.
func (s *Server) checkReproducible(want *openai.Request) error {
	if s.service.routing == "" || want.Sampling.Seed == nil {
		return nil
	}
	return &fault{
		status: http.StatusUnprocessableEntity, code: "not_reproducible", param: "seed",
		message:  "seed: this server's router depends on load, so that the same request need not have the same answer again; leave seed out",
		expected: "no seed with " + s.service.routing + " routing", got: "a seed",
	}
}

// checkLength refuses a prompt that leaves no room for an answer.
func (s *Server) checkLength(ids []int32, param string) error {
	if len(ids) == 0 {
		return &strictjson.Error{Path: param, Expected: "a prompt of at least one token", Got: "none"}
	}
	if most := s.service.context; len(ids) >= most {
		return &fault{
			status: http.StatusUnprocessableEntity, code: "context_length_exceeded", param: param,
			message:  fmt.Sprintf("the prompt has %d tokens, and this model's context of %d tokens must also hold the answer", len(ids), most),
			expected: fmt.Sprintf("fewer than %d tokens", most), got: fmt.Sprint(len(ids)),
		}
	}
	return nil
}

// checkVocabulary refuses biases of tokens that the model does not have.
func (s *Server) checkVocabulary(r *openai.Request) error {
	for id := range r.Sampling.LogitBias {
		if int(id) >= s.service.vocab {
			return &strictjson.Error{Path: fmt.Sprintf("logit_bias.%d", id), Expected: fmt.Sprintf("a token id below %d", s.service.vocab), Got: fmt.Sprint(id)}
		}
	}
	return nil
}

// checkModel refuses a model that is not served here.
func (s *Server) checkModel(id string) error {
	if id == s.service.id {
		return nil
	}
	if len(id) > 64 {
		id = "of that name"
	}
	return &fault{status: http.StatusNotFound, code: "model_not_found", param: "model", message: fmt.Sprintf("the model %q does not exist here; this server has %q", id, s.service.id)}
}

// templateError tells the client's mistakes in a conversation from a model that has no template.
func templateError(err error) error {
	if errors.Is(err, sdk.ErrNotFound) {
		return &fault{status: http.StatusUnprocessableEntity, code: "no_chat_template", param: "messages", message: "this model has no chat template: use /v1/completions"}
	}
	if errors.Is(err, sdk.ErrInvalid) {
		return &fault{status: http.StatusUnprocessableEntity, code: "invalid_value", param: "messages", message: "the model's chat template refuses this conversation: " + plain(err)}
	}
	return fmt.Errorf("render the chat template: %w", err)
}
