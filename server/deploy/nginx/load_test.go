package nginx_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/server/deploy"
)

// perSecond is the rate of the load; `make nginx` raises it to what docs/deploy.md measures.
func perSecond() int {
	if n, err := strconv.Atoi(os.Getenv("PIMOE_NGINX_RATE")); err == nil {
		return n
	}
	return 40
}

// repetitions is how often each host is killed and restarted.
func repetitions() int {
	if n, err := strconv.Atoi(os.Getenv("PIMOE_NGINX_ROUNDS")); err == nil {
		return n
	}
	return 1
}

// load is requests at a steady rate, each repeated once if it fails.
type load struct {
	stop chan struct{}
	over chan struct{}

	mu                  sync.Mutex // guards what follows
	sent, first, second int        // requests, those that failed, and those that failed again
	reasons             []string
}

func (s *stand) load(rate int) *load {
	l := &load{stop: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(l.over)
		var all sync.WaitGroup
		defer all.Wait()
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		for {
			select {
			case <-l.stop:
				return
			case <-tick.C:
				all.Go(func() { l.count(s.once(), s.once) })
			}
		}
	}()
	return l
}

// once sends one request; why says what was wrong with the answer.
func (s *stand) once() (why string) {
	resp, body, err := s.try(s.http1, http.MethodPost, "/v1/completions", `{"model":"pimoe-tiny","prompt":"Once","max_tokens":1,"temperature":0}`)
	if err != nil {
		return err.Error()
	}
	if resp.StatusCode != http.StatusOK {
		return resp.Status + " " + string(body)
	}
	return ""
}

func (l *load) count(why string, again func() string) {
	if why == "" {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.sent++
		return
	}
	second := again()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.first++
	l.reasons = append(l.reasons, why)
	if second != "" {
		l.second++
		l.reasons = append(l.reasons, "again: "+second)
	}
}

// end stops the load and waits for its last answer.
func (l *load) end() {
	close(l.stop)
	<-l.over
}

// inFlight is how many requests run on a host now.
func (h *host) inFlight(t *testing.T) int {
	t.Helper()
	r, err := http.Get("http://" + h.admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	for sc := bufio.NewScanner(r.Body); sc.Scan(); {
		if text, ok := strings.CutPrefix(sc.Text(), "pimoe_http_requests_in_flight "); ok {
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
	}
	t.Fatal("no pimoe_http_requests_in_flight")
	return 0
}

// story streams a long answer; ok says whether it came to its end.
func (s *stand) story() (text string, ok bool) {
	_, body, err := s.try(s.http1, http.MethodPost, "/v1/completions", `{"model":"pimoe-tiny","prompt":"Once upon a time","max_tokens":300,"ignore_eos":true,"temperature":0,"stream":true}`)
	var b strings.Builder
	for line := range strings.Lines(string(body)) {
		var event struct{ Choices []struct{ Text string } }
		if data, found := strings.CutPrefix(line, "data: {"); found && json.Unmarshal([]byte("{"+data), &event) == nil && len(event.Choices) > 0 {
			b.WriteString(event.Choices[0].Text)
		}
	}
	return b.String(), err == nil && strings.Contains(string(body), "data: [DONE]")
}

// kill ends one of two hosts with SIGKILL under load. Requests that were not on it do not notice: streams of the other
// one have their whole text, what fails was on the dead one, and one retry of the client is always answered.
func (s *stand) kill(t *testing.T) {
	want, ok := s.story()
	if !ok || want == "" {
		t.Fatalf("a story without a fault: %q", want)
	}
	for round := range repetitions() {
		victim := s.hosts[round%len(s.hosts)]
		l := s.load(perSecond())
		const streams = 6
		var cut, wrong atomic.Int64
		var telling sync.WaitGroup
		for range streams {
			telling.Go(func() {
				text, ok := s.story()
				if !ok {
					cut.Add(1)
				}
				if ok && text != want || !strings.HasPrefix(want, text) {
					wrong.Add(1)
				}
			})
		}
		eventually(t, "both hosts work on streams", func() bool { return s.hosts[0].inFlight(t) >= 2 && s.hosts[1].inFlight(t) >= 2 })
		at := victim.inFlight(t)
		victim.cmd.Process.Kill()
		<-victim.exited
		telling.Wait()
		time.Sleep(time.Second / 2) // of load on the host that is left
		l.end()
		victim.start(t)
		t.Logf("measured: %d requests at %d/s, killed with %d in flight: %d failed, %d of these again; %d of %d streams cut", l.sent, perSecond(), at, l.first, l.second, cut.Load(), streams)
		if l.second > 0 || wrong.Load() > 0 {
			t.Errorf("failed twice: %d, wrong texts: %d; %q", l.second, wrong.Load(), l.reasons)
		}
		if most := at + perSecond()/10; l.first > most || int(cut.Load()) > at { // some may have come between the look and the kill
			t.Errorf("%d requests failed and %d streams were cut with %d in flight: %q", l.first, cut.Load(), at, l.reasons)
		}
		if cut.Load() == streams {
			t.Error("every stream was cut, those of the other host, too")
		}
	}
}

// roll restarts both hosts one after the other under load: nobody notices.
func (s *stand) roll(t *testing.T) {
	for range repetitions() {
		l := s.load(perSecond())
		for _, h := range s.hosts {
			h.terminate(t)
			h.start(t)
		}
		l.end()
		t.Logf("measured: %d requests at %d/s during a rolling restart: %d failed", l.sent, perSecond(), l.first)
		if l.first > 0 || l.sent < 10 {
			t.Errorf("of %d requests %d failed: %q", l.sent, l.first, l.reasons)
		}
	}
}

// upstream is a host that says what it is told to.
func upstream(t *testing.T, answer http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// TestLimit: who asks too often gets 429 in the shape of the route, with Retry-After; health is not counted.
func TestLimit(t *testing.T) {
	v := values()
	v.Limits.RatePerMinute = 5
	s := newStand(t, v, nil, upstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	limited := 0
	for i := range 20 {
		if resp, _ := s.do(t, http.MethodGet, "/livez", ""); resp.StatusCode != http.StatusOK {
			t.Fatalf("health %d: %s", i, resp.Status)
		}
		resp, body := s.do(t, http.MethodPost, "/v1/completions", "{}")
		if resp.StatusCode == http.StatusOK {
			continue
		}
		limited++
		if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "12" || !strings.Contains(string(body), `"code":"rate_limit_exceeded"`) || !json.Valid(body) {
			t.Errorf("%s %v %s", resp.Status, resp.Header, body)
		}
	}
	if limited < 10 || limited > 15 { // a minute's worth is let through
		t.Errorf("of 20 requests %d were refused", limited)
	}
}

// TestNextHost: a host that is stopping or has no room says 503, and another one is asked; what changes something is not
// sent twice; and when no host is left the answer says so.
func TestNextHost(t *testing.T) {
	var busy, well atomic.Int64
	full := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		busy.Add(1)
		if r.URL.Path == "/api/v1/jobs" { // it has taken the job when it dies
			c, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				c.Close()
			}
			return
		}
		w.Header().Set("Retry-After", "7")
		http.Error(w, "full", http.StatusServiceUnavailable)
	})
	forwarded := make(chan string, 1)
	room := upstream(t, func(w http.ResponseWriter, r *http.Request) {
		well.Add(1)
		select {
		case forwarded <- r.Header.Get("X-Forwarded-For") + " " + r.Header.Get("X-Forwarded-Proto"):
		default:
		}
		fmt.Fprint(w, "ok")
	})
	s := newStand(t, values(), nil, full, room)
	for range 10 {
		if resp, body := s.do(t, http.MethodPost, "/v1/completions", "{}", "X-Forwarded-For", "1.2.3.4"); resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", resp.Status, body)
		}
	}
	if busy.Load() == 0 || well.Load() != 10 {
		t.Errorf("the full host was asked %d times, the other one %d", busy.Load(), well.Load())
	}
	if got := <-forwarded; got != "127.0.0.1 https" && got != "::1 https" {
		t.Errorf("the host is told that %s asks", got)
	}
	busy.Store(0)
	well.Store(0)
	for range 10 {
		s.do(t, http.MethodPost, "/api/v1/jobs", "{}")
	}
	if sum := busy.Load() + well.Load(); sum != 10 || busy.Load() == 0 {
		t.Errorf("ten jobs came %d times to hosts, %d of them to the one that dies", sum, busy.Load())
	}

	s = newStand(t, values(), nil, full)
	if resp, body := s.do(t, http.MethodPost, "/v1/completions", "{}"); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "7" || string(body) != "full\n" {
		t.Errorf("all hosts are full: %s %v %s", resp.Status, resp.Header, body)
	}
	s = newStand(t, values(), nil, "127.0.0.1:"+strconv.Itoa(freePort(t)))
	for range 3 { // it is not forgotten either
		if resp, body := s.do(t, http.MethodPost, "/v1/completions", "{}"); resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") != "1" || !strings.Contains(string(body), "no host can be reached") {
			t.Errorf("no host: %s %v %s", resp.Status, resp.Header, body)
		}
	}
}

// TestFarCaches: in several regions a CDN may keep what is the same for everybody, and nothing else.
func TestFarCaches(t *testing.T) {
	v := values()
	v.Profile = deploy.MultiRegion
	s := newStand(t, v, nil, upstream(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") }))
	for path, want := range map[string]bool{"/console": true, "/console/app.js": true, "/v1/models": false, "/v1/completions": false, "/metrics": false} {
		resp, _ := s.do(t, http.MethodGet, path, "")
		if got := resp.Header.Get("CDN-Cache-Control") != ""; got != want || resp.Header.Get("Pimoe-Region") != v.Region {
			t.Errorf("%s: %v", path, resp.Header)
		}
	}
}
