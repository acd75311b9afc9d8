package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/instance"
)

// The key guards every route of the public listener but health, login and handshakes; the table of routes is the list.
func TestEveryRouteAsksForTheKey(t *testing.T) {
	cfg := testConfig("")
	cfg.APIKey = "sk-test-0123456789"
	r := serveConfig(t, nil, cfg, nil)
	open := map[string]bool{"/health": true, "/v2/health/live": true, "/v2/health/ready": true, "/livez": true, "/readyz": true, "/startupz": true, "/auth/login": true, "/auth/callback": true, consolePath: true, assetPath: true,
		socketPath: true} // no handshake gets no connection; see TestHandshakes
	routes := append(r.publicRoutes(), route{method: "GET", path: "/v1/nothing"}, route{method: "GET", path: "/nothing"}, route{method: "PUT", path: "/v1/models"})
	for _, rt := range routes {
		path := strings.Replace(rt.path, ":model", "pimoe-tiny", 1)
		for _, auth := range []string{"", "Bearer", "Bearer wrong", "Basic sk-test-0123456789", "Bearer sk-test-012345678", "sk-test-0123456789", "Bearer sk-test-01234567890"} {
			a := do(t, rt.method, r.url+path, "{}", "Authorization", auth)
			if (a.status != http.StatusUnauthorized) != open[rt.path] {
				t.Errorf("%s %s with %q: %d", rt.method, rt.path, auth, a.status)
			}
			if open[rt.path] {
				continue
			}
			if !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer") || !strings.Contains(string(a.body), "_api_key") {
				t.Errorf("%s %s: %v %s", rt.method, rt.path, a.header, a.body)
			}
			if isV1 := strings.HasPrefix(rt.path, "/v1"); isV1 != strings.Contains(string(a.body), `"error":{`) {
				t.Errorf("%s: the shape of another API: %s", rt.path, a.body)
			}
		}
		if a := do(t, rt.method, r.url+path, "{}", "Authorization", "bearer sk-test-0123456789"); a.status == http.StatusUnauthorized {
			t.Errorf("%s %s with the key: %d", rt.method, rt.path, a.status)
		}
	}
	stats := r.get("/api/v1/stats", "Authorization", "Bearer "+cfg.APIKey)
	for what, text := range map[string]string{"log": r.log.String(), "stats": string(stats.body), "metrics": string(r.get("/metrics", "Authorization", "Bearer "+cfg.APIKey).body)} {
		if strings.Contains(text, cfg.APIKey) {
			t.Errorf("the key is in the %s", what)
		}
	}
	if key := at(t, stats.json(t), "production_config", "api_key"); key != "***" {
		t.Errorf("api_key in stats: %v", key)
	}
}

func TestHealthFollowsTheInstance(t *testing.T) {
	svc := fakeService(&fakeEngine{})
	var down error = &host.UnavailableError{What: "expert group e3", Cause: "its process exited with code 2"}
	svc.ready = func() error { return down }
	r := serve(t, svc, nil)
	expect := func(status int, word string) {
		t.Helper()
		a := r.get("/health")
		if a.status != status || a.json(t)["status"] != word {
			t.Errorf("/health: %d %s", a.status, a.body)
		}
		if a := r.get("/readyz"); a.status != status {
			t.Errorf("/readyz: %d %s", a.status, a.body)
		}
	}
	expect(503, "unhealthy")
	if a := r.get("/startupz"); a.status != 503 {
		t.Errorf("/startupz before: %d", a.status)
	}
	if a := r.get("/readyz?verbose"); string(a.body) != "[+]accepting ok\n[-]experts failed: expert group e3 is unavailable: its process exited with code 2\nnot ready\n" {
		t.Errorf("verbose: %s", a.body)
	}
	down = nil
	expect(200, "healthy")
	if a := r.get("/startupz"); a.status != 200 {
		t.Errorf("/startupz after: %d", a.status)
	}
	down = errors.Join(sdk.ErrUnavailable, errors.New("/secret/path"))
	expect(503, "unhealthy")
	if a := r.get("/startupz"); a.status != 200 {
		t.Errorf("/startupz later: %d", a.status)
	}
	if a := r.get("/readyz?verbose"); strings.Contains(string(a.body), "secret") {
		t.Errorf("verbose tells of the inside: %s", a.body)
	}
	if a := r.get("/livez"); a.status != 200 || string(a.body) != "ok\n" {
		t.Errorf("/livez: %d %q", a.status, a.body)
	}
}

func TestHealthHasTheDocumentedFields(t *testing.T) {
	r := serve(t, nil, nil, Version("v1.2.3"))
	v := r.get("/health").json(t)
	for _, name := range []string{"status", "timestamp", "uptime", "version", "system_info"} {
		if v[name] == nil {
			t.Errorf("/health lacks %s", name)
		}
	}
	if v["version"] != "v1.2.3" {
		t.Errorf("version %v", v["version"])
	}
}

func TestMetrics(t *testing.T) {
	own := serviceOf(openShared(t))
	own.engine, own.metrics = undrained{own.engine}, metrics.New() // a registry has one server
	r := serve(t, &own, nil, Version("v1.2.3"))
	r.ok("/v1/completions", story+"}")
	r.get("/nothing/with/a/made/up/name")
	r.post("/v1/completions", "{}")
	for _, url := range []string{r.url, "http://" + r.AdminAddr()} {
		a := do(t, http.MethodGet, url+"/metrics", "")
		for _, want := range []string{
			`pimoe_http_requests_total{route="POST /v1/completions",code="200"}`, `pimoe_http_requests_total{route="POST /v1/completions",code="400"}`,
			`pimoe_http_requests_total{route="unmatched",code="404"}`, `pimoe_http_request_seconds_bucket{route="POST /v1/completions",le="`,
			`pimoe_http_requests_in_flight 1`, `pimoe_build_info{version="v1.2.3"`, `process_resident_memory_bytes`,
		} {
			if !strings.Contains(string(a.body), want) {
				t.Errorf("%s/metrics lacks %s", url, want)
			}
		}
		if strings.Contains(string(a.body), "made/up") {
			t.Error("a path from outside became a label")
		}
	}
}

func TestStatsTree(t *testing.T) {
	r := serve(t, nil, nil)
	v := r.get("/api/v1/stats").json(t)
	for _, path := range [][]any{
		{"system", "uptime"}, {"system", "model", "digest"}, {"monitoring", "health", "ready"}, {"monitoring", "completion_tokens"}, {"queue", "running"},
		{"queue", "max_running"}, {"experts", "processes"}, {"experts", "router", "name"}, {"production_config", "limits", "max_batch_size"}, {"production_config", "mode"},
	} {
		if at(t, v, path...) == nil {
			t.Errorf("stats lack %v", path)
		}
	}
	if key, has := at(t, v, "production_config").(map[string]any)["api_key"]; !has || key != nil {
		t.Errorf("api_key without a key: %v", key)
	}
}

func TestAdminListener(t *testing.T) {
	r := serve(t, nil, nil)
	admin := "http://" + r.AdminAddr()
	a := do(t, http.MethodGet, admin+"/admin/experts", "")
	if list, ok := a.json(t)["experts"].([]any); a.status != 200 || !ok {
		t.Errorf("/admin/experts: %d %s", a.status, a.body)
	} else {
		for _, e := range list {
			for _, name := range []string{"group", "replica", "pid", "state", "units", "backend", "numeric_class", "calls", "rows", "errors", "restarts", "private_bytes", "last_death"} {
				if _, has := e.(map[string]any)[name]; !has {
					t.Errorf("entry %v lacks %s", e, name)
				}
			}
		}
	}
	for path, want := range map[string]int{"/health": 200, "/livez": 200, "/readyz": 200, "/startupz": 200, "/metrics": 200, "/v1/models": 200, "/console": 200, "/v1/completions": 404, "/debug/pprof/": 404} { // the console chats there, too
		if a := do(t, http.MethodGet, admin+path, ""); a.status != want {
			t.Errorf("admin %s: %d, want %d", path, a.status, want)
		}
	}
	if a := do(t, http.MethodPost, admin+"/admin/experts", "{}"); a.status != 405 {
		t.Errorf("POST /admin/experts: %d", a.status)
	}
	for body, want := range map[string]int{`{}`: 200, `{"replica":0}`: 200, `{"replica":7}`: 404, `{"replica":-1}`: 422, `{"replicas":1}`: 422, `{`: 400} {
		if a := do(t, http.MethodPost, admin+"/admin/experts/e1/release", body); a.status != want || want == 200 && string(a.body) != `{"released":0}` {
			t.Errorf("release with %s: %d %s, want %d", body, a.status, a.body, want)
		}
	}
	if a := do(t, http.MethodPost, admin+"/admin/experts/none/release", "{}"); a.status != 404 {
		t.Errorf("release of no group: %d %s", a.status, a.body)
	}
	if a := do(t, http.MethodPost, admin+"/admin/experts/e1/release", "{}", "Content-Type", "text/plain"); a.status != 415 {
		t.Errorf("release as a web page could ask for it: %d %s", a.status, a.body)
	}
	if a := r.get("/admin/experts"); a.status != 404 {
		t.Errorf("admin route on the public listener: %d", a.status)
	}
	for _, forwarded := range []string{"", "localhost", "127.0.0.1:8081", "localhost, rebound.example"} { // a page can send what it likes, but not another Host
		req, err := http.NewRequest(http.MethodGet, admin+"/admin/experts", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "rebound.example:8081"
		req.Header.Set("X-Forwarded-Host", forwarded)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("admin with a foreign Host, X-Forwarded-Host %q: %d", forwarded, resp.StatusCode)
		}
	}
	profiled := serve(t, nil, nil, Pprof())
	if a := do(t, http.MethodGet, "http://"+profiled.AdminAddr()+"/debug/pprof/cmdline", ""); a.status != 200 {
		t.Errorf("profiles under the option: %d", a.status)
	}
	if a := profiled.get("/debug/pprof/"); a.status != 404 {
		t.Errorf("profiles on the public listener: %d", a.status)
	}
}

// After a reload the stats and the bound on choices are those of the new configuration.
func TestLimitsFollowAReload(t *testing.T) {
	cfg := testConfig("")
	next := cfg
	next.Limits.MaxConcurrentRequests, next.Limits.MaxQueuedRequests = 1, 1
	svc := fakeService(&fakeEngine{script: counted(1)})
	svc.reload = func(context.Context, config.Config) (*instance.Reloaded, error) { return &instance.Reloaded{}, nil }
	r := serveConfig(t, svc, cfg, nil, Reloadable(func() (config.Config, error) { return next, nil }))
	const three = `{"model":"fake","prompt":"abc","max_tokens":1,"n":3}`
	r.ok("/v1/completions", three)
	r.Reload(t.Context())
	v := r.get("/api/v1/stats").json(t)
	if at(t, v, "queue", "max_running") != 1.0 || at(t, v, "queue", "max_queued") != 1.0 || at(t, v, "production_config", "limits", "max_queued_requests") != 1.0 {
		t.Errorf("stats after the reload: %v, %v", at(t, v, "queue"), at(t, v, "production_config", "limits"))
	}
	if a := r.post("/v1/completions", three); a.status != 400 || !strings.Contains(string(a.body), "at most 2 choices") {
		t.Errorf("three choices where two have room: %d %s", a.status, a.body)
	}
}
