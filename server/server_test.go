package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	modelrouter "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/instance"
)

// shared is the embedded model, opened once for all tests of the package, with the experts in this process.
var shared struct {
	once sync.Once
	home string
	inst *instance.Instance
	err  error
}

func TestMain(m *testing.M) {
	defaultLimits.watching = 100 * time.Millisecond // tests of all routes read answers to their end
	code := m.Run()
	if shared.inst != nil {
		if err := shared.inst.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "close the instance:", err)
			code = 1
		}
		_ = os.RemoveAll(shared.home)
	}
	http.DefaultClient.CloseIdleConnections()
	coretest.RemoveBinaries()
	if code == 0 {
		if err := goleak.Find(ignored...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// ignored are goroutines that fasthttp and Fiber start once and never end.
var ignored = []goleak.Option{
	goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
	goleak.IgnoreAnyFunction("github.com/gofiber/fiber/v2/utils.StartTimeStampUpdater.func1.1"),
	goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"), // ends within ten seconds after its pool
}

func openShared(t testing.TB) *instance.Instance {
	t.Helper()
	shared.once.Do(func() {
		if shared.home, shared.err = os.MkdirTemp("", "pimoe-server"); shared.err != nil {
			return
		}
		shared.inst, shared.err = instance.Open(context.Background(), instance.Options{
			Config: testConfig(shared.home), Log: slog.New(slog.DiscardHandler),
			Builtin: instance.Builtin{
				Expert: func(string) (expert.Expert, error) { return ffn.New(cpu.New(), ffn.Options{}), nil },
				Router: func(string) (router.Router, error) { return modelrouter.New(), nil },
			},
		})
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.inst
}

func testConfig(home string) config.Config {
	c := config.Default()
	c.Home = home
	c.Experts.Isolation = "inproc"
	c.Server.Addr, c.Server.AdminAddr = "127.0.0.1:0", "127.0.0.1:0"
	c.Server.DrainTimeout = 20 * time.Second
	c.Limits.RequestTimeout = time.Minute
	c.Cache.Answers = "off" // most tests are about what computes; those of the cache turn it on
	return c
}

// running is a server that serves, and what its log says.
type running struct {
	*Server
	t    testing.TB
	url  string
	log  *logBuffer
	stop func() error // SIGTERM; returns what Run returned
}

// serve runs the shared instance, or a service of the test's own, until the test ends.
func serve(t testing.TB, svc *service, change func(*Server), opts ...Option) *running {
	t.Helper()
	return serveConfig(t, svc, testConfig(""), change, opts...)
}

func serveConfig(t testing.TB, svc *service, cfg config.Config, change func(*Server), opts ...Option) *running {
	t.Helper()
	if svc == nil {
		real := serviceOf(openShared(t))
		real.engine = undrained{real.engine}
		svc = &real
	}
	log := &logBuffer{}
	s, err := newServer(*svc, cfg, slog.New(slog.NewJSONHandler(log, nil)), opts...)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &running{Server: s, t: t, url: "http://" + s.Addr(), log: log}
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(time.Minute):
			return fmt.Errorf("Run has not returned a minute after its context ended")
		}
	})
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// undrained is the shared instance's engine for servers that come and go before it.
type undrained struct{ engineAPI }

func (undrained) Drain(context.Context) error { return nil }

// in is the same server for a subtest.
func (r *running) in(t testing.TB) *running {
	c := *r
	c.t = t
	return &c
}

// answer is a response that was read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// json decodes the body.
func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var out map[string]any
	if err := json.Unmarshal(a.body, &out); err != nil {
		t.Fatalf("body is no JSON object: %v: %s", err, a.body)
	}
	return out
}

// at walks into decoded JSON: names for objects, numbers for arrays.
func at(t testing.TB, v any, path ...any) any {
	t.Helper()
	for i, p := range path {
		switch p := p.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok {
				t.Fatalf("%v: %T is no object", path[:i+1], v)
			}
			v = m[p]
		case int:
			l, ok := v.([]any)
			if !ok || p >= len(l) {
				t.Fatalf("%v: %v has no such element", path[:i+1], v)
			}
			v = l[p]
		}
	}
	return v
}

// do sends a request; headers are pairs.
func do(t testing.TB, method, url string, body string, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: read body: %v", method, url, err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

func (r *running) get(path string, headers ...string) answer {
	r.t.Helper()
	return do(r.t, http.MethodGet, r.url+path, "", headers...)
}

func (r *running) post(path, body string, headers ...string) answer {
	r.t.Helper()
	return do(r.t, http.MethodPost, r.url+path, body, headers...)
}

// ok posts and requires 200.
func (r *running) ok(path, body string) map[string]any {
	r.t.Helper()
	a := r.post(path, body)
	if a.status != http.StatusOK {
		r.t.Fatalf("POST %s %s: %d %s", path, body, a.status, a.body)
	}
	return a.json(r.t)
}

// sse posts a streaming request and returns the data of its events, [DONE] included.
func (r *running) sse(path, body string) []string {
	r.t.Helper()
	a := r.post(path, body)
	if a.status != http.StatusOK || !strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		r.t.Fatalf("POST %s: %d %s %s", path, a.status, a.header.Get("Content-Type"), a.body)
	}
	var out []string
	for _, e := range strings.Split(strings.TrimSuffix(string(a.body), "\n\n"), "\n\n") {
		if data, ok := strings.CutPrefix(e, "data: "); ok {
			out = append(out, data)
		} else if !strings.HasPrefix(e, ":") {
			r.t.Fatalf("event %q is neither data nor a comment", e)
		}
	}
	return out
}

// logBuffer collects what a server logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// eventually waits for a condition that another goroutine brings about.
func eventually(t testing.TB, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > within {
			t.Fatalf("%s: not within %s", what, within)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}
