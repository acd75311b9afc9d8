package server

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	"google.golang.org/grpc/metadata"

	"github.com/pimoe/pimoe/server/openmetrics"
	"github.com/pimoe/pimoe/server/tracing"
)

// This file is where the edge ends what tracing has begun, and shows exemplars.

// openTracing starts what the configuration asks for.
func (s *Server) openTracing() (err error) {
	s.tracer, err = tracing.New(s.cfg.Tracing, tracing.Options{Version: s.build.Version, Model: s.service.id, Metrics: s.service.metrics, Log: s.log})
	return err
}

// closeTracing sends the spans that are left, for as long as last words may take. A collector that is gone is no error of the
// server's end.
func (s *Server) closeTracing() error {
	ctx, cancel := context.WithTimeout(context.Background(), s.limits.lastWords)
	defer cancel()
	if err := s.tracer.Close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// exposition is a scrape's answer: OpenMetrics with exemplars for those who ask for it, Prometheus' text for all others.
func (s *Server) exposition(r *request, text []byte) (*reply, error) {
	if !openmetrics.Wanted(r.accept) {
		return &reply{status: http.StatusOK, contentType: "text/plain; version=0.0.4; charset=utf-8", body: text}, nil
	}
	var b bytes.Buffer
	if err := openmetrics.Write(&b, text, s.tracer.Exemplars().Of); err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: openmetrics.ContentType, body: b.Bytes()}, nil
}

// identity is how an answer of the gRPC listener names its request.
func (c *call) identity() metadata.MD {
	md := metadata.Pairs("x-request-id", c.req.id)
	if id := c.trace.Traceparent(); id != "" {
		md.Set("traceparent", id)
	}
	return md
}
