package server

import (
	"context"
	"io"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/alert"
	"github.com/pimoe/pimoe/server/alert/lookout"
	"github.com/pimoe/pimoe/server/live"
)

const alertsPath = "/admin/alerts"

// openAlerts starts the rules over the server's own metrics, where they are wanted.
func (s *Server) openAlerts(cfg config.Alerts) {
	if !cfg.Enabled {
		return
	}
	s.alerts = lookout.Start(lookout.Options{
		Rules: alert.Rules(cfg), Every: cfg.Interval, Read: func(w io.Writer) { s.service.metrics.Write(w) },
		Now: s.clock, Log: s.log, Metrics: s.service.metrics,
		Webhook: lookout.WebhookOptions{URL: cfg.Webhook.URL, Secret: cfg.Webhook.Secret, Timeout: cfg.Webhook.Timeout, Source: s.service.id},
	})
}

// seesAlerts reports whether somebody may ask for the alerts, and so be told of them, too.
func (s *Server) seesAlerts(p access.Principal) bool {
	rule, err := s.table.Of("GET " + alertsPath)
	return err == nil && rule.Allow(p) == nil
}

// alertsNow is what watchers are told.
func (s *Server) alertsNow() live.AlertList {
	st := s.alerts.Status()
	inside := 0
	for _, r := range st.Rules {
		if !r.Outside {
			inside++
		}
	}
	return live.AlertList{Looked: st.Looked, Rules: inside, Alerts: st.Alerts, Over: st.Over}
}

// alertList is GET /admin/alerts: what fires, is pending or was resolved lately, and the rules.
func (s *Server) alertList(context.Context, *request) (*reply, error) {
	if s.alerts == nil {
		return jsonReply(map[string]any{"enabled": false, "alerts": []any{}, "over": []any{}, "rules": []any{}}), nil
	}
	st := s.alerts.Status()
	return jsonReply(map[string]any{"enabled": true, "looked": st.Looked, "alerts": st.Alerts, "over": st.Over, "rules": alert.Describe(st.Rules)}), nil
}
