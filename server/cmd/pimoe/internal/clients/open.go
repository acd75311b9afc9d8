package clients

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// Arrivals are the requests of one client that does not wait for answers: they come at random times, so many a second on
// average, whatever becomes of those before them. So a server that is too slow gets no less of them.
type Arrivals struct {
	Name    string
	Key     string // API key; empty = Options.Key
	Rate    float64
	Burst   int // that come at once, at the begin
	Retries int // of a request that is refused or fails, at once, whatever Retry-After says
}

// Outcome is what became of the requests of one Arrivals.
type Outcome struct {
	Name       string      `json:"name"`
	Offered    int         `json:"offered"`
	Attempts   int         `json:"attempts"`
	Done       int         `json:"done"`
	Refused    int         `json:"refused"` // attempts that got 429 or 503
	Untold     int         `json:"untold"`  // of these, without a time to come again
	Late       int         `json:"late"`    // attempts that got 504
	Failed     int         `json:"failed"`  // attempts that got anything else
	FirstError string      `json:"first_error,omitempty"`
	Goodput    float64     `json:"goodput"` // done a second, of those that ended within the time of arrivals
	Tokens     int         `json:"tokens"`  // of answers and their prompts
	Answer     Percentiles `json:"answer_ms"`
	Refusal    Percentiles `json:"refusal_ms"`

	answer, refusal []float64 // milliseconds, sorted
}

// Join is the outcome of several Arrivals together.
func Join(name string, list []Outcome) Outcome {
	all := Outcome{Name: name}
	for _, o := range list {
		all.Offered, all.Attempts, all.Done, all.Refused = all.Offered+o.Offered, all.Attempts+o.Attempts, all.Done+o.Done, all.Refused+o.Refused
		all.Untold, all.Late, all.Failed, all.Tokens = all.Untold+o.Untold, all.Late+o.Late, all.Failed+o.Failed, all.Tokens+o.Tokens
		all.FirstError = cmp.Or(all.FirstError, o.FirstError)
		all.Goodput += o.Goodput
		all.answer, all.refusal = append(all.answer, o.answer...), append(all.refusal, o.refusal...)
	}
	all.Answer, all.Refusal = percentiles(all.answer), percentiles(all.refusal)
	return all
}

// attempt is what one HTTP request saw.
type attempt struct {
	status int
	told   bool // when to come again
	tokens int
	took   time.Duration
	err    error
}

// Open sends all arrivals for so long and waits for the answers. Times count from when a request should have been sent, so that
// a client that falls behind hides nothing.
func Open(ctx context.Context, o Options, list []Arrivals, d time.Duration) ([]Outcome, error) {
	if o.Words < 1 || o.Max < 1 || d <= 0 {
		return nil, fmt.Errorf("arrivals of %d words and %d tokens for %s: want more than nothing: %w", o.Words, o.Max, d, sdk.ErrInvalid)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 1000, IdleConnTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	out := make([]Outcome, len(list))
	var all sync.WaitGroup
	for i, a := range list {
		if a.Key == "" {
			a.Key = o.Key
		}
		all.Go(func() { out[i] = o.arrive(ctx, client, a, d, o.Seed*1000+int64(i)) })
	}
	all.Wait()
	return out, ctx.Err()
}

// record collects the attempts of one Arrivals.
type record struct {
	mu     sync.Mutex // guards what follows, but for out.Offered
	out    Outcome
	inTime int
}

func (o Options) arrive(ctx context.Context, client *http.Client, a Arrivals, d time.Duration, seed int64) Outcome {
	rng := rand.New(rand.NewSource(seed))
	r := &record{out: Outcome{Name: a.Name}}
	began := time.Now()
	var all sync.WaitGroup
	send := func(due time.Time) {
		text := prompt(rng, o.Words)
		r.out.Offered++ // by this goroutine alone
		all.Go(func() { o.insist(ctx, client, a, text, due, began.Add(d), r) })
	}
	for range a.Burst {
		send(began)
	}
	for at := began; a.Rate > 0; {
		at = at.Add(time.Duration(rng.ExpFloat64() / a.Rate * float64(time.Second)))
		if at.Sub(began) > d || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Until(at))
		send(at)
	}
	all.Wait()
	r.out.Goodput = float64(r.inTime) / d.Seconds()
	r.out.Answer, r.out.Refusal = percentiles(r.out.answer), percentiles(r.out.refusal)
	return r.out
}

// insist sends one request, and again as often as it may while it has no answer.
func (o Options) insist(ctx context.Context, client *http.Client, a Arrivals, text string, due, end time.Time, r *record) {
	for try := 0; try <= a.Retries && ctx.Err() == nil; try++ {
		t := o.post(ctx, client, a.Key, text, due)
		r.add(t, end)
		if t.status == http.StatusOK {
			return
		}
		due = time.Now()
	}
}

func (r *record) add(t attempt, end time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out.Attempts++
	ms := float64(t.took) / 1e6
	switch t.status {
	case http.StatusOK:
		r.out.Done++
		r.out.Tokens += t.tokens
		r.out.answer = append(r.out.answer, ms)
		if time.Now().Before(end) {
			r.inTime++
		}
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		r.out.Refused++
		r.out.refusal = append(r.out.refusal, ms)
		if !t.told {
			r.out.Untold++
		}
	case http.StatusGatewayTimeout:
		r.out.Late++
	default:
		if r.out.Failed++; r.out.FirstError == "" {
			r.out.FirstError = fmt.Sprintf("status %d, %v", t.status, t.err)
		}
	}
}

// post sends one request for a whole answer.
func (o Options) post(ctx context.Context, client *http.Client, key, text string, due time.Time) (t attempt) {
	defer func() { t.took = time.Since(due) }()
	body, err := json.Marshal(map[string]any{"model": o.Model, "prompt": text, "max_tokens": o.Max, "temperature": 0, "ignore_eos": true})
	if err != nil {
		return attempt{err: err}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.URL, bytes.NewReader(body))
	if err != nil {
		return attempt{err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	resp, err := client.Do(r)
	if err != nil {
		return attempt{err: err}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, longest))
	if err != nil {
		return attempt{err: err}
	}
	t.status = resp.StatusCode
	if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
		t.told = true
	}
	if t.status == http.StatusOK {
		var said event
		if err := json.Unmarshal(answer, &said); err != nil || said.Usage == nil || said.Usage.Written != o.Max {
			return attempt{err: errors.Join(sdk.ErrInvalidOutput, err)}
		}
		t.tokens = said.Usage.Prompt + said.Usage.Written
	}
	return t
}
