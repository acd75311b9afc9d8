package server

import (
	"context"
	"net/http"

	"github.com/pimoe/pimoe/server/openai"
)

// models is GET /v1/models: the one model that this server has.
func (s *Server) models(context.Context, *request) (*reply, error) {
	m := openai.NewModel(s.service.id, s.service.created.Unix())
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: openai.Models(m), lasting: true}, nil
}

// model is GET /v1/models/{model}.
func (s *Server) model(_ context.Context, r *request) (*reply, error) {
	if err := s.checkModel(r.model); err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: mimeJSON, body: openai.NewModel(s.service.id, s.service.created.Unix()).Body(), lasting: true}, nil
}
