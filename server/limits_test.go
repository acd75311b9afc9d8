package server

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/server/access"
)

// counted is a script that ends after so many tokens.
func counted(n int) func(context.Context, int) (engine.Token, error) {
	return func(_ context.Context, i int) (engine.Token, error) {
		t := engine.Token{ID: 1, Text: "b", HasToken: true}
		if i+1 == n {
			t.Finish = engine.FinishLength
		}
		return t, nil
	}
}

// stopwatch is a clock that a test moves.
type stopwatch struct {
	mu sync.Mutex // guards at
	at time.Time
}

func (s *stopwatch) now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

func (s *stopwatch) pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = s.at.Add(d)
}

func limited(t *testing.T, f *fakeEngine, rates ...config.Rate) (*running, *stopwatch) {
	t.Helper()
	w := &stopwatch{at: time.Now()}
	cfg := testConfig("")
	cfg.Limits.Rates = rates
	return serveConfig(t, fakeService(f), cfg, nil, func(o *options) { o.clock = w.now }), w
}

func wantHeaders(t *testing.T, h http.Header, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if h.Get(k) != v {
			t.Errorf("%s: %q, want %q", k, h.Get(k), v)
		}
	}
}

const shortBody = `{"model":"fake","prompt":"abcdefgh","max_tokens":4}`

// Answers say what is left, tokens are settled by what was used, and a 429 says when to come: then the client is taken.
func TestRateLimits(t *testing.T) {
	r, clock := limited(t, &fakeEngine{script: counted(4)}, config.Rate{Requests: 2, Tokens: 120})
	url := r.url + "/v1/completions"
	a := do(t, "POST", url, shortBody)
	estimate := len(shortBody) / bytesPerToken
	if a.status != 200 {
		t.Fatalf("%d: %s", a.status, a.body)
	}
	wantHeaders(t, a.header, map[string]string{
		"X-Ratelimit-Limit-Requests": "2", "X-Ratelimit-Remaining-Requests": "1", "X-Ratelimit-Reset-Requests": "30s",
		"X-Ratelimit-Limit-Tokens": "120", "X-Ratelimit-Remaining-Tokens": strconv.Itoa(120 - estimate), "X-Ratelimit-Reset-Tokens": "6s",
		"Ratelimit-Policy": `"requests";q=2;w=60, "tokens";q=120;w=60`, "Ratelimit": fmt.Sprintf(`"requests";r=1;t=30, "tokens";r=%d;t=6`, 120-estimate),
	})
	a = do(t, "POST", url, shortBody)
	if want := strconv.Itoa(120 - 12 - estimate); a.status != 200 || a.header.Get("X-Ratelimit-Remaining-Tokens") != want { // 8 + 4 of the first one
		t.Errorf("%d, %s tokens left, want %s", a.status, a.header.Get("X-Ratelimit-Remaining-Tokens"), want)
	}
	a = do(t, "POST", url, shortBody)
	v := a.json(t)
	if a.status != 429 || at(t, v, "error", "code") != "rate_limit_exceeded" || at(t, v, "error", "type") != "rate_limit_error" || a.header.Get("X-Ratelimit-Remaining-Requests") != "0" {
		t.Fatalf("%d: %s %v", a.status, a.body, a.header)
	}
	wait, err := strconv.Atoi(a.header.Get("Retry-After"))
	if err != nil || wait < 29 || wait > 30 {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	if a := do(t, "GET", r.url+"/v1/models", ""); a.status != 200 || a.header.Get("Ratelimit") != "" {
		t.Errorf("a route that runs nothing: %d %v", a.status, a.header)
	}
	clock.pass(time.Duration(wait) * time.Second)
	if a := do(t, "POST", url, shortBody); a.status != 200 {
		t.Errorf("at the promised time: %d: %s", a.status, a.body)
	}
	clock.pass(time.Minute)
	if a := do(t, "POST", url, `{"model":"fake","prompt":"`+strings.Repeat("a", 600)+`"}`); a.status == 429 {
		t.Errorf("an estimate beyond the model's context: %s", a.body)
	}
}

// Who may do how much follows a reload.
func TestRatesReload(t *testing.T) {
	r, _ := limited(t, &fakeEngine{script: counted(1)}, config.Rate{Role: "admin", Requests: 1})
	url := r.url + "/v1/completions"
	for range 3 {
		if a := do(t, "POST", url, shortBody); a.status != 200 || a.header.Get("Ratelimit") != "" {
			t.Fatalf("a rule for others: %d %v", a.status, a.header)
		}
	}
	r.useLimits(config.Limits{Rates: []config.Rate{{Tenant: access.DefaultTenant, Per: "tenant", Requests: 1}}})
	if a := do(t, "POST", url, shortBody); a.status != 200 || a.header.Get("X-Ratelimit-Limit-Requests") != "1" {
		t.Errorf("the first one: %d %v", a.status, a.header)
	}
	if a := do(t, "POST", url, shortBody); a.status != 429 {
		t.Errorf("the second one: %d", a.status)
	}
}

func TestConcurrentLimit(t *testing.T) {
	f := &fakeEngine{script: hangs(0)}
	r, _ := limited(t, f, config.Rate{Concurrent: 2})
	ctx, cancel := context.WithCancel(t.Context())
	var held sync.WaitGroup
	for range 2 {
		held.Go(func() {
			req, err := http.NewRequestWithContext(ctx, "POST", r.url+"/v1/completions", strings.NewReader(shortBody))
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", mimeJSON)
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
			}
		})
	}
	until(t, "two run", func() bool { return f.slots.Load() == 2 })
	if a := do(t, "POST", r.url+"/v1/completions", shortBody); a.status != 429 || at(t, a.json(t), "error", "code") != "too_many_concurrent_requests" || a.header.Get("Retry-After") == "" {
		t.Errorf("%d: %s", a.status, a.body)
	}
	cancel()
	held.Wait()
	until(t, "their places are free", func() bool { return f.slots.Load() == 0 && r.running.count() == 0 })
	f.script = counted(1)
	if a := do(t, "POST", r.url+"/v1/completions", shortBody); a.status != 200 {
		t.Errorf("%d: %s", a.status, a.body)
	}
}

// until waits for something that must come.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

// raw sends a head and the begin of a body, and reads the status.
func raw(t *testing.T, r *running, head string) *http.Response {
	t.Helper()
	c, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(c, head)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return resp
}

// A refusal does not wait for the body: by a limit, by an overload, by its size.
func TestRefusedBeforeBody(t *testing.T) {
	f := &fakeEngine{script: counted(1)}
	r, _ := limited(t, f, config.Rate{Requests: 1})
	head := func(length int) string {
		return fmt.Sprintf("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", length) + strings.Repeat(" ", 8<<10)
	}
	if a := do(t, "POST", r.url+"/v1/completions", shortBody); a.status != 200 {
		t.Fatal(a.status)
	}
	if resp := raw(t, r, head(4<<20)); resp.StatusCode != 429 || !resp.Close {
		t.Errorf("by a limit: %d, close %v", resp.StatusCode, resp.Close)
	}
	f.refuse = &engine.OverloadError{Why: "busy", After: 2500 * time.Millisecond}
	if resp := raw(t, r, head(4<<20)); resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "3" {
		t.Errorf("by an overload: %d %v", resp.StatusCode, resp.Header)
	}
	f.refuse = nil
	r.useLimits(config.Limits{})
	if resp := raw(t, r, head(generateBody+1)); resp.StatusCode != 413 {
		t.Errorf("by its size: %d", resp.StatusCode)
	}
}

// A body that comes too slowly, or in too large chunks, or broken, is refused.
func TestBodies(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{script: counted(1)}), func(s *Server) { s.limits.header, s.limits.body = 200*time.Millisecond, 500*time.Millisecond })
	const head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
	chunked := head + "Transfer-Encoding: chunked\r\n\r\n"
	whole := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(shortBody), shortBody)
	for name, c := range map[string]struct {
		text   string
		status int
	}{
		"chunks":        {chunked + whole, 200},
		"slow":          {head + "Content-Length: 100\r\n\r\n{", 408},
		"slow and long": {head + "Content-Length: 20000\r\n\r\n" + strings.Repeat(" ", 9000), 408},
		"slow chunks":   {chunked + "5\r\nabc", 408},
		"broken chunks": {chunked + "zz\r\n", 400},
		"large chunks":  {chunked + fmt.Sprintf("%x\r\n", generateBody+2) + strings.Repeat(" ", generateBody+2), 413},
	} {
		t.Run(name, func(t *testing.T) {
			if resp := raw(t, r.in(t), c.text); resp.StatusCode != c.status {
				t.Errorf("%d, want %d", resp.StatusCode, c.status)
			}
		})
	}
	for _, c := range []struct {
		length int
		want   time.Duration
	}{{0, 5 * time.Second}, {16 << 10, 6 * time.Second}, {160 << 10, 15 * time.Second}, {8 << 20, time.Minute}, {-1, time.Minute}} {
		if got := defaultLimits.bodyTime(c.length); got != c.want {
			t.Errorf("a body of %d bytes has %s, want %s", c.length, got, c.want)
		}
	}
}

func TestPriorities(t *testing.T) {
	for _, c := range []struct {
		header string
		role   access.Role
		want   engine.Priority
		ok     bool
	}{
		{"", access.User, engine.Normal, true}, {"low", access.User, engine.Low, true}, {"normal", access.User, engine.Normal, true},
		{"high", access.User, 0, false}, {"high", access.Operator, engine.High, true}, {"high", access.Admin, engine.High, true}, {"urgent", access.Admin, 0, false},
	} {
		got, err := priorityOf(c.header, access.Principal{Role: c.role})
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("%q of %s: %d %v", c.header, c.role, got, err)
		}
	}
	r := serve(t, fakeService(&fakeEngine{script: counted(1)}), nil)
	if a := do(t, "POST", r.url+"/v1/completions", shortBody, "Pimoe-Priority", "high"); a.status != 403 {
		t.Errorf("high of a user: %d", a.status)
	}
	if a := do(t, "POST", r.url+"/v1/completions", shortBody, "Pimoe-Priority", "x"); a.status != 400 {
		t.Errorf("an unknown priority: %d", a.status)
	}
	if a := do(t, "POST", r.url+"/v1/completions", shortBody, "Pimoe-Priority", "low"); a.status != 200 {
		t.Errorf("low of a user: %d", a.status)
	}
}

// While memory is short new work is refused, and what is kept for later is given up; a limit that is raised ends it.
func TestMemoryShort(t *testing.T) {
	t.Setenv("GOMEMLIMIT", "off") // the heap of the other tests stays as it is
	f := &fakeEngine{script: counted(1)}
	cfg := testConfig("")
	cfg.Limits.TotalMemoryMB = 1
	r := serveConfig(t, fakeService(f), cfg, nil)
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("the memory of a process can't be told here: ", err)
	}
	a := do(t, "POST", r.url+"/v1/completions", shortBody)
	if a.status != 503 || at(t, a.json(t), "error", "code") != "memory_short" || a.header.Get("Retry-After") != "2" || f.trims.Load() == 0 {
		t.Errorf("%d: %s, %d trims", a.status, a.body, f.trims.Load())
	}
	if a := do(t, "GET", r.url+"/v1/models", ""); a.status != 200 {
		t.Errorf("what needs no memory: %d", a.status)
	}
	next := *r.now.Load()
	next.Limits.TotalMemoryMB = 1 << 20
	r.Server.now.Store(&next)
	until(t, "work is taken again", func() bool { return do(t, "POST", r.url+"/v1/completions", shortBody).status == 200 })
}
