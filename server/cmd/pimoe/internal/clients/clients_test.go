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
