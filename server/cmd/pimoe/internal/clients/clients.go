// Package clients loads a server with streaming requests of OpenAI's completions API and measures what each client
// sees: the time to the first token, the time between tokens, tokens a second over all.
//
// The command bench http uses it, on our server or on another one. It refuses to follow redirects and to trust what a
// server counts: a request is good when as many tokens were written as were asked for.
package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/gonum/stat"

	"github.com/pimoe/pimoe/sdk"
)

// Options say what the clients ask.
type Options struct {
	URL      string // of the completions endpoint
	Model    string
	Key      string // API key; empty = none
	Clients  int    // that start together
	Requests int    // of each client, one after the other
	Words    int    // of four letters in a prompt
	Max      int    // tokens to write
	Seed     int64  // of the prompts, which are all different
	Timeout  time.Duration
}

// Percentiles are in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// Result is the outcome of one load.
type Result struct {
	Clients      int         `json:"clients"`
	Requests     int         `json:"requests"`
	Failed       int         `json:"failed"`
	FirstError   string      `json:"first_error,omitempty"`
	PromptTokens int         `json:"prompt_tokens"`
	Written      int         `json:"written_tokens"`
	WrittenTPS   float64     `json:"written_tps"` // of all clients, from the first request to the last answer
	TTFT         Percentiles `json:"ttft_ms"`
	Gap          Percentiles `json:"gap_ms"` // between two events of one stream
}

// answer is what one request saw.
type answer struct {
	first           time.Duration
	gaps            []time.Duration
	prompt, written int
	err             error
}

// Run sends all requests and waits for the answers. Requests that fail are counted; only a load that could not start
// is an error.
func Run(ctx context.Context, o Options) (Result, error) {
	if o.Clients < 1 || o.Requests < 1 || o.Words < 1 || o.Max < 1 {
		return Result{}, fmt.Errorf("%d clients with %d requests of %d words and %d tokens: want at least one of each: %w", o.Clients, o.Requests, o.Words, o.Max, sdk.ErrInvalid)
	}
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true}, Timeout: o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answers := make([][]answer, o.Clients)
	var all errgroup.Group
	start := time.Now()
	for i := range answers {
		rng := rand.New(rand.NewSource(o.Seed*1000 + int64(i)))
		all.Go(func() error {
			for range o.Requests {
				answers[i] = append(answers[i], o.ask(ctx, client, prompt(rng, o.Words)))
			}
			return nil
		})
	}
	err := all.Wait()
	return summarise(o, slices.Concat(answers...), time.Since(start)), errors.Join(err, ctx.Err())
}

// prompt is words of four random letters.
func prompt(rng *rand.Rand, words int) string {
	var b strings.Builder
	for i := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		for range 4 {
			b.WriteByte(byte('a' + rng.Intn(26)))
		}
	}
	return b.String()
}

// ask sends one request and reads its stream to the end.
func (o Options) ask(ctx context.Context, client *http.Client, text string) (a answer) {
	body, err := json.Marshal(map[string]any{
		"model": o.Model, "prompt": text, "max_tokens": o.Max, "temperature": 0, "stream": true, "ignore_eos": true,
		"stream_options": map[string]any{"include_usage": true},
	})
	if err != nil {
		return answer{err: err}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.URL, bytes.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Cache-Control", "no-store") // a kept answer says nothing about speed
	if o.Key != "" {
		r.Header.Set("Authorization", "Bearer "+o.Key)
	}
	start := time.Now()
	resp, err := client.Do(r)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer{err: fmt.Errorf("status %s", resp.Status)}
	}
	if a.err = a.read(bufio.NewScanner(resp.Body), start); a.err == nil && a.written != o.Max {
		a.err = fmt.Errorf("%d of %d tokens: %w", a.written, o.Max, sdk.ErrInvalidOutput)
	}
	return a
}

// event is what a server sends as one piece of a completion.
type event struct {
	Choices []struct {
		Text         string  `json:"text"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Prompt  int `json:"prompt_tokens"`
		Written int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

// longest line of a stream that is read.
const longest = 1 << 20

// read notes when each event came that carries a token.
func (a *answer) read(lines *bufio.Scanner, start time.Time) error {
	lines.Buffer(nil, longest)
	last, events := start, 0
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var e event
		if err := json.Unmarshal([]byte(data), &e); err != nil || e.Error != nil {
			return fmt.Errorf("event %.200q: %w", data, sdk.ErrInvalidOutput)
		}
		if e.Usage != nil {
			a.prompt, a.written = e.Usage.Prompt, e.Usage.Written
		}
		if len(e.Choices) == 0 || e.Choices[0].FinishReason != nil && e.Choices[0].Text == "" {
			continue
		}
		now := time.Now()
		if events == 0 {
			a.first = now.Sub(start)
		} else {
			a.gaps = append(a.gaps, now.Sub(last))
		}
		last = now
		events++
	}
	return lines.Err()
}

func summarise(o Options, answers []answer, wall time.Duration) Result {
	r := Result{Clients: o.Clients}
	var first, gaps []float64
	for _, a := range answers {
		if a.err != nil {
			if r.Failed++; r.FirstError == "" {
				r.FirstError = a.err.Error()
			}
			continue
		}
		r.Requests++
		r.PromptTokens += a.prompt
		r.Written += a.written
		first = append(first, float64(a.first)/1e6)
		for _, g := range a.gaps {
			gaps = append(gaps, float64(g)/1e6)
		}
	}
	r.WrittenTPS = float64(r.Written) / wall.Seconds()
	r.TTFT, r.Gap = percentiles(first), percentiles(gaps)
	return r
}

func percentiles(xs []float64) Percentiles {
	if len(xs) == 0 {
		return Percentiles{}
	}
	slices.Sort(xs)
	q := func(p float64) float64 { return stat.Quantile(p, stat.Empirical, xs, nil) }
	return Percentiles{q(.5), q(.95), q(.99), xs[len(xs)-1]}
}
