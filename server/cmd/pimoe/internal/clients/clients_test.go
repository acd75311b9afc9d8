package clients

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// server streams as many tokens as it is asked for; every request whose prompt it has seen before, and every one that
// refuse names, fails.
type server struct {
	mu     sync.Mutex // guards seen
	seen   map[string]bool
	refuse int // the n-th request, from 1; 0 = none
	short  int // tokens to leave out
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Model, Prompt string
		Max           int  `json:"max_tokens"`
		Ignore        bool `json:"ignore_eos"`
		Stream        bool
	}
	err := json.NewDecoder(r.Body).Decode(&in)
	s.mu.Lock()
	again := s.seen[in.Prompt]
	s.seen[in.Prompt] = true
	n := len(s.seen)
	s.mu.Unlock()
	if err != nil || again || n == s.refuse || in.Model != "m" || !in.Ignore || !in.Stream || r.Header.Get("Authorization") != "Bearer k" {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	for range in.Max - s.short {
		fmt.Fprintf(w, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n")
		w.(http.Flusher).Flush()
	}
	fmt.Fprintf(w, "data: {\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n",
		len(strings.Fields(in.Prompt)), in.Max-s.short)
}

func load(t *testing.T, s *server, o Options) Result {
	t.Helper()
	s.seen = map[string]bool{}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	o.URL, o.Model, o.Key, o.Timeout = srv.URL, "m", "k", time.Minute
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRun(t *testing.T) {
	r := load(t, &server{}, Options{Clients: 4, Requests: 3, Words: 5, Max: 7, Seed: 1})
	if r.Requests != 12 || r.Failed != 0 || r.PromptTokens != 12*5 || r.Written != 12*7 || r.WrittenTPS <= 0 {
		t.Errorf("%+v", r)
	}
	if r.TTFT.P50 <= 0 || r.TTFT.Max < r.TTFT.P99 || r.Gap.P99 < r.Gap.P50 || r.Gap.Max <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestFailuresCount(t *testing.T) {
	if r := load(t, &server{refuse: 2}, Options{Clients: 2, Requests: 2, Words: 3, Max: 2}); r.Requests != 3 || r.Failed != 1 || !strings.Contains(r.FirstError, "400") {
		t.Errorf("%+v", r)
	}
	if r := load(t, &server{short: 1}, Options{Clients: 1, Requests: 2, Words: 3, Max: 2}); r.Failed != 2 || !strings.Contains(r.FirstError, "1 of 2") {
		t.Errorf("%+v", r)
	}
}

func TestRefusals(t *testing.T) {
	if _, err := Run(t.Context(), Options{Clients: 1, Requests: 1, Words: 0, Max: 1}); !errors.Is(err, sdk.ErrInvalid) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, Options{URL: "http://127.0.0.1:1", Clients: 1, Requests: 1, Words: 1, Max: 1}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// moody answers every third request, refuses every third with a time to come again and every third without.
type moody struct {
	mu sync.Mutex // guards n
	n  int
}

func (m *moody) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.mu.Lock()
	m.n++
	n := m.n
	m.mu.Unlock()
	switch n % 3 {
	case 0:
		fmt.Fprint(w, `{"choices":[{"text":"a"}],"usage":{"prompt_tokens":5,"completion_tokens":7}}`)
	case 1:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	default:
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

// Arrivals come at their rate, whatever becomes of them; each attempt is counted once, and so is what it got.
func TestOpen(t *testing.T) {
	srv := httptest.NewServer(&moody{})
	defer srv.Close()
	o := Options{URL: srv.URL, Model: "m", Words: 2, Max: 7, Timeout: time.Minute, Seed: 3}
	got, err := Open(t.Context(), o, []Arrivals{{Name: "a", Rate: 200, Retries: 2}, {Name: "b", Burst: 30}}, 500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	a, b, all := got[0], got[1], Join("all", got)
	if a.Offered < 60 || a.Offered > 150 || b.Offered != 30 || b.Attempts != 30 || a.Attempts < a.Offered {
		t.Errorf("%+v\n%+v", a, b)
	}
	for _, o := range []Outcome{a, b, all} {
		if o.Done+o.Refused != o.Attempts || o.Failed != 0 || o.Tokens != 12*o.Done || o.Untold == 0 || o.Untold > o.Refused || o.Answer.Max < o.Answer.P50 || o.Refusal.P50 <= 0 {
			t.Errorf("%+v", o)
		}
	}
	if all.Attempts != a.Attempts+b.Attempts || all.Done < all.Attempts/3-1 {
		t.Errorf("%+v", all)
	}
	o.Max = 8 // not what the server writes
	if got, err := Open(t.Context(), o, []Arrivals{{Burst: 3}}, time.Millisecond); err != nil || got[0].Failed == 0 || got[0].Done > 0 || got[0].FirstError == "" {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := Open(t.Context(), Options{}, nil, time.Second); !errors.Is(err, sdk.ErrInvalid) {
		t.Error(err)
	}
}
