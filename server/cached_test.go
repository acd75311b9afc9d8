package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/redisdb/redistest"
	"github.com/pimoe/pimoe/server/seal"
)

// cachedConfig is testConfig with the cache on.
func cachedConfig(change func(*config.Config)) config.Config {
	c := testConfig("")
	c.Cache.Answers = "on"
	if change != nil {
		change(&c)
	}
	return c
}

// realService is the shared instance with metrics of the test's own.
func realService(t *testing.T) *service {
	t.Helper()
	svc := serviceOf(openShared(t))
	svc.engine, svc.metrics = undrained{svc.engine}, metrics.New()
	return &svc
}

// versioned is a fake engine whose answers say their version.
type versioned struct {
	*fakeEngine
	version atomic.Pointer[string]
	quality engine.Quality
}

func (v *versioned) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	s, err := v.fakeEngine.Submit(ctx, r)
	if err != nil {
		return nil, err
	}
	return &versionedStream{s, *v.version.Load(), v.quality}, nil
}

type versionedStream struct {
	engine.Stream
	version string
	quality engine.Quality
}

func (s *versionedStream) Usage() engine.Usage {
	u := s.Stream.Usage()
	u.Version, u.Quality = s.version, s.quality
	return u
}

// newVersioned is a service on it; calls counts the answers that are computed.
func newVersioned(t *testing.T, token func(ctx context.Context, call int64) error) (*versioned, *service, *atomic.Int64) {
	t.Helper()
	var calls atomic.Int64
	v := &versioned{fakeEngine: &fakeEngine{}}
	v.fakeEngine.script = func(ctx context.Context, n int) (engine.Token, error) {
		call := calls.Add(1)
		if token != nil {
			if err := token(ctx, call); err != nil {
				return engine.Token{}, err
			}
		}
		return engine.Token{ID: 1, Text: fmt.Sprintf("answer %s %d", *v.version.Load(), call), HasToken: true, Finish: engine.FinishStop}, nil
	}
	one := "v1"
	v.version.Store(&one)
	svc := fakeService(v.fakeEngine)
	svc.engine = v
	svc.version = func() (string, string) { return "fixed", *v.version.Load() }
	return v, svc, &calls
}

const greedy = `{"model":"fake","prompt":"abc","temperature":0,"max_tokens":4}`

func textOf(t *testing.T, a answer) string {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	text, _ := at(t, a.json(t), "choices", 0, "text").(string)
	return text
}

// Every kind of answer comes out of the cache as it was computed, but for what belongs to one request.
func TestKeptAnswersAreTheSame(t *testing.T) {
	r := serveConfig(t, realService(t), cachedConfig(nil), nil)
	chat := `{"model":"pimoe-tiny","temperature":0,"max_tokens":12,"messages":[{"role":"user","content":"Tell me of a fox."}]`
	tools := chat + `,"tool_choice":"required","tools":[{"type":"function","function":{"name":"look","parameters":{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}}}]`
	for name, c := range map[string]struct{ path, body string }{
		"text":          {"/v1/completions", `{"model":"pimoe-tiny","temperature":0,"max_tokens":12,"prompt":"Once upon a time"}`},
		"several":       {"/v1/completions", `{"model":"pimoe-tiny","temperature":0,"max_tokens":6,"n":2,"prompt":["A fox","A lamp"]}`},
		"echo":          {"/v1/completions", `{"model":"pimoe-tiny","temperature":0,"max_tokens":6,"echo":true,"prompt":"A fox"}`},
		"probabilities": {"/v1/completions", `{"model":"pimoe-tiny","temperature":0,"max_tokens":6,"logprobs":3,"prompt":"A fox"}`},
		"chat":          {"/v1/chat/completions", chat + "}"},
		"a form":        {"/v1/chat/completions", chat + `,"response_format":{"type":"regex","regex":"[a-z]{3,9}"}}`},
		"tools":         {"/v1/chat/completions", strings.Replace(tools, `"max_tokens":12`, `"max_tokens":60`, 1) + "}"},
		"native":        {"/api/v1/process", `{"text":"Once upon","temperature":0,"max_tokens":8,"return_comprehensive_info":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := r.in(t)
			first, second := r.post(c.path, c.body), r.post(c.path, c.body)
			if first.status != 200 || first.header.Get("X-Cache") != "miss" || second.header.Get("X-Cache") != "hit" || second.header.Get("Age") != "0" {
				t.Fatalf("%d, X-Cache %q then %q, Age %q: %s", first.status, first.header.Get("X-Cache"), second.header.Get("X-Cache"), second.header.Get("Age"), first.body)
			}
			if got := second.header.Get("Cache-Status"); !strings.HasPrefix(got, "pimoe; hit; ttl=") {
				t.Errorf("Cache-Status %q", got)
			}
			for _, h := range []string{"Pimoe-Status", "Pimoe-Model-Digest", "Pimoe-Numeric-Class", "Cache-Control"} {
				if first.header.Get(h) != second.header.Get(h) {
					t.Errorf("%s is %q and %q", h, first.header.Get(h), second.header.Get(h))
				}
			}
			a, b := withoutRequest(t, first.body), withoutRequest(t, second.body)
			if a != b {
				t.Errorf("computed:\n%s\nkept:\n%s", a, b)
			}
			if c.path == "/api/v1/process" {
				return
			}
			stream := strings.TrimSuffix(c.body, "}") + `,"stream":true,"stream_options":{"include_usage":true}}`
			kept := r.post(c.path, stream)
			computed := r.post(c.path, stream, "Cache-Control", "no-store")
			if kept.header.Get("X-Cache") != "hit" || computed.header.Get("X-Cache") != "bypass" {
				t.Fatalf("X-Cache of streams %q and %q", kept.header.Get("X-Cache"), computed.header.Get("X-Cache"))
			}
			if a, b := joinEvents(t, computed.body), joinEvents(t, kept.body); a != b {
				t.Errorf("a computed stream:\n%s\na kept one:\n%s", a, b)
			}
		})
	}
	stats := r.get("/api/v1/stats").json(t)
	if n, _ := at(t, stats, "cache", "answers", "counts", "hit_memory").(float64); n < 8 {
		t.Errorf("stats count %v hits", n)
	}
	if text := string(r.get("/metrics").body); !strings.Contains(text, `pimoe_cache_requests_total{outcome="hit_memory"}`) || !strings.Contains(text, "pimoe_cache_bytes") {
		t.Error("no series of the cache")
	}
}

// withoutRequest is a body without what differs from one request to the next.
func withoutRequest(t *testing.T, body []byte) string {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(body, &v); err != nil {
		t.Fatal(err)
	}
	return scrubbed(v)
}

func scrubbed(v any) string {
	var walk func(v any)
	walk = func(v any) {
		switch x := v.(type) {
		case map[string]any:
			for _, name := range []string{"id", "created", "request_id", "processing_time", "cached_tokens"} {
				delete(x, name)
			}
			for _, e := range x {
				walk(e)
			}
		case []any:
			for _, e := range x {
				walk(e)
			}
		}
	}
	walk(v)
	b, _ := json.Marshal(v)
	return string(b)
}

// joinEvents puts the events of a stream together: text, arguments and log-probabilities of each choice, its end, and the usage.
func joinEvents(t *testing.T, body []byte) string {
	t.Helper()
	texts := map[string]string{}
	for _, e := range strings.Split(string(body), "\n\n") {
		data, ok := strings.CutPrefix(e, "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var v map[string]any
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			t.Fatal(err)
		}
		if u := v["usage"]; u != nil {
			texts["usage"] = scrubbed(u)
		}
		for _, c := range v["choices"].([]any) {
			c := c.(map[string]any)
			n := fmt.Sprint(c["index"])
			if text, ok := c["text"].(string); ok {
				texts[n+" text"] += text
			}
			if d, ok := c["delta"].(map[string]any); ok {
				for name, v := range d {
					if text, ok := v.(string); ok {
						texts[n+" "+name] += text
					}
				}
				if calls, ok := d["tool_calls"].([]any); ok {
					for _, call := range calls {
						f := call.(map[string]any)["function"].(map[string]any)
						for _, part := range []string{"name", "arguments"} {
							if text, ok := f[part].(string); ok {
								texts[n+" call's "+part] += text
							}
						}
					}
				}
			}
			if c["finish_reason"] != nil {
				texts[n+" end"] = fmt.Sprint(c["finish_reason"])
			}
			if l, ok := c["logprobs"].(map[string]any); ok {
				for name, v := range l {
					b, _ := json.Marshal(v)
					texts[n+" "+name] += strings.Trim(string(b), "[]") + ","
				}
			}
		}
	}
	b, _ := json.Marshal(texts)
	return string(b)
}

// What is not the same each time, not exact or not wanted is never kept.
func TestWhatIsNotKept(t *testing.T) {
	twice := func(t *testing.T, r *running, body string, want string, headers ...string) {
		t.Helper()
		first, second := r.post("/v1/completions", body, headers...), r.post("/v1/completions", body, headers...)
		if a, b := textOf(t, first), textOf(t, second); a == b {
			t.Errorf("%s: the same answer twice: %s", body, a)
		}
		if got := second.header.Get("X-Cache"); got != want {
			t.Errorf("%s: X-Cache %q, want %q", body, got, want)
		}
	}
	_, svc, _ := newVersioned(t, nil)
	r := serveConfig(t, svc, cachedConfig(nil), nil)
	for _, body := range []string{
		`{"model":"fake","prompt":"abc"}`, `{"model":"fake","prompt":"abc","temperature":0.1}`, `{"model":"fake","prompt":"abc","seed":7}`,
		`{"model":"fake","prompt":"abc","temperature":1e-9,"seed":7}`, `{"model":"fake","prompt":"abc","top_k":1}`,
	} {
		twice(t, r, body, "bypass")
	}
	twice(t, r, greedy, "bypass", "Cache-Control", "no-store")
	twice(t, r, greedy, "bypass", "Cache-Control", "private, No-Cache")
	if a := r.post("/v1/completions", greedy); a.header.Get("X-Cache") != "hit" {
		t.Errorf("no-cache does not refresh: %q", a.header.Get("X-Cache"))
	}
	twice(t, r, greedy, "miss", "Cache-Control", "max-age=0")

	degraded, svc, _ := newVersioned(t, nil)
	degraded.quality = engine.Quality{Kinds: moe.Kinds(0).With(moe.Renormalise), Layers: 1, Dropped: .2}
	twice(t, serveConfig(t, svc, cachedConfig(nil), nil), greedy, "miss")

	_, svc, _ = newVersioned(t, nil)
	svc.routing = sdk.CapLoadDependent
	twice(t, serveConfig(t, svc, cachedConfig(nil), nil), greedy, "bypass")

	_, svc, _ = newVersioned(t, nil)
	svc.version = func() (string, string) { return "fixed", "" } // a canary is under way
	twice(t, serveConfig(t, svc, cachedConfig(nil), nil), greedy, "bypass")

	_, svc, _ = newVersioned(t, nil)
	twice(t, serveConfig(t, svc, testConfig(""), nil), greedy, "")
}

// An answer of one version is never given once there is another, also not one that was computed across the change.
func TestVersionsDoNotMix(t *testing.T) {
	inside, goOn := make(chan struct{}), make(chan struct{})
	v, svc, calls := newVersioned(t, func(_ context.Context, call int64) error {
		if call == 2 {
			close(inside)
			<-goOn
		}
		return nil
	})
	r := serveConfig(t, svc, cachedConfig(nil), nil)
	one, two := "v1", "v2"
	if got := textOf(t, r.post("/v1/completions", greedy)); got != "answer v1 1" {
		t.Fatal(got)
	}
	v.version.Store(&two)
	done := make(chan string)
	go func() { done <- textOf(t, r.post("/v1/completions", greedy)) }()
	<-inside
	v.version.Store(&one) // it is computed by v2 and v1 holds when it ends
	close(goOn)
	<-done
	if got := textOf(t, r.post("/v1/completions", greedy)); got != "answer v1 1" {
		t.Errorf("v1 again gives %q", got)
	}
	v.version.Store(&two)
	if got := textOf(t, r.post("/v1/completions", greedy)); got != "answer v2 3" {
		t.Errorf("v2 gives %q, of %d computed", got, calls.Load())
	}
}

// Equal requests at one time are computed once; each keeps its own deadline; one that computes and goes away is replaced.
func TestEqualRequestsAreComputedOnce(t *testing.T) {
	release := make(chan struct{})
	var entered atomic.Int64
	_, svc, calls := newVersioned(t, func(ctx context.Context, call int64) error {
		entered.Add(1)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	r := serveConfig(t, svc, cachedConfig(nil), nil)
	leaving, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(leaving, http.MethodPost, r.url+"/v1/completions", strings.NewReader(greedy))
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		gone <- err
	}()
	eventually(t, 10*time.Second, "the first computes", func() bool { return entered.Load() == 1 })
	impatient := r.post("/v1/completions", greedy, "X-Request-Timeout", "50ms")
	if impatient.status != http.StatusGatewayTimeout {
		t.Errorf("who waits 50 ms at most: %d %s", impatient.status, impatient.body)
	}
	var waiting sync.WaitGroup
	answers := make(chan answer, 20)
	for range 20 {
		waiting.Go(func() { answers <- do(t, http.MethodPost, r.url+"/v1/completions", greedy) })
	}
	eventually(t, 10*time.Second, "all are there", func() bool { return r.Server.running.count() == 21 })
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	eventually(t, 10*time.Second, "another one computes", func() bool { return entered.Load() == 2 })
	close(release)
	waiting.Wait()
	close(answers)
	how := map[string]int{}
	for a := range answers {
		if got := textOf(t, a); got != "answer v1 2" {
			t.Errorf("an answer %q", got)
		}
		how[a.header.Get("X-Cache")]++
	}
	if calls.Load() != 2 || how["miss"] != 1 || how["hit"] != 19 {
		t.Errorf("%d computed; X-Cache %v", calls.Load(), how)
	}
	used := r.tenants.visible(access.Principal{Tenant: access.DefaultTenant})[access.DefaultTenant]
	if used.PromptTokens != 21*3 || used.CompletionTokens != 21 { // the first one's token was begun
		t.Errorf("usage %+v, want that of 21 requests", used)
	}
}

// One that fails does not fail the others, and a panic does not leave them waiting.
func TestAFailureIsNobodyElses(t *testing.T) {
	for name, fail := range map[string]func() error{
		"error": func() error { return sdk.ErrUnavailable },
		"panic": func() error { panic("on purpose") },
	} {
		t.Run(name, func(t *testing.T) {
			var r *running
			_, svc, _ := newVersioned(t, func(_ context.Context, call int64) error {
				if call > 1 {
					return nil
				}
				for deadline := time.Now().Add(10 * time.Second); r.Server.running.count() < 5 && time.Now().Before(deadline); {
					time.Sleep(time.Millisecond)
				}
				return fail()
			})
			r = serveConfig(t, svc, cachedConfig(nil), nil)
			var all sync.WaitGroup
			var failed atomic.Int64
			for range 5 {
				all.Go(func() {
					if a := do(t, http.MethodPost, r.url+"/v1/completions", greedy); a.status != http.StatusOK {
						failed.Add(1)
					}
				})
			}
			all.Wait()
			if failed.Load() != 1 {
				t.Errorf("%d of 5 failed", failed.Load())
			}
		})
	}
}

// tenantKeys makes a key for each tenant.
func tenantKeys(t *testing.T, tenants ...string) (file string, keys map[string]string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "keys.json")
	store := access.NewKeyFile(file, time.Now)
	keys = map[string]string{}
	for _, name := range tenants {
		_, secret, err := store.Create(access.Template{Name: name, Tenant: name, Role: access.User})
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = "Bearer " + secret
	}
	return file, keys
}

// A tenant never gets another one's answer, and can't learn whether another one has asked.
func TestTenantsDoNotShare(t *testing.T) {
	file, keys := tenantKeys(t, "red", "blue")
	_, svc, _ := newVersioned(t, nil)
	r := serveConfig(t, svc, cachedConfig(func(c *config.Config) { c.Auth.KeysFile = file }), nil)
	red := r.post("/v1/completions", greedy, "Authorization", keys["red"])
	blue := r.post("/v1/completions", greedy, "Authorization", keys["blue"])
	if textOf(t, red) == textOf(t, blue) || blue.header.Get("X-Cache") != "miss" {
		t.Errorf("blue gets %s, %s", blue.header.Get("X-Cache"), blue.body)
	}
	if again := r.post("/v1/completions", greedy, "Authorization", keys["red"]); textOf(t, again) != textOf(t, red) || again.header.Get("X-Cache") != "hit" {
		t.Errorf("red gets %s", again.body)
	}
}

func sealedConfig(t *testing.T, addr string) config.Config {
	t.Helper()
	keys := filepath.Join(t.TempDir(), "sealing.keys")
	if err := os.WriteFile(keys, []byte(seal.NewLine()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return cachedConfig(func(c *config.Config) {
		c.Encryption.KeyFile, c.Cache.Shared = keys, "redis"
		c.Redis.URL, c.Redis.Timeout = "redis://"+addr, 200*time.Millisecond
	})
}

// Hosts share answers through Redis, and without it each goes on alone.
func TestHostsShareAnswers(t *testing.T) {
	redis := redistest.Start(t)
	cfg := sealedConfig(t, redis.Addr)
	_, one, callsOne := newVersioned(t, nil)
	_, two, callsTwo := newVersioned(t, nil)
	first, second := serveConfig(t, one, cfg, nil), serveConfig(t, two, cfg, nil)
	eventually(t, 10*time.Second, "redis", func() bool { return first.redis.Healthy() && second.redis.Healthy() })
	computed := textOf(t, first.post("/v1/completions", greedy))
	eventually(t, 10*time.Second, "the answer is in Redis", func() bool {
		return strings.Contains(string(first.get("/metrics").body), `pimoe_redis_calls_total{op="set",outcome="ok"} 1`)
	})
	shared := second.post("/v1/completions", greedy)
	if got := shared.header.Get("Cache-Status"); textOf(t, shared) != computed || !strings.HasSuffix(got, "detail=redis") || callsTwo.Load() != 0 {
		t.Errorf("the second host, which computed %d: %s %s", callsTwo.Load(), got, shared.body)
	}
	if calls := callsOne.Load(); calls != 1 {
		t.Errorf("the first host computed %d", calls)
	}
	stats := second.get("/api/v1/stats").json(t)
	if at(t, stats, "cache", "redis", "healthy") != true || at(t, stats, "cache", "answers", "shared") != true {
		t.Errorf("stats %v", at(t, stats, "cache"))
	}
	redis.Kill()
	for range 5 {
		if got := textOf(t, first.post("/v1/completions", `{"model":"fake","prompt":"zzz","temperature":0}`)); got == "" {
			t.Error("no answer without Redis")
		}
	}
}

func TestCacheFollowsAReload(t *testing.T) {
	_, svc, _ := newVersioned(t, nil)
	r := serveConfig(t, svc, cachedConfig(nil), nil)
	r.post("/v1/completions", greedy)
	next := *r.now.Load()
	next.Cache.Answers = "off"
	r.answers.Apply(next.Cache)
	if a := r.post("/v1/completions", greedy); a.header.Get("X-Cache") != "" || textOf(t, a) != "answer v1 2" {
		t.Errorf("switched off: %q %s", a.header.Get("X-Cache"), a.body)
	}
	next.Cache.Answers = "on"
	r.answers.Apply(next.Cache)
	if a := r.post("/v1/completions", greedy); a.header.Get("X-Cache") != "miss" {
		t.Errorf("switched on again, with what was kept before: %q", a.header.Get("X-Cache"))
	}
}

// What lasts has a tag, and who has it already gets no body. Where a credential is asked for, no cache on the way keeps it.
func TestLastingAnswers(t *testing.T) {
	paths := []string{"/v1/models", "/v1/models/fake", "/docs", openapiPath}
	_, svc, _ := newVersioned(t, nil)
	open := serveConfig(t, svc, cachedConfig(nil), nil)
	_, svc, _ = newVersioned(t, nil)
	guarded := serveConfig(t, svc, cachedConfig(func(c *config.Config) { c.APIKey = "sk-vQ9xT2mLw8-c4che" }), nil)
	for r, want := range map[*running]string{open: "public, max-age=60", guarded: "private, max-age=60"} {
		for _, path := range paths {
			key := ""
			if r == guarded {
				key = "Bearer sk-vQ9xT2mLw8-c4che"
			}
			a := r.get(path, "Authorization", key)
			tag := a.header.Get("ETag")
			if a.status != 200 || tag == "" || a.header.Get("Cache-Control") != want || !strings.Contains(a.header.Get("Vary"), "Authorization") {
				t.Errorf("%s: %d, ETag %q, %v", path, a.status, tag, a.header)
			}
			for _, known := range []string{tag, strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*"} {
				again := r.get(path, "Authorization", key, "If-None-Match", known)
				if again.status != http.StatusNotModified || len(again.body) != 0 || again.header.Get("ETag") != tag {
					t.Errorf("%s with %s: %d %q", path, known, again.status, again.body)
				}
			}
			if other := r.get(path, "Authorization", key, "If-None-Match", `"other"`); other.status != 200 || !bytes.Equal(other.body, a.body) {
				t.Errorf("%s with another tag: %d", path, other.status)
			}
		}
	}
	if a := guarded.get("/v1/models", "If-None-Match", "*"); a.status != http.StatusUnauthorized || a.header.Get("ETag") != "" {
		t.Errorf("without the key: %d", a.status)
	}
	if a := open.get("/v1/models/other", "If-None-Match", "*"); a.status != http.StatusNotFound || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("no such model: %d %v", a.status, a.header)
	}
	if a := open.get("/api/v1/stats"); a.header.Get("ETag") != "" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("stats: %v", a.header)
	}
}
