package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/access"
)

// value is a series of /metrics as an operator on this machine sees it; "" = it is not there.
func (r *running) value(t *testing.T, series string) string {
	t.Helper()
	for line := range strings.Lines(string(do(t, http.MethodGet, "http://"+r.AdminAddr()+"/metrics", "").body)) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// TestRefusalsAreCounted: by reason and by limit, from 0 on.
func TestRefusalsAreCounted(t *testing.T) {
	cfg := testConfig("")
	cfg.APIKey = "sk-test-0123456789"
	cfg.Limits.Rates = []config.Rate{{Per: "principal", Requests: 1}}
	own := serviceOf(openShared(t))
	own.engine, own.metrics = undrained{own.engine}, metrics.New() // a registry has one server
	r := serveConfig(t, &own, cfg, nil)
	expect := func(series, want string) {
		t.Helper()
		if got := r.value(t, series); got != want {
			t.Errorf("%s is %q, want %s", series, got, want)
		}
	}
	for _, l := range []string{"requests", "tokens", "concurrent"} {
		expect(fmt.Sprintf(`pimoe_rate_limited_total{limit=%q}`, l), "0")
	}
	expect(`pimoe_auth_failures_total{reason="missing_api_key"}`, "0")
	r.get("/v1/models")
	r.get("/nothing")
	r.get("/v1/models", "Authorization", "Bearer wrong")
	for range 3 {
		r.post("/v1/completions", story+"}", "Authorization", "Bearer "+cfg.APIKey)
	}
	r.get("/admin/experts", "Authorization", "Bearer "+cfg.APIKey) // which this listener has not
	expect(`pimoe_auth_failures_total{reason="missing_api_key"}`, "2")
	expect(`pimoe_auth_failures_total{reason="invalid_api_key"}`, "1")
	expect(`pimoe_rate_limited_total{limit="requests"}`, "2")
	expect(`pimoe_rate_limited_total{limit="tokens"}`, "0")
}

// TestFeaturesAreCounted: once a request, kept answers too, and not those that were refused.
func TestFeaturesAreCounted(t *testing.T) {
	own := serviceOf(openShared(t))
	own.engine, own.metrics = undrained{own.engine}, metrics.New() // a registry has one server
	cfg := testConfig("")
	cfg.Cache.Answers = "on"
	r := serveConfig(t, &own, cfg, nil)
	plain := story + `,"temperature":0}`
	r.ok("/v1/completions", plain)
	r.ok("/v1/completions", plain) // it is kept
	r.ok("/v1/completions", story+`,"n":2,"stop":["x"],"logprobs":1,"seed":3}`)
	r.post("/v1/completions", story+`,"n":2,"stream":7}`)
	r.post("/v1/completions", story+`,"stream":true}`)
	for feature, want := range map[string]string{"completions": "4", "choices": "1", "stop": "1", "logprobs": "1", "seed": "1", "stream": "1", "tools": ""} {
		if got := r.value(t, fmt.Sprintf(`pimoe_features_used_total{feature=%q}`, feature)); got != want {
			t.Errorf("%s: %q, want %s", feature, got, want)
		}
	}
}

// TestUsers: each principal counts once in a window that its last request is in, and memory is bounded.
func TestUsers(t *testing.T) {
	now := time.Unix(1e9, 0)
	u := newUsers(metrics.New(), func() time.Time { return now })
	counts := func() []int {
		var n []int
		for _, w := range windows {
			n = append(n, u.active(w.long))
		}
		return n
	}
	expect := func(want ...int) {
		t.Helper()
		if got := counts(); !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	for range 3 {
		u.saw(access.Principal{ID: "a"})
		u.saw(access.Principal{})
	}
	expect(1, 1, 1)
	now = now.Add(30 * time.Minute)
	u.saw(access.Principal{ID: "b"})
	expect(1, 2, 2)
	now = now.Add(23*time.Hour + 45*time.Minute)
	expect(0, 0, 1)
	for i := range mostUsers + 10 {
		u.saw(access.Principal{ID: fmt.Sprint("c", i)})
	}
	if len(u.last) > mostUsers {
		t.Errorf("%d are remembered", len(u.last))
	}
	expect(mostUsers-1, mostUsers-1, mostUsers) // b is still there, a was forgotten
	now = now.Add(25 * time.Hour)
	u.saw(access.Principal{ID: "d"})
	expect(1, 1, 1)
	if len(u.last) != 1 {
		t.Errorf("%d are remembered after a day", len(u.last))
	}
}

// BenchmarkScrape is what a scrape of a server with some traffic behind it costs the server.
func BenchmarkScrape(b *testing.B) {
	own := serviceOf(openShared(b))
	own.engine, own.metrics = undrained{own.engine}, metrics.New()
	r := serve(b, &own, nil)
	for i := range 64 {
		r.tenants.count(fmt.Sprint("t", i), 1, 1)
	}
	req := &request{principal: access.Principal{ID: "x", Role: access.Operator}}
	for b.Loop() {
		if _, err := r.metrics(b.Context(), req); err != nil {
			b.Fatal(err)
		}
	}
}
