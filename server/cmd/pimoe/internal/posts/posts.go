// Package posts measures servers that take hidden states by POST /api/v1/process: clients that each send the same rows one
// request after another and read the whole answer. Sides take turns within each round, so that what the machine does meanwhile
// falls on all of them.
//
// The command bench process uses it. It refuses to count an answer that is not 200 or has no length, and it looks at no
// number in it: whether answers are right is for tests.
package posts

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
	"gonum.org/v1/gonum/stat"

	"github.com/pimoe/pimoe/sdk"
)

// Side is one server, and how it is asked.
type Side struct {
	Name   string `json:"name"`
	URL    string `json:"url"`
	Binary bool   `json:"binary"` // little-endian float32 in both directions instead of JSON
}

// ParseSide reads NAME=URL, or NAME=binary:URL.
func ParseSide(text string) (Side, error) {
	name, url, ok := strings.Cut(text, "=")
	s := Side{Name: name}
	s.URL, s.Binary = strings.CutPrefix(url, "binary:")
	if !ok || name == "" || !strings.HasPrefix(s.URL, "http://") {
		return s, fmt.Errorf("side %q: want NAME=http://HOST:PORT/PATH or NAME=binary:http://HOST:PORT/PATH: %w", text, sdk.ErrInvalid)
	}
	return s, nil
}

// Options are what is measured.
type Options struct {
	Sides   []Side
	Rows    int // of a request
	Hidden  int // numbers in a row
	Clients []int
	Rounds  int
	For     time.Duration // one side in one round, behind Warm
	Warm    time.Duration
	Key     string // API key; empty = none
}

// Result is what one side gave at one number of clients.
type Result struct {
	Side    Side    `json:"side"`
	Clients int     `json:"clients"`
	Rounds  []Round `json:"rounds"`
	// RPS, P50 and P95 are medians over the rounds; Ratio is that of RPS to the first side's, each within its round.
	RPS   float64 `json:"requests_per_second"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	Ratio float64 `json:"ratio"`
	Low   float64 `json:"ratio_low"`
	High  float64 `json:"ratio_high"`
}

// Round is one measurement.
type Round struct {
	RPS float64 `json:"requests_per_second"`
	P50 float64 `json:"p50_ms"`
	P95 float64 `json:"p95_ms"`
}

// Run measures all sides at all numbers of clients. A request that fails ends it.
func Run(ctx context.Context, o Options) ([]Result, error) {
	var out []Result
	for _, clients := range o.Clients {
		results := make([]Result, len(o.Sides))
		for range o.Rounds {
			for i, side := range o.Sides {
				r, err := o.round(ctx, side, clients)
				if err != nil {
					return nil, fmt.Errorf("%s, %d clients: %w", side.Name, clients, err)
				}
				results[i].Side, results[i].Clients = side, clients
				results[i].Rounds = append(results[i].Rounds, r)
			}
		}
		for i := range results {
			results[i].summarise(results[0].Rounds)
		}
		out = append(out, results...)
	}
	return out, nil
}

// summarise takes the medians over the rounds.
func (r *Result) summarise(first []Round) {
	var rps, p50, p95, ratios []float64
	for i, round := range r.Rounds {
		rps, p50, p95 = append(rps, round.RPS), append(p50, round.P50), append(p95, round.P95)
		ratios = append(ratios, round.RPS/first[i].RPS)
	}
	r.RPS, r.P50, r.P95, r.Ratio = median(rps), median(p50), median(p95), median(ratios)
	r.Low, r.High = slices.Min(ratios), slices.Max(ratios)
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return stat.Quantile(.5, stat.Empirical, xs, nil)
}

// body is a request's body: the same standard normal numbers each time.
func (o Options) body(binary bool) ([]byte, error) {
	rng := rand.New(rand.NewPCG(1, 2))
	rows := make([][]float32, o.Rows)
	var raw []byte
	for i := range rows {
		rows[i] = make([]float32, o.Hidden)
		for j := range rows[i] {
			rows[i][j] = float32(rng.NormFloat64())
			bits := math.Float32bits(rows[i][j])
			raw = append(raw, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
		}
	}
	if binary {
		return raw, nil
	}
	return json.Marshal(map[string]any{"input_tensor": [][][]float32{rows}})
}

// round measures one side once.
func (o Options) round(ctx context.Context, side Side, clients int) (Round, error) {
	body, err := o.body(side.Binary)
	if err != nil {
		return Round{}, err
	}
	client := &fasthttp.Client{MaxConnsPerHost: clients, ReadTimeout: time.Minute, WriteTimeout: time.Minute, NoDefaultUserAgentHeader: true}
	defer client.CloseIdleConnections()
	begin := time.Now().Add(o.Warm)
	end := begin.Add(o.For)
	loads := make([]load, clients)
	var all sync.WaitGroup
	for i := range loads {
		all.Go(func() { loads[i].run(ctx, func() error { return o.ask(client, side, body) }, begin, end) })
	}
	all.Wait()
	return join(loads, o.For, ctx.Err())
}

// load is what one client has seen.
type load struct {
	took []float64 // ms
	done int       // within the time
	err  error
}

// run sends requests until the end. One that was begun in the warm-up and ends behind it counts: to leave it out would hide
// the slowest.
func (l *load) run(ctx context.Context, ask func() error, begin, end time.Time) {
	for ctx.Err() == nil && l.err == nil {
		start := time.Now()
		if !start.Before(end) {
			return
		}
		err := ask()
		now := time.Now()
		if l.err = err; err != nil || now.Before(begin) {
			continue
		}
		l.took = append(l.took, now.Sub(start).Seconds()*1e3)
		if now.Before(end) {
			l.done++
		}
	}
}

func join(loads []load, d time.Duration, err error) (Round, error) {
	var took []float64
	done := 0
	for _, l := range loads {
		took, done = append(took, l.took...), done+l.done
		if l.err != nil {
			err = l.err
		}
	}
	if err == nil && len(took) == 0 {
		err = fmt.Errorf("no answer in the time: %w", sdk.ErrDeadline)
	}
	if err != nil {
		return Round{}, err
	}
	slices.Sort(took)
	return Round{RPS: float64(done) / d.Seconds(), P50: stat.Quantile(.5, stat.Empirical, took, nil), P95: stat.Quantile(.95, stat.Empirical, took, nil)}, nil
}

// ask sends one request and reads its answer.
func (o Options) ask(client *fasthttp.Client, side Side, body []byte) error {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	req.SetRequestURI(side.URL)
	req.Header.SetMethod(fasthttp.MethodPost)
	req.Header.SetContentType("application/json")
	if side.Binary {
		req.Header.SetContentType("application/octet-stream")
		req.Header.Set("Accept", "application/octet-stream")
		req.Header.Set("X-Tensor-Shape", fmt.Sprintf("1,%d,%d", o.Rows, o.Hidden))
	}
	if o.Key != "" {
		req.Header.Set("Authorization", "Bearer "+o.Key)
	}
	req.SetBodyRaw(body)
	if err := client.DoTimeout(req, resp, time.Minute); err != nil {
		return err
	}
	if resp.StatusCode() != fasthttp.StatusOK || len(resp.Body()) < o.Rows*o.Hidden {
		return fmt.Errorf("status %d, %d bytes: %.200s: %w", resp.StatusCode(), len(resp.Body()), resp.Body(), sdk.ErrInvalidOutput)
	}
	return nil
}
