package server

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/openai"
)

// featuresOf are the features of the API that a request for text uses, by what it asks for.
func featuresOf(want *openai.Request) (names []string) {
	for _, f := range []struct {
		name string
		used bool
	}{
		{"stream", want.Stream},
		{"tools", len(want.Tools) > 0},
		{"structured_output", want.Format != nil},
		{"logprobs", want.Logprobs >= 0},
		{"choices", want.N > 1 || want.Best > 0},
		{"echo", want.Echo},
		{"seed", want.Sampling.Seed != nil},
		{"stop", len(want.Stop) > 0},
		{"logit_bias", len(want.Sampling.LogitBias) > 0},
		{"trace", want.Trace.Tokens},
	} {
		if f.used {
			names = append(names, f.name)
		}
	}
	return names
}

// routeFeatures are the features that a route is, by its path. Routes that only tell are none.
var routeFeatures = map[string]string{
	"/v1/completions": "completions", "/v1/chat/completions": "chat", embeddingsPath: "embeddings", responsesPath: "responses",
	processPath: "process", jobsPath: "jobs", socketPath: "websocket", topicsPath: "topics",
}

// used counts the features of a request that was answered.
func (s *Server) used(r *request, route route) {
	if name := routeFeatures[route.path]; name != "" {
		s.meters.feature(name)
	}
	for _, name := range r.features {
		s.meters.feature(name)
	}
	if r.claim != nil {
		s.meters.feature("idempotency")
	}
}

func (m *meters) feature(name string) {
	m.r.Counter("pimoe_features_used_total", "feature", name).Inc()
}

// Reasons and kinds have a series from the start: a first failure is then a step from 0, which rate() sees.
func (m *meters) refusals() {
	for _, r := range refusals {
		m.r.Counter("pimoe_auth_failures_total", "reason", r.code)
	}
	for _, l := range limitKinds {
		m.r.Counter("pimoe_rate_limited_total", "limit", string(l))
	}
}

// refused counts a request that was refused for who it is from.
func (m *meters) refused(code string) { m.r.Counter("pimoe_auth_failures_total", "reason", code).Inc() }

// limited counts a request that was answered with 429.
func (m *meters) limited(kind string) { m.r.Counter("pimoe_rate_limited_total", "limit", kind).Inc() }

// windows are the times over which users are counted.
var windows = []struct {
	label string
	long  time.Duration
}{{"5m", 5 * time.Minute}, {"1h", time.Hour}, {"24h", 24 * time.Hour}}

// mostUsers bounds the principals that are remembered, about 3 MB. Beyond it new ones are not counted until old ones are a day
// away; a token can name any principal.
const mostUsers = 1 << 16

// users knows who has made a request of late. It keeps hashes, no names.
type users struct {
	now  func() time.Time
	seed maphash.Seed

	mu    sync.Mutex // guards what follows
	last  map[uint64]time.Time
	swept time.Time
}

func newUsers(r *metrics.Registry, now func() time.Time) *users {
	u := &users{now: now, seed: maphash.MakeSeed(), last: map[uint64]time.Time{}}
	for _, w := range windows {
		r.Gauge("pimoe_active_users", func() float64 { return float64(u.active(w.long)) }, "window", w.label)
	}
	return u
}

// saw notes a request of a principal; nobody known is no user.
func (u *users) saw(p access.Principal) {
	if p.ID == "" {
		return
	}
	id, now := maphash.String(u.seed, p.ID), u.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, known := u.last[id]; !known && len(u.last) >= mostUsers && !u.sweep(now) {
		return
	}
	u.last[id] = now
}

// sweep forgets those who have been away for longer than any window, once a minute at most, and reports whether there is room.
func (u *users) sweep(now time.Time) bool {
	if now.Sub(u.swept) < time.Minute {
		return false
	}
	u.swept = now
	longest := windows[len(windows)-1].long
	for id, at := range u.last {
		if now.Sub(at) > longest {
			delete(u.last, id)
		}
	}
	return len(u.last) < mostUsers
}

// active is how many principals have made a request within the last time.
func (u *users) active(within time.Duration) (n int) {
	now := u.now()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, at := range u.last {
		if now.Sub(at) <= within {
			n++
		}
	}
	return n
}
