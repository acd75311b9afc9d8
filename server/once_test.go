package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/access"
)

// busy refuses some requests.
type busy struct {
	*fakeEngine
	refusals *atomic.Int64
}

func (b busy) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	if b.refusals.Add(-1) >= 0 {
		return nil, fmt.Errorf("full: %w", sdk.ErrOverloaded)
	}
	return b.fakeEngine.Submit(ctx, r)
}

// counting counts what is computed.
type counting struct {
	*fakeEngine
	computed atomic.Int64
}

func (c *counting) Submit(ctx context.Context, r engine.Request) (engine.Stream, error) {
	c.computed.Add(1)
	return c.fakeEngine.Submit(ctx, r)
}

// onceBodies are requests of every route that takes a key, streams included.
var onceBodies = map[string][]string{
	"/v1/completions": {`{"model":"fake","prompt":"a"}`, `{"model":"fake","prompt":"a","stream":true}`},
	processPath:       {`{"text":"a"}`, `{"input_tensor":[[[1,2]]]}`},
	jobsPath:          {`{"kind":"completion","request":{"model":"fake","prompt":"a"}}`},
}

func onceService(t testing.TB) (*counting, *service) {
	f := &counting{fakeEngine: &fakeEngine{script: letter}}
	f.hidden = func(x tensor.Matrix) (tensor.Matrix, error) { f.computed.Add(1); return x, nil }
	svc := fakeService(f.fakeEngine)
	svc.engine = f
	return f, svc
}

// However many send a request with one key at once and again, it is computed once, and all have the same bytes; also after
// the server has been replaced.
func TestOnce(t *testing.T) {
	cfg := testConfig(t.TempDir())
	f, svc := onceService(t)
	r := serveState(t, svc, cfg)
	first := map[string][]byte{}
	want := int64(0)
	for path, bodies := range onceBodies {
		for i, body := range bodies {
			key := fmt.Sprint(strings.ReplaceAll(path, "/", "-"), i)
			var mu sync.Mutex
			var all sync.WaitGroup
			var replays atomic.Int64
			const clients = 8
			for range clients {
				all.Go(func() {
					for {
						a := do(t, http.MethodPost, r.url+path, body, onceHeader, key)
						if a.status == http.StatusConflict && strings.Contains(string(a.body), "idempotency_key_in_use") && a.header.Get("Retry-After") != "" {
							continue
						}
						if a.status/100 != 2 {
							t.Errorf("%s: %d %s", path, a.status, a.body)
							return
						}
						if a.header.Get("Idempotent-Replayed") == "true" {
							replays.Add(1)
						}
						mu.Lock()
						if known := first[path+body]; known == nil {
							first[path+body] = a.body
						} else if !bytes.Equal(known, a.body) {
							t.Errorf("%s: other bytes:\n%s\n%s", path, known, a.body)
						}
						mu.Unlock()
						return
					}
				})
			}
			all.Wait()
			want++
			if replays.Load() != clients-1 {
				t.Errorf("%s: %d replays of %d", path, replays.Load(), clients)
			}
		}
	}
	eventually(t, 20*time.Second, "the job", func() bool { return f.computed.Load() >= want })
	if n := f.computed.Load(); n != want {
		t.Errorf("%d requests were computed %d times", want, n)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := r.state.db.Close(); err != nil {
		t.Fatal(err)
	}
	f, svc = onceService(t)
	r = serveState(t, svc, cfg)
	for path, bodies := range onceBodies {
		for i, body := range bodies {
			key := fmt.Sprint(strings.ReplaceAll(path, "/", "-"), i)
			a := r.post(path, body, onceHeader, key)
			if a.header.Get("Idempotent-Replayed") != "true" || !bytes.Equal(a.body, first[path+body]) {
				t.Errorf("%s after a restart: %d %s", path, a.status, a.body)
			}
			if path == "/v1/completions" && a.header.Get("Pimoe-Model-Digest") == "" {
				t.Errorf("a replay has lost its headers: %v", a.header)
			}
			for what, b := range map[string]answer{
				"another body":  r.post(path, strings.Replace(body, "{", "{ ", 1), onceHeader, key),
				"another query": r.post(path+"?x=1", body, onceHeader, key),
			} {
				if b.status != http.StatusConflict || !strings.Contains(string(b.body), "idempotency_key_reused") {
					t.Errorf("%s with %s: %d %s", path, what, b.status, b.body)
				}
			}
		}
	}
	if n := f.computed.Load(); n != 0 {
		t.Errorf("%d requests were computed again", n)
	}
}

// Errors are not kept: nothing has come of the request, so it may be sent again with the same key.
func TestOnceKeepsNoErrors(t *testing.T) {
	var refusals atomic.Int64
	f := &fakeEngine{script: letter}
	svc := fakeService(f)
	svc.engine = busy{f, &refusals}
	r := serveState(t, svc, testConfig(t.TempDir()))
	refusals.Store(1)
	const body = `{"model":"fake","prompt":"a"}`
	for _, want := range []int{503, 200} {
		if a := r.post("/v1/completions", body, onceHeader, "k"); a.status != want {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	f.script = fails(1, errors.New("boom"))
	for range 2 {
		if a := r.post("/v1/completions", body, onceHeader, "k2"); a.status != 500 || a.header.Get("Idempotent-Replayed") != "" {
			t.Errorf("%d %s", a.status, a.body)
		}
		if a := r.post("/v1/completions", `{"model":"fake","prompt":"a","stream":true}`, onceHeader, "k3"); !strings.Contains(string(a.body), "internal_error") || a.header.Get("Idempotent-Replayed") != "" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	f.script = func(context.Context, int) (engine.Token, error) { panic("boom") }
	for range 2 { // and the key is free again
		if a := r.post("/v1/completions", body, onceHeader, "k4"); a.status != 500 {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	for _, key := range []string{"a b", strings.Repeat("k", 256), "ü"} {
		if a := r.post("/v1/completions", body, onceHeader, key); a.status != 400 || !strings.Contains(string(a.body), "invalid_header") {
			t.Errorf("key %q: %d %s", key, a.status, a.body)
		}
	}
}

// Keys belong to tenants: another one's does not exist.
func TestOnceBelongsToTenants(t *testing.T) {
	g := newGate(t)
	f, svc := onceService(t)
	r := serveState(t, svc, g.cfg)
	for i, tenant := range []string{"acme", "other"} {
		_, key, err := g.file.Create(access.Template{Role: access.User, Tenant: tenant})
		if err != nil {
			t.Fatal(err)
		}
		auth := "Bearer " + key
		eventually(t, 10*time.Second, "the key", func() bool { return r.get("/v1/models", "Authorization", auth).status == 200 })
		body := fmt.Sprintf(`{"model":"fake","prompt":"%c"}`, 'a'+i)
		if a := r.post("/v1/completions", body, onceHeader, "k", "Authorization", auth); a.status != 200 || a.header.Get("Idempotent-Replayed") != "" {
			t.Errorf("%s: %d %s", tenant, a.status, a.body)
		}
		if a := r.post("/v1/completions", body, onceHeader, "k", "Authorization", auth); a.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("%s again: %d %s", tenant, a.status, a.body)
		}
	}
	if n := f.computed.Load(); n != 2 {
		t.Errorf("%d requests were computed", n)
	}
}

// A client that is cut off, in the middle of a stream or before the answer, finds the whole of it when it comes back.
func TestOnceGoesOnWithoutItsClient(t *testing.T) {
	f, svc := onceService(t)
	gate := make(chan struct{})
	f.script = func(ctx context.Context, n int) (engine.Token, error) {
		if n == 3 {
			select {
			case <-gate:
			case <-ctx.Done():
				return engine.Token{}, context.Cause(ctx)
			}
		}
		t := engine.Token{ID: 1, Text: "x", HasToken: true}
		if n == 9 {
			t.Finish = engine.FinishLength
		}
		return t, nil
	}
	r := serveState(t, svc, testConfig(t.TempDir()))
	for _, stream := range []bool{false, true} {
		body := fmt.Sprintf(`{"model":"fake","prompt":"a","stream":%v}`, stream)
		key := fmt.Sprint("gone-", stream)
		conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s", onceHeader, key, len(body), body)
		eventually(t, 10*time.Second, "it runs", func() bool { return f.slots.Load() == 1 })
		if stream { // it reads the begin
			if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "200") {
				t.Fatalf("%q, %v", line, err)
			}
		}
		conn.Close()
		time.Sleep(3 * r.limits.watch) // a request without a key would have ended
		if f.slots.Load() != 1 {
			t.Fatal("the request ended with its client")
		}
		if a := r.post("/v1/completions", body, onceHeader, key); a.status != http.StatusConflict {
			t.Errorf("while it runs: %d %s", a.status, a.body)
		}
		gate <- struct{}{}
		eventually(t, 10*time.Second, "it ends", func() bool { _, _, under := r.state.keys.Size(); return under == 0 })
		a := r.post("/v1/completions", body, onceHeader, key)
		if a.header.Get("Idempotent-Replayed") != "true" || strings.Count(string(a.body), "x") < 10 || stream != strings.HasSuffix(string(a.body), "data: [DONE]\n\n") {
			t.Errorf("after it: %d %v %s", a.status, a.header, a.body)
		}
	}
	if n := f.computed.Load(); n != 2 {
		t.Errorf("%d requests were computed", n)
	}
}

// An answer that can't be written down is not sent: its repetition would be computed once more.
func TestOnceWithoutTheDisk(t *testing.T) {
	_, svc := onceService(t)
	cfg := testConfig(t.TempDir())
	r := serveState(t, svc, cfg)
	if err := r.state.db.Close(); err != nil {
		t.Fatal(err)
	}
	for path, body := range map[string]string{"/v1/completions": `{"model":"fake","prompt":"a"}`, jobsPath: `{"kind":"process","request":{"text":"a"}}`} {
		if a := r.post(path, body, onceHeader, "k"); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "state_elsewhere") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := r.post("/v1/completions", `{"model":"fake","prompt":"a"}`); a.status != 200 {
		t.Errorf("without a key: %d %s", a.status, a.body)
	}
}

var _ io.Writer = (*recording)(nil)
