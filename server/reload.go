package server

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/alert"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/strictjson"
)

// reloadWithin bounds a reload: the start of all processes of a large model on a slow disk.
const reloadWithin = 5 * time.Minute

// Reload reads the configuration again and applies it, all or nothing. The log says how it went: config_applied with the keys
// that have changed, or config_rejected with the reason.
func (s *Server) Reload(ctx context.Context) {
	_, _ = s.reload(ctx) // it has been logged, and nobody waits for the answer
}

func (s *Server) reload(ctx context.Context) (*instance.Reloaded, error) {
	if s.read == nil {
		return nil, rejected(errNoReload)
	}
	s.reloading.Lock() // one after the other: the second sees what the first has made
	defer s.reloading.Unlock()
	ctx, cancel := context.WithTimeout(ctx, reloadWithin)
	defer cancel()
	next, err := s.read()
	var done *instance.Reloaded
	if err == nil {
		done, err = s.service.reload(ctx, next)
	}
	now := s.now.Load()
	if err != nil {
		s.log.Error("config_rejected", "running", now.Hash(), "reason", err.Error())
		s.meters.reloads("rejected")
		return nil, rejected(err)
	}
	s.apply(next, done)
	return done, nil
}

// apply makes a configuration that the instance has taken over the server's own, and tells of it.
func (s *Server) apply(next config.Config, done *instance.Reloaded) {
	s.now.Store(&next)
	s.useLimits(next.Limits)
	if err := s.useWeb(next); err != nil { // can't happen: it has been validated
		s.log.Error("web settings stay as they were", "error", err.Error())
	}
	s.answers.Apply(next.Cache)
	s.alerts.Use(alert.Rules(next.Alerts), next.Alerts.Interval)
	s.tracer.Apply(next.Tracing)
	keys := make([]string, len(done.Changes))
	for i, c := range done.Changes {
		keys[i] = c.Key
	}
	groups := []string{}
	router := ""
	if p := done.Processes; p != nil {
		router = p.Router
		for _, g := range p.Groups {
			groups = append(groups, g.Group)
		}
	}
	s.log.Info("config_applied", "from", done.From, "hash", done.Hash, "keys", keys, "groups", groups, "router", router, "took", done.Took)
	s.meters.reloads("applied")
}

var errNoReload = errors.New("this server was not started in a way that its configuration can be read again")

// rejected is why nothing has changed, for an operator: only the admin API shows it.
func rejected(err error) error {
	f := &fault{status: http.StatusUnprocessableEntity, code: "config_rejected", message: plain(err)}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, sdk.ErrUnavailable) {
		f.status = http.StatusServiceUnavailable
	}
	return f
}

// reloadNow is POST /admin/reload. It takes an empty object, as JSON, so that no page of a local browser can ask for it.
// A client that goes away does not end it.
func (s *Server) reloadNow(_ context.Context, r *request) (*reply, error) {
	if err := emptyBody(r.body); err != nil {
		return nil, err
	}
	done, err := s.reload(s.base)
	if err != nil {
		return nil, err
	}
	return jsonReply(done), nil
}

// emptyBody refuses what is not an empty object.
func emptyBody(body []byte) error { return strictjson.Fields{}.Read(body) }

// config is GET /admin/config: the configuration that holds now, without secrets.
func (s *Server) config(context.Context, *request) (*reply, error) {
	now := *s.now.Load()
	text, err := now.YAML()
	if err != nil {
		return nil, err
	}
	return jsonReply(map[string]any{"hash": now.Hash(), "yaml": string(text), "live_keys": config.LiveKeys()}), nil
}
