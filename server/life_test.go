package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// paced is a script of n tokens, each of which waits for a place in the channel.
func paced(n int, pace <-chan struct{}) func(context.Context, int) (engine.Token, error) {
	return func(ctx context.Context, i int) (engine.Token, error) {
		select {
		case <-pace:
		case <-ctx.Done():
			return engine.Token{}, context.Cause(ctx)
		}
		t := engine.Token{ID: 1, Text: "x", HasToken: true}
		if i == n-1 {
			t.Finish = engine.FinishLength
		}
		return t, nil
	}
}

// SIGTERM: readiness goes off, new work is refused, running requests end, Run returns nil.
func TestDrain(t *testing.T) {
	pace := make(chan struct{})
	f := &fakeEngine{script: paced(3, pace)}
	r := serve(t, fakeService(f), nil)
	answers := make(chan string, 2)
	for _, body := range []string{whole, streaming} {
		go func() {
			resp, err := http.Post(r.url+"/v1/completions", "application/json", strings.NewReader(body))
			if err != nil {
				answers <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			answers <- fmt.Sprint(resp.StatusCode, err, string(b))
		}()
	}
	eventually(t, 5*time.Second, "both run", func() bool { return f.slots.Load() == 2 })
	if a := r.get("/readyz"); a.status != http.StatusOK {
		t.Errorf("ready before: %d %s", a.status, a.body)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	eventually(t, 5*time.Second, "draining", func() bool { return r.drain.Load() })
	for path, want := range map[string]int{"/readyz": 503, "/health": 503, "/livez": 200, "/startupz": 200, "/metrics": 200} {
		if a := r.get(path); a.status != want || a.header.Get("Connection") == "keep-alive" {
			t.Errorf("%s while draining: %d %s", path, a.status, a.body)
		}
	}
	if a := r.get("/readyz?verbose"); !strings.Contains(string(a.body), "[-]accepting failed: the server is stopping\n[+]experts ok\n") {
		t.Errorf("verbose while draining: %s", a.body)
	}
	a := r.post("/v1/completions", whole)
	if a.status != 503 || at(t, a.json(t), "error", "code") != "shutting_down" || a.header.Get("Retry-After") == "" {
		t.Errorf("new work while draining: %d %s", a.status, a.body)
	}
	for range 6 {
		pace <- struct{}{}
	}
	for range 2 {
		if got := <-answers; !strings.HasPrefix(got, "200<nil>") && !strings.HasPrefix(got, "200 <nil>") || !strings.Contains(got, `"finish_reason":"length"`) {
			t.Errorf("running request: %s", got)
		}
	}
	if err := <-stopped; err != nil {
		t.Errorf("Run: %v", err)
	}
	if c, err := net.Dial("tcp", r.Addr()); err == nil {
		c.Close()
		t.Error("the address still accepts")
	}
}

// What does not end within the drain timeout ends with an error that says why.
func TestDrainTimeout(t *testing.T) {
	f := &fakeEngine{script: hangs(1)}
	cfg := testConfig("")
	cfg.Server.DrainTimeout = 100 * time.Millisecond
	r := serveConfig(t, fakeService(f), cfg, nil)
	answers := map[string]chan string{whole: make(chan string, 1), streaming: make(chan string, 1)}
	for body, ch := range answers {
		go func() {
			resp, err := http.Post(r.url+"/v1/completions", "application/json", strings.NewReader(body))
			if err != nil {
				ch <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			ch <- fmt.Sprint(resp.StatusCode, string(b))
		}()
	}
	eventually(t, 5*time.Second, "both run", func() bool { return f.slots.Load() == 2 })
	began := time.Now()
	if err := r.stop(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("stopping took %s", took)
	}
	if got := <-answers[whole]; !strings.HasPrefix(got, "503") || !strings.Contains(got, "shutting_down") {
		t.Errorf("request beyond the drain timeout: %s", got)
	}
	if got := <-answers[streaming]; !strings.HasPrefix(got, "200") || !strings.Contains(got, "shutting_down") || !strings.HasSuffix(got, "data: [DONE]\n\n") {
		t.Errorf("stream beyond the drain timeout: %s", got)
	}
}

// Under load a stop loses no answer: each request is answered whole or refused, on new and on kept connections.
func TestStopUnderLoad(t *testing.T) {
	f := &fakeEngine{script: func(_ context.Context, i int) (engine.Token, error) {
		time.Sleep(time.Millisecond)
		tok := engine.Token{ID: 1, Text: "x", HasToken: true}
		if i == 9 {
			tok.Finish = engine.FinishLength
		}
		return tok, nil
	}}
	r := serve(t, fakeService(f), nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	counts := map[string]int{}
	for range 16 {
		wg.Go(func() {
			client := &http.Client{Transport: &http.Transport{}}
			defer client.CloseIdleConnections()
			for {
				resp, err := client.Post(r.url+"/v1/completions", "application/json", strings.NewReader(whole))
				if err != nil {
					if !errors.Is(err, syscall.ECONNREFUSED) {
						mu.Lock()
						counts[err.Error()]++
						mu.Unlock()
					}
					return
				}
				b, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				mu.Lock()
				counts[fmt.Sprint(resp.StatusCode, err)]++
				mu.Unlock()
				if resp.StatusCode == 200 && !strings.Contains(string(b), "xxxxxxxxxx") {
					t.Errorf("answer %s", b)
				}
				if resp.StatusCode != 200 {
					return
				}
			}
		})
	}
	time.Sleep(200 * time.Millisecond) // a moment of load, not a condition
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	t.Log(counts)
	for k, n := range counts {
		if k != "200 <nil>" && k != "503 <nil>" && n > 0 {
			t.Errorf("%d x %s", n, k)
		}
	}
	if counts["200 <nil>"] == 0 {
		t.Error("no request was answered")
	}
}

// A server that has handed over answers what still comes on its last open connection, and ends with it.
func TestLeaveWaitsForTheLastConnection(t *testing.T) {
	r := serve(t, fakeService(&fakeEngine{script: counted(1)}), nil)
	c := dial(t, r.Addr(), "/v1/completions", whole)
	answers := bufio.NewReader(c)
	next := func() (*http.Response, error) {
		resp, err := http.ReadResponse(answers, nil)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
		}
		return resp, err
	}
	if resp, err := next(); err != nil || resp.StatusCode != http.StatusOK || resp.Close {
		t.Fatalf("before: %v, %v", resp, err)
	}
	r.Leave()
	eventually(t, 5*time.Second, "it leaves", func() bool { return strings.Contains(r.log.String(), "handed over") })
	time.Sleep(50 * time.Millisecond) // in which it would end if it saw nobody
	fmt.Fprintf(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(whole), whole)
	if resp, err := next(); err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("on the connection that is left: %v, %v", resp, err)
	}
	c.Close()
	eventually(t, 10*time.Second, "it ends", func() bool { return strings.Contains(r.log.String(), `"drained"`) })
}

func TestAddresses(t *testing.T) {
	svc := *fakeService(&fakeEngine{})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	for name, c := range map[string]struct {
		addr, admin, key string
		want             []string
	}{
		"all interfaces":    {":0", "off", "", []string{"PIMOE_API_KEY", "PIMOE_API_KEY_FILE", "server.addr"}},
		"any address":       {"0.0.0.0:0", "off", "", []string{"PIMOE_API_KEY"}},
		"any IPv6 address":  {"[::]:0", "off", "", []string{"PIMOE_API_KEY"}},
		"with key":          {"0.0.0.0:0", "off", "k", nil},
		"localhost":         {"localhost:0", "localhost:0", "", nil},
		"mapped":            {"[::ffff:10.0.0.1]:0", "off", "", []string{"PIMOE_API_KEY"}},
		"admin beyond":      {"127.0.0.1:0", "0.0.0.0:0", "k", []string{"server.admin_addr", "loopback"}},
		"port in use":       {fmt.Sprintf("127.0.0.1:%d", port), "off", "", []string{"server.addr", fmt.Sprint(port), "in use"}},
		"admin port in use": {"127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", port), "", []string{"server.admin_addr", fmt.Sprint(port), "in use"}},
		"no port":           {"127.0.0.1", "off", "", []string{"host:port"}},
		"unknown name":      {"no-such-host.invalid:0", "off", "", []string{"unknown"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig("")
			cfg.Server.Addr, cfg.Server.AdminAddr, cfg.APIKey = c.addr, c.admin, c.key
			s, err := newServer(svc, cfg, slog.New(slog.DiscardHandler))
			if err == nil {
				if s.Addr() == "" || strings.HasSuffix(s.Addr(), ":0") || (c.admin == "off") != (s.AdminAddr() == "") {
					t.Errorf("addresses %q and %q", s.Addr(), s.AdminAddr())
				}
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			}
			if (err == nil) != (c.want == nil) {
				t.Fatalf("error %v, want %v", err, c.want)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}

// A leak check over many requests: slots, goroutines (TestMain) and descriptors.
func TestNothingLeaks(t *testing.T) {
	f := &fakeEngine{script: paced(2, closed()), hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }}
	r := serve(t, fakeService(f), nil)
	round := func(n int) {
		for i := range n {
			switch i % 5 {
			case 0:
				r.ok("/v1/completions", whole)
			case 1:
				r.sse("/v1/completions", streaming)
			case 2:
				r.post(processPath, `{"input_tensor":[[[1,2]]]}`)
			case 3:
				r.post("/v1/completions", `{"bad":1}`)
			case 4:
				c := dial(t, r.Addr(), "/v1/completions", streaming)
				c.Close()
			}
		}
		http.DefaultClient.CloseIdleConnections()
		eventually(t, 5*time.Second, "all requests are over", func() bool {
			return f.slots.Load() == 0 && r.running.count() == 0 && r.public.app.Server().GetOpenConnectionsCount() == 0
		})
	}
	round(50)
	before := descriptors(t)
	round(500)
	eventually(t, 5*time.Second, "descriptors are back", func() bool { return descriptors(t) <= before })
}

func closed() <-chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("this platform does not list descriptors")
	}
	return len(list)
}
