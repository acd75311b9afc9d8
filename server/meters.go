package server

import (
	"bytes"
	"context"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	vm "github.com/VictoriaMetrics/metrics"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/metrics/catalogue"
	"github.com/pimoe/pimoe/server/ws"
)

// build says what is running.
type build struct {
	Version, Revision string
}

// buildOf reads what the linker and the Go command have left in the binary; a version that is given wins.
func buildOf(version string) build {
	b := build{Version: version, Revision: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if b.Version == "" {
		b.Version = info.Main.Version
	}
	for _, kv := range info.Settings {
		if kv.Key == "vcs.revision" {
			b.Revision = kv.Value
		}
	}
	return b
}

// meters counts HTTP requests. Routes and codes come from tables, so the number of series is bounded.
type meters struct{ r *metrics.Registry }

func newMeters(r *metrics.Registry, b build, running *tally) *meters {
	r.Gauge("pimoe_build_info", func() float64 { return 1 }, "version", b.Version, "revision", b.Revision, "go_version", runtime.Version())
	r.Gauge("pimoe_http_requests_in_flight", func() float64 { return float64(running.count()) })
	m := &meters{r: r}
	m.refusals()
	return m
}

func (m *meters) request(route string, status int, took time.Duration) {
	m.r.Counter("pimoe_http_requests_total", "route", route, "code", strconv.Itoa(status)).Inc()
	m.r.Histogram("pimoe_http_request_seconds", nil, "route", route).Update(took.Seconds())
}

// reloads counts what became of a changed configuration: applied or rejected.
func (m *meters) reloads(outcome string) {
	m.r.Counter("pimoe_config_reloads_total", "outcome", outcome).Inc()
}

// socketMessage counts a message of a WebSocket, and whether it was refused before it began.
func (m *meters) socketMessage(t ws.Type, err error) {
	if !slices.Contains(ws.Types, t) {
		t = "unknown"
	}
	outcome := "taken"
	if err != nil {
		outcome = "refused"
	}
	m.r.Counter("pimoe_ws_messages_total", "type", string(t), "outcome", outcome).Inc()
}

// socketClosed counts the end of a WebSocket. A client can send any code; those that mean something here are told apart.
func (m *meters) socketClosed(code int) {
	text := "other"
	if code >= 1000 && code <= 1015 || slices.Contains(ws.Codes, code) {
		text = strconv.Itoa(code)
	}
	m.r.Counter("pimoe_ws_closed_total", "code", text).Inc()
}

// socketResumed counts generations that were resumed: kept here, or computed again.
func (m *meters) socketResumed(how string) {
	m.r.Counter("pimoe_ws_resumed_total", "how", how).Inc()
}

// metrics is GET /metrics: Prometheus text. Series of tenants are for those who may see all of them.
func (s *Server) metrics(_ context.Context, r *request) (*reply, error) {
	var b bytes.Buffer
	s.service.metrics.Write(&b)
	vm.WriteProcessMetrics(&b)
	s.tenants.write(&b, r.principal)
	s.writeCosts(&b, r.principal)
	return s.exposition(r, catalogue.Text(b.Bytes()))
}
