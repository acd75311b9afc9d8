package server

import (
	"context"
	"errors"
	"net/http"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/live"
)

const livePath = "/api/v1/live"

// seesProcesses is what a watcher needs to see more than sums.
var seesProcesses = access.Rule{Role: access.Operator, Scope: "experts"}

// watchLive is GET /api/v1/live: server-sent events of the kinds hello, pulse, state, event and alerts, and at the end one bye. A stream
// ends after a while, so that whoever has lost a right does not watch for ever; clients come again.
func (s *Server) watchLive(_ context.Context, r *request) (*reply, error) {
	w, err := s.live.Subscribe(live.Audience{Processes: seesProcesses.Allow(r.principal) == nil, Alerts: s.seesAlerts(r.principal)})
	if err != nil {
		return nil, err
	}
	return &reply{status: http.StatusOK, contentType: mimeEvents, stream: func(ctx context.Context, e *events) error {
		defer w.Close()
		ctx, cancel := context.WithTimeout(ctx, s.limits.watching)
		defer cancel()
		for e.err == nil {
			m, err := w.Next(ctx)
			if err != nil {
				e.named("bye", mustJSON(map[string]string{"why": farewell(err)}))
				break
			}
			e.named(m.Kind, m.Data)
		}
		return nil
	}}, nil
}

// farewell is why a stream ends.
func farewell(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "again"
	case errors.Is(err, live.ErrSlow):
		return "slow"
	}
	return "stopping"
}

// shown tells watchers of a change that was made.
func (x *exchange) shown(rep *reply, err error) (*reply, error) {
	if c := x.route.change; c != nil && err == nil {
		x.s.live.Tell(live.Event{What: c.action, Object: x.object(), Who: x.req.principal.ID})
	}
	return rep, err
}
