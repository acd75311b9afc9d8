package server

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/bundle"
	"github.com/pimoe/pimoe/server/openmetrics"
	"github.com/pimoe/pimoe/server/tracing/collector"
)

// followedServer follows every request of the shared instance.
func followedServer(t *testing.T, c *collector.Collector, change func(*config.Config), opts ...Option) *running {
	t.Helper()
	own := serviceOf(openShared(t))
	own.engine, own.metrics = undrained{own.engine}, metrics.New() // a registry has one server
	cfg := testConfig(t.TempDir())
	cfg.Tracing.Endpoint, cfg.Tracing.SampleRatio, cfg.Tracing.StepEvery = c.HTTP, 1, 1
	if change != nil {
		change(&cfg)
	}
	return serveConfig(t, &own, cfg, nil, opts...)
}

func named(list []collector.Span, name string) (out []collector.Span) {
	for _, s := range list {
		if s.Name == name {
			out = append(out, s)
		}
	}
	return out
}

// Whatever way a request takes through the edge, its span ends once, with the route's name and the status, and the log has its trace.
func TestRequestsAreFollowed(t *testing.T) {
	c := collector.Start(t)
	r := followedServer(t, c, nil)
	statuses := map[string]int{}
	for _, ask := range []struct{ path, body string }{
		{"/v1/completions", story + "}"}, {"/v1/completions", story + `,"stream":true}`}, {"/v1/completions", story + `,"n":2}`},
		{"/v1/completions", `{"prompt":`}, {"/v1/chat/completions", `{"model":"pimoe-tiny","messages":[{"role":"user","content":"Hi"}],"max_tokens":2}`},
		{embeddingsPath, `{"model":"pimoe-tiny","input":"Once"}`},
		{processPath, `{"input_tensor":` + nested(hiddenStates(2, openShared(t).Model.Hidden), 1) + `}`},
	} {
		a := r.post(ask.path, ask.body)
		if a.status != http.StatusOK && !strings.HasSuffix(ask.body, ":") {
			t.Fatalf("%s: %d %s", ask.path, a.status, a.body)
		}
		parent := a.header.Get("Traceparent")
		if !regexp.MustCompile(`^00-[0-9a-f]{32}-[0-9a-f]{16}-01$`).MatchString(parent) {
			t.Errorf("%s: traceparent %q", ask.path, parent)
			continue
		}
		statuses[parent[3:35]] = a.status
	}
	for _, path := range []string{"/health", "/metrics", "/nothing"} {
		if p := r.get(path).header.Get("Traceparent"); !strings.HasSuffix(p, "-00") {
			t.Errorf("%s is followed: %q", path, p)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	all := c.Spans()
	roots := map[string]int{}
	for _, s := range all {
		if s.Kind == "server" && s.Parent == "" {
			roots[s.Trace]++
			if want := fmt.Sprint(statuses[s.Trace]); s.Attributes["http.response.status_code"] != want || !strings.HasSuffix(s.Name, s.Attributes["http.route"]) || s.Attributes["pimoe.request_id"] == "" {
				t.Errorf("%s with %v, want status %s", s.Name, s.Attributes, want)
			}
		}
	}
	for trace := range statuses {
		if roots[trace] != 1 || !strings.Contains(r.log.String(), `"trace":"`+trace+`"`) {
			t.Errorf("trace %s has %d requests, or is not in the log", trace, roots[trace])
		}
	}
	// Three of one choice, one of two, one embedding; the broken body has none.
	if n := len(named(all, "generate")); n != 6 {
		t.Errorf("%d generations", n)
	}
	for _, name := range []string{"queue", "prefill"} {
		if n := len(named(all, name)); n != 6 {
			t.Errorf("%d times %s", n, name)
		}
	}
	below := map[string]bool{}
	for _, s := range named(all, "POST "+processPath) {
		below[s.ID] = true
	}
	if n := len(named(all, "step")); n < 6 || len(named(all, "layer")) < n || len(named(all, "expert.call")) < n {
		t.Errorf("%d steps, %d layers, %d calls", n, len(named(all, "layer")), len(named(all, "expert.call")))
	}
	steps := 0
	for _, s := range named(all, "step") {
		if below[s.Parent] {
			steps++
		}
	}
	if steps != 1 {
		t.Errorf("%d steps of a client's own states", steps)
	}
}

// Without a collector nobody gets a traceparent but those who send one.
func TestNobodyIsFollowed(t *testing.T) {
	r := serve(t, nil, nil)
	if p := r.get("/health").header.Get("Traceparent"); p != "" {
		t.Errorf("traceparent %q", p)
	}
	const sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	if p := r.get("/health", "Traceparent", sent).header.Get("Traceparent"); !strings.HasPrefix(p, sent[:36]) || !strings.HasSuffix(p, "-00") {
		t.Errorf("traceparent %q", p)
	}
	if !strings.Contains(r.log.String(), `"trace":"0af7651916cd43dd8448eb211c80319c"`) {
		t.Error("the log does not name the client's trace")
	}
}

// A real Prometheus takes the exemplars, and finds with them the trace of a request that has been followed.
func TestExemplars(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.Tracing.Endpoint, cfg.Tracing.SampleRatio = collector.Start(t).HTTP, 1
	r := serveConfig(t, nil, cfg, nil) // with the registry that the engine counts in
	trace := r.post("/v1/completions", story+"}").header.Get("Traceparent")[3:35]
	plain := r.get("/metrics")
	if strings.Contains(string(plain.body), "trace_id") || !strings.HasPrefix(plain.header.Get("Content-Type"), "text/plain; version=0.0.4") {
		t.Errorf("exemplars in Prometheus' own text: %s", plain.header.Get("Content-Type"))
	}
	open := r.get("/metrics", "Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
	if open.header.Get("Content-Type") != openmetrics.ContentType || !strings.HasSuffix(string(open.body), "# EOF\n") {
		t.Errorf("%s ... %s", open.header.Get("Content-Type"), open.body[max(0, len(open.body)-200):])
	}
	program, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("needs prometheus")
	}
	found := scrape(t, program, r.Addr())
	for _, series := range []string{"pimoe_http_request_seconds_bucket", "pimoe_time_to_first_token_seconds_bucket", "pimoe_queue_seconds_bucket", "pimoe_inter_token_seconds_bucket"} {
		if !strings.Contains(found(series), trace) {
			t.Errorf("Prometheus has no exemplar of %s in %s", trace, series)
		}
	}
}

// scrape has a Prometheus scrape the server until it has done so once, and asks it for exemplars.
func scrape(t *testing.T, program, target string) func(series string) string {
	t.Helper()
	dir := t.TempDir()
	cfg := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(cfg, []byte(fmt.Sprintf("scrape_configs:\n  - job_name: pimoe\n    scrape_interval: 1s\n    scrape_timeout: 1s\n    static_configs: [{targets: [%q]}]\n", target)), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	var said logBuffer
	cmd := exec.Command(program, "--config.file="+cfg, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+addr, "--enable-feature=exemplar-storage", "--log.level=warn")
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	ask := func(path string) string {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return ""
		}
		defer resp.Body.Close()
		var v struct{ Data json.RawMessage }
		if json.NewDecoder(resp.Body).Decode(&v) != nil {
			return ""
		}
		return string(v.Data)
	}
	exemplars := func(series string) string {
		return ask(fmt.Sprintf("/api/v1/query_exemplars?query=%s&start=%d&end=%d", url.QueryEscape(series), time.Now().Add(-time.Hour).Unix(), time.Now().Add(time.Minute).Unix()))
	}
	for until := time.Now().Add(30 * time.Second); !strings.Contains(exemplars("pimoe_http_request_seconds_bucket"), "trace_id"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("no exemplars; targets %s; log %s", ask("/api/v1/targets"), said.String())
		}
	}
	return exemplars
}

// The continuous profile is kept in files that the admin API lists and gives, and so does the bundle what a report needs.
func TestProfilesAndBundle(t *testing.T) {
	c := collector.Start(t)
	r := followedServer(t, c, func(cfg *config.Config) {
		cfg.Profiling = config.Profiling{Every: 200 * time.Millisecond, For: 100 * time.Millisecond, Keep: 2, Pprof: true}
	}, RecentLog(func() []byte { return []byte("a line of the log\n") }))
	admin := "http://" + r.AdminAddr()
	var list struct{ Profiles []struct{ Name string } }
	eventually(t, 20*time.Second, "two profiles", func() bool {
		a := do(t, http.MethodGet, admin+keptPath, "")
		return json.Unmarshal(a.body, &list) == nil && len(list.Profiles) == 2
	})
	eventually(t, 20*time.Second, "a profile of Go's form", func() bool { // one of the list may have been replaced meanwhile
		if json.Unmarshal(do(t, http.MethodGet, admin+keptPath, "").body, &list) != nil || len(list.Profiles) == 0 {
			return false
		}
		a := do(t, http.MethodGet, admin+keptPath+"/"+list.Profiles[0].Name, "")
		return a.status == http.StatusOK && len(a.body) > 2 && a.body[0] == 0x1f && a.body[1] == 0x8b // gzip
	})
	for _, name := range []string{"cpu-20000101T000000.000Z.pprof", "cpu-20000101T000000.000Z.pprof.part", "x"} {
		if a := do(t, http.MethodGet, admin+keptPath+"/"+name, ""); a.status != http.StatusNotFound {
			t.Errorf("profile %s: %d", name, a.status)
		}
	}
	if a := do(t, http.MethodGet, admin+"/debug/pprof/goroutine?debug=1", ""); a.status != http.StatusOK || !strings.Contains(string(a.body), "goroutine profile") {
		t.Errorf("pprof by its key: %d", a.status)
	}
	if a := do(t, http.MethodGet, admin+"/debug/pprof/trace?seconds=1", ""); a.status != http.StatusOK || !strings.HasPrefix(string(a.body), "go 1.") {
		t.Errorf("an execution trace: %d %.40q", a.status, a.body)
	}
	a := do(t, http.MethodGet, admin+bundlePath, "")
	files, err := bundle.Read(a.body)
	if a.status != http.StatusOK || err != nil {
		t.Fatalf("%d %v", a.status, err)
	}
	names := map[string]string{}
	for _, f := range files {
		names[f.Name] = string(f.Data)
	}
	if len(names) != 9 || names["log.txt"] != "a line of the log\n" || !strings.Contains(names["metrics.txt"], "pimoe_trace_requests_total") {
		t.Errorf("%d files, log %q", len(names), names["log.txt"])
	}
	for _, path := range []string{keptPath, bundlePath, keptPath + "/x"} {
		if a := r.get(path); a.status != http.StatusNotFound {
			t.Errorf("%s on the public listener: %d", path, a.status)
		}
	}
}
