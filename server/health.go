package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/host"
)

// health is GET /health: for people and simple monitors. It recovers by itself.
func (s *Server) health(context.Context, *request) (*reply, error) {
	status, word := http.StatusOK, "healthy"
	if s.unready() != nil {
		status, word = http.StatusServiceUnavailable, "unhealthy"
	}
	return &reply{status: status, contentType: mimeJSON, body: mustJSON(map[string]any{
		"status": word, "timestamp": time.Now().UTC().Format(time.RFC3339Nano), "uptime": time.Since(s.started).Seconds(), "version": s.build.Version,
		"system_info": map[string]any{
			"model": s.service.id, "os": runtime.GOOS, "arch": runtime.GOARCH, "cpus": runtime.NumCPU(), "go_version": runtime.Version(),
		},
	})}, nil
}

// livez is GET /livez: the process serves HTTP. A restart of the host helps only if this fails.
func (s *Server) livez(context.Context, *request) (*reply, error) {
	return &reply{status: http.StatusOK, contentType: mimeText, body: []byte("ok\n")}, nil
}

// readyz is GET /readyz: every expert group and the router have passed a known-answer inference, and the server is not
// draining. With ?verbose it lists the checks.
func (s *Server) readyz(_ context.Context, r *request) (*reply, error) {
	return s.probe(r, s.unready()), nil
}

// startupz is GET /startupz: the instance has been ready once.
func (s *Server) startupz(_ context.Context, r *request) (*reply, error) {
	if s.wasUp.Load() {
		return s.probe(r, nil), nil
	}
	err := s.service.ready()
	if err == nil {
		s.wasUp.Store(true)
	}
	return s.probe(r, err), nil
}

// unready is nil while new work is taken and would be answered.
func (s *Server) unready() error {
	if s.drain.Load() {
		return errStopping
	}
	return s.service.ready()
}

// probe answers a probe as Kubernetes' own components do.
func (s *Server) probe(r *request, err error) *reply {
	rep := &reply{status: http.StatusOK, contentType: mimeText, header: map[string]string{}, body: []byte("ok\n")}
	if err != nil {
		rep.status, rep.body = http.StatusServiceUnavailable, []byte("not ready\n")
		rep.header["Retry-After"] = "1"
	}
	if !r.query.Has("verbose") {
		return rep
	}
	var b strings.Builder
	list := func(name string, err error) {
		if err == nil {
			fmt.Fprintf(&b, "[+]%s ok\n", name)
			return
		}
		fmt.Fprintf(&b, "[-]%s failed: %s\n", name, s.reason(err))
	}
	var draining error
	if s.drain.Load() {
		draining = errStopping
	}
	list("accepting", draining)
	list("experts", s.service.ready())
	rep.body = append([]byte(b.String()), rep.body...)
	return rep
}

// reason is an error as a probe may show it.
func (s *Server) reason(err error) string {
	var down *host.UnavailableError
	if errors.As(err, &down) {
		return down.Error()
	}
	return s.faultOf(err).message
}
