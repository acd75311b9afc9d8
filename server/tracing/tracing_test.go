package tracing_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/server/tracing"
	"github.com/pimoe/pimoe/server/tracing/collector"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// all follows every request of a collector.
func all(endpoint string) config.Tracing {
	c := config.Default().Tracing
	c.Endpoint, c.SampleRatio, c.StepEvery, c.MaxPerSecond = endpoint, 1, 1, 1000
	return c
}

func start(t testing.TB, cfg config.Tracing, log *slog.Logger) (*tracing.Tracer, *metrics.Registry) {
	t.Helper()
	m := metrics.New()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	tr, err := tracing.New(cfg, tracing.Options{Version: "v1", Model: "m", Metrics: m, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, tr) })
	return tr, m
}

var closing sync.Map // tracers that were closed

func end(t testing.TB, tr *tracing.Tracer) {
	t.Helper()
	if _, twice := closing.LoadOrStore(tr, true); twice {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := tr.Close(ctx); err != nil {
		t.Logf("close: %v", err)
	}
}

// one follows a request with a step, a layer and a call, as the engine would.
func one(tr *tracing.Tracer, p tracing.Parent) {
	r := tr.Begin(p, "POST /v1/completions", true, time.Now())
	var q engine.Request
	g := r.Follow(&q)
	if q.Trace != nil {
		if s := q.Trace.Step(spans.Part{Tokens: 3, Prompt: true, Sequences: 1, Rows: 3}, nil); s != nil {
			l := s.Layer(2, 3)
			c := l.Call(spans.Call{Group: "e0", PID: 7, Version: "v9", Attempt: 1, Rows: 3, Units: 1})
			c.End(spans.Outcome{Began: time.Now(), Took: time.Microsecond})
			l.End(nil)
			s.End(nil)
		}
	}
	g.Done(engine.Usage{PromptTokens: 3, CompletionTokens: 2, Queued: time.Microsecond, FirstToken: 2 * time.Microsecond}, nil)
	r.End(tracing.End{ID: "r1", Method: "POST", Route: "/v1/completions", Tenant: "a", Status: 200, Took: time.Millisecond})
}

// tree is the names on the way to each span.
func tree(list []collector.Span) map[string]collector.Span {
	by := map[string]collector.Span{}
	for _, s := range list {
		by[s.ID] = s
	}
	out := map[string]collector.Span{}
	for _, s := range list {
		path := s.Name
		for p, ok := by[s.Parent]; ok; p, ok = by[p.Parent] {
			path = p.Name + " > " + path
		}
		out[path] = s
	}
	return out
}

// Both protocols bring the whole tree, under the client's trace, with the configured headers.
func TestExport(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, grpc := range []bool{false, true} {
		c := collector.Start(t)
		cfg := all(c.HTTP)
		if grpc {
			cfg.Endpoint = c.GRPC
		}
		cfg.Headers, cfg.SampleRatio = "authorization=Bearer canary,x-scope=a b", 0 // the client's flag decides
		cfg.Headers = strings.ReplaceAll(cfg.Headers, " ", "-")
		tr, _ := start(t, cfg, nil)
		one(tr, tracing.ParseParent(parent, "vendor=x"))
		end(t, tr)
		got := tree(c.Spans())
		for _, want := range []string{
			"POST /v1/completions", "POST /v1/completions > generate", "POST /v1/completions > generate > queue",
			"POST /v1/completions > generate > prefill", "POST /v1/completions > generate > decode", "POST /v1/completions > generate > step",
			"POST /v1/completions > generate > step > layer", "POST /v1/completions > generate > step > layer > expert.call",
			"POST /v1/completions > generate > step > layer > expert.call > expert.compute",
		} {
			s, ok := got[want]
			if !ok || s.Trace != "0af7651916cd43dd8448eb211c80319c" || s.End.Before(s.Begin) {
				t.Errorf("grpc %v: %s: %+v", grpc, want, s)
			}
		}
		if root := got["POST /v1/completions"]; root.Parent != "b7ad6b7169203331" || root.State != "vendor=x" || root.Kind != "server" || root.Attributes["http.route"] != "/v1/completions" {
			t.Errorf("grpc %v: %+v", grpc, root)
		}
		if a := got["POST /v1/completions > generate > step > layer > expert.call"].Attributes; a["pimoe.group"] != "e0" || a["pimoe.plugin.version"] != "v9" || a["pimoe.process"] != "7" {
			t.Errorf("grpc %v: attributes of a call: %v", grpc, a)
		}
		if service, value, _ := c.Last("authorization"); service != "pimoe" || value != "Bearer-canary" {
			t.Errorf("grpc %v: service %q with the key %q", grpc, service, value)
		}
	}
}

// A collector that is dead costs nothing but the spans: no request waits, what is lost is counted, and the end is in time.
func TestDeadCollector(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections and never answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var log bytes.Buffer
	tr, m := start(t, func() config.Tracing { c := all("http://" + ln.Addr().String()); c.MaxPerSecond = 100_000; return c }(), slog.New(slog.NewTextHandler(&syncWriter{w: &log}, nil)))
	began := time.Now()
	const requests = 3000 // of nine spans, so that the queue is full
	for range requests {
		one(tr, tracing.Parent{})
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("%d followed requests took %v with a dead collector", requests, took)
	}
	if n := m.Counter("pimoe_trace_spans_dropped_total", "reason", "queue_full").Get(); n < requests {
		t.Errorf("%d spans were dropped", n)
	}
	began = time.Now()
	end(t, tr)
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	ended := m.Counter("pimoe_trace_spans_dropped_total", "reason", "export_failed").Get()
	if ended == 0 {
		t.Error("no export failed")
	}
}

// A collector that comes back gets spans again.
func TestCollectorComesBack(t *testing.T) {
	t.Parallel()
	c := collector.Start(t)
	c.Break(true)
	var log bytes.Buffer
	w := &syncWriter{w: &log}
	tr, m := start(t, all(c.HTTP), slog.New(slog.NewTextHandler(w, nil)))
	one(tr, tracing.Parent{})
	for until := time.Now().Add(20 * time.Second); m.Counter("pimoe_trace_spans_dropped_total", "reason", "export_failed").Get() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("no export failed")
		}
	}
	c.Break(false)
	one(tr, tracing.Parent{})
	c.Await(t, "request after the failure", func(s []collector.Span) bool { return len(s) >= 9 })
	end(t, tr)
	if !strings.Contains(w.String(), "does not take spans") || !strings.Contains(w.String(), "takes spans again") {
		t.Errorf("log: %s", w)
	}
}

type syncWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

func (s *syncWriter) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.String()
}

// What a client sends is taken in exactly the form of the standard, or not at all.
func TestParents(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for text, want := range map[string]bool{
		"00-" + trace + "-" + span + "-01":                              true,
		"00-" + trace + "-" + span + "-00":                              true,
		"00-" + trace + "-" + span + "-ff":                              true, // later flags are not ours
		"01-" + trace + "-" + span + "-01":                              true, // a later version, read as this one
		"01-" + trace + "-" + span + "-01-more":                         true,
		"":                                                              false,
		"00-" + trace + "-" + span + "-01-more":                         false,
		"ff-" + trace + "-" + span + "-01":                              false,
		"00-" + strings.ToUpper(trace) + "-" + span + "-01":             false,
		"00-" + strings.Repeat("0", 32) + "-" + span + "-01":            false,
		"00-" + trace + "-" + strings.Repeat("0", 16) + "-01":           false,
		"00-" + trace + "-" + span + "-1":                               false,
		"00-" + trace + "-" + span + "-0g":                              false,
		"00_" + trace + "-" + span + "-01":                              false,
		"00-" + trace[:31] + "g-" + span + "-01":                        false,
		" 00-" + trace + "-" + span + "-01":                             false,
		"01-" + trace + "-" + span + "-01-" + strings.Repeat("x", 5000): false,
	} {
		p := tracing.ParseParent(text, "")
		if p.IsValid() != want {
			t.Errorf("%q: %v, want %v", text, p.IsValid(), want)
		}
		if want && (p.TraceID().String() != trace || p.SpanID().String() != span) {
			t.Errorf("%q: %v %v", text, p.TraceID(), p.SpanID())
		}
	}
	good := "00-" + trace + "-" + span + "-01"
	for state, want := range map[string]string{
		"a=1,b=2": "a=1,b=2", "": "", "no pair": "", "a=1,a=2": "", "a=" + strings.Repeat("x", 600): "",
	} {
		if got := tracing.ParseParent(good, state).TraceState().String(); got != want {
			t.Errorf("tracestate %.20q gives %q", state, got)
		}
	}
}

// Who is followed: a share, those that ask for it as far as they are believed, and never more in a second than allowed.
func TestWhoIsFollowed(t *testing.T) {
	c := collector.Start(t)
	now := time.Unix(1_700_000_000, 0)
	cfg := all(c.HTTP)
	m := metrics.New()
	tr, err := tracing.New(cfg, tracing.Options{Metrics: m, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer end(t, tr)
	asked := tracing.ParseParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
	unasked := tracing.ParseParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "")
	count := func(p tracing.Parent, work bool, n int) (followed int) {
		now = now.Add(time.Second)
		for range n {
			r := tr.Begin(p, "GET /x", work, now)
			if r.Followed() {
				followed++
			}
			if p.IsValid() && r.TraceID() != p.TraceID().String() || !strings.HasSuffix(r.Traceparent(), map[bool]string{true: "-01", false: "-00"}[r.Followed()]) {
				t.Errorf("%s for %v", r.Traceparent(), p)
			}
			r.End(tracing.End{Status: 200})
		}
		return followed
	}
	for _, step := range []struct {
		ratio   float64
		clients string
		most    int
		p       tracing.Parent
		work    bool
		n       int
		low, up int
	}{
		{1, "follow", 1000, tracing.Parent{}, true, 100, 100, 100},
		{1, "follow", 1000, tracing.Parent{}, false, 100, 0, 0}, // health checks
		{1, "follow", 7, tracing.Parent{}, true, 100, 7, 7},
		{0, "follow", 1000, tracing.Parent{}, true, 100, 0, 0},
		{0, "follow", 1000, unasked, true, 100, 0, 0},
		{0, "follow", 1000, asked, true, 100, 100, 100},
		{0, "follow", 1000, asked, false, 100, 100, 100},
		{0, "follow", 3, asked, true, 100, 3, 3},
		{0, "ignore", 1000, asked, true, 100, 0, 0},
		{0.5, "ignore", 1000, asked, true, 1000, 350, 650},
	} {
		cfg.SampleRatio, cfg.Clients, cfg.MaxPerSecond = step.ratio, step.clients, step.most
		tr.Apply(cfg)
		if got := count(step.p, step.work, step.n); got < step.low || got > step.up {
			t.Errorf("%+v: %d were followed", step, got)
		}
	}
	if m.Counter("pimoe_trace_requests_total", "outcome", "over_limit").Get() != 93+97 {
		t.Error("those beyond the limit are not counted")
	}
}

// Without a collector a client's ids are still taken, and nothing else costs anything.
func TestOff(t *testing.T) {
	tr, _ := start(t, config.Default().Tracing, nil)
	if r := tr.Begin(tracing.Parent{}, "GET /x", true, time.Now()); r.Traceparent() != "" || r.TraceID() != "" || r.Followed() {
		t.Errorf("%v", r)
	}
	r := tr.Begin(tracing.ParseParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", ""), "GET /x", true, time.Now())
	if p := r.Traceparent(); !strings.HasPrefix(p, "00-0af7651916cd43dd8448eb211c80319c-") || !strings.HasSuffix(p, "-00") || strings.Contains(p, "b7ad6b7169203331") {
		t.Errorf("traceparent %s", p)
	}
	if n := testing.AllocsPerRun(100, func() { one(tr, tracing.Parent{}) }); n != 0 {
		t.Errorf("%v allocations for a request that nobody follows", n)
	}
}

// A step with parts of several followed requests has its layers once, and the others say where.
func TestSharedStep(t *testing.T) {
	c := collector.Start(t)
	tr, _ := start(t, all(c.HTTP), nil)
	var leader spans.Step
	var done []func()
	for range 3 {
		r := tr.Begin(tracing.Parent{}, "x", true, time.Now())
		var q engine.Request
		g := r.Follow(&q)
		s := q.Trace.Step(spans.Part{Tokens: 1, Sequences: 3, Rows: 3}, leader)
		if leader == nil {
			leader = s
		}
		done = append(done, func() { s.End(nil); g.Done(engine.Usage{}, nil); r.End(tracing.End{}) })
	}
	for _, f := range done {
		f()
	}
	end(t, tr)
	links := map[string]int{}
	var first string
	for _, s := range c.Spans() {
		if s.Name == "step" {
			if len(s.Links) == 0 {
				first = s.ID
			}
			for _, l := range s.Links {
				links[l]++
			}
		}
	}
	if first == "" || len(links) != 1 || links[first] != 2 {
		t.Errorf("step %s has links %v", first, links)
	}
}

// Steps are sampled: the first part of a prompt, and one decode step of so many; a request has only so many spans.
func TestSteps(t *testing.T) {
	c := collector.Start(t)
	cfg := all(c.HTTP)
	tr, _ := start(t, cfg, nil)
	for _, x := range []struct{ every, steps, want int }{{1, 40, 40}, {16, 40, 3}, {0, 40, 0}, {1, 20_000, 3999}} {
		cfg.StepEvery = x.every
		tr.Apply(cfg)
		r := tr.Begin(tracing.Parent{}, "x", true, time.Now())
		var q engine.Request
		g := r.Follow(&q)
		got := 0
		for i := range x.steps {
			if s := q.Trace.Step(spans.Part{Position: i, Tokens: 1}, nil); s != nil {
				got++
				s.End(nil)
			}
		}
		g.Done(engine.Usage{}, nil)
		r.End(tracing.End{})
		if got != x.want {
			t.Errorf("%+v: %d steps", x, got)
		}
	}
}

// What can't work is said at the start, without a secret.
func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	empty := dir + "/empty.pem"
	if err := os.WriteFile(empty, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]config.Tracing{
		"scheme": {Endpoint: "ftp://x"}, "headers": {Endpoint: "http://x", Headers: "canary"}, "no file": {Endpoint: "https://x", CAFile: dir + "/none"},
		"no certificate": {Endpoint: "grpcs://x", CAFile: empty},
	} {
		if _, err := tracing.New(c, tracing.Options{Metrics: metrics.New(), Log: slog.New(slog.DiscardHandler)}); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkNobodyFollows is what a request costs whose trace nobody wants; BenchmarkFollowed one with all its steps.
func BenchmarkNobodyFollows(b *testing.B) {
	cfg := config.Default().Tracing
	cfg.Endpoint, cfg.SampleRatio = "http://127.0.0.1:1", 0
	tr, _ := start(b, cfg, nil)
	b.ReportAllocs()
	for b.Loop() {
		one(tr, tracing.Parent{})
	}
}

func BenchmarkFollowed(b *testing.B) {
	cfg := all("http://127.0.0.1:1")
	cfg.MaxPerSecond = 1 << 30
	tr, _ := start(b, cfg, nil)
	b.ReportAllocs()
	for b.Loop() {
		one(tr, tracing.Parent{})
	}
}

func ExampleParseParent() {
	p := tracing.ParseParent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "")
	fmt.Println(p.TraceID(), p.IsSampled())
	// Output: 0af7651916cd43dd8448eb211c80319c true
}
