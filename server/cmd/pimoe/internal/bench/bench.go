// Package bench measures how fast engines answer: prompt and decode throughput, time to the first token, time between
// tokens, and the isolation tax, which compares two engines in alternating rounds of one run.
//
// The bench command uses it. Prompts are random and all different, nothing is reused, and a warm-up is left out. It
// refuses to compare figures of different runs.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
	"gonum.org/v1/gonum/stat"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
)

// Engine is what the package needs of *engine.Engine.
type Engine interface {
	Submit(ctx context.Context, r engine.Request) (engine.Stream, error)
}

// The two ways to run experts that a tax compares.
const (
	Process = "process"
	InProc  = "inproc"
)

// Target is one engine to measure.
type Target struct {
	Isolation string
	Engine    Engine
}

// Options say what to measure.
type Options struct {
	Prompt, Gen int   // tokens of each request
	Parallel    []int // requests at once, one Result each
	Vocab       int   // prompts are drawn from 0..Vocab-1
	Rounds      int   // measured ones; each target runs once in each
	Seed        uint64
	Progress    func(done, total int) // may be nil
}

// Percentiles are in milliseconds.
type Percentiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

// Result is the outcome for one number of parallel requests and one target. Rates are medians over the rounds.
type Result struct {
	Parallel   int         `json:"parallel"`
	Isolation  string      `json:"isolation"`
	PrefillTPS float64     `json:"prefill_tps"` // prompt tokens a second, from the first submit to the last first token
	DecodeTPS  float64     `json:"decode_tps"`  // tokens a second of all requests while all of them decode
	TTFT       float64     `json:"ttft_ms"`     // median
	ITL        Percentiles `json:"itl_ms"`
	// Tax is 1 - process/inproc of the decode rate, the median over the rounds; nil unless both ran. It stands with
	// the process result.
	Tax        *float64 `json:"tax"`
	PrefillTax *float64 `json:"prefill_tax"`
}

// Run measures all targets, in turn within each round, so that a change of the machine's speed meets all of them.
func Run(ctx context.Context, targets []Target, o Options) ([]Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	total, done := len(o.Parallel)*(o.Rounds+1)*len(targets), 0
	var results []Result
	for _, p := range o.Parallel {
		samples := make([][]sample, len(targets))
		for round := -1; round < o.Rounds; round++ { // round -1 is the warm-up
			for i, t := range targets {
				s, err := measure(ctx, t.Engine, p, round, o)
				if err != nil {
					return nil, fmt.Errorf("%d requests, isolation %s: %w", p, t.Isolation, err)
				}
				if round >= 0 {
					samples[i] = append(samples[i], s)
				}
				if done++; o.Progress != nil {
					o.Progress(done, total)
				}
			}
		}
		results = append(results, summarise(p, targets, samples)...)
	}
	return results, nil
}

func (o Options) check() error {
	switch {
	case o.Prompt < 1 || o.Gen < 2 || o.Rounds < 1 || o.Vocab < 1:
		return fmt.Errorf("bench: prompts of %d tokens and %d new ones in %d rounds: want at least 1, 2 and 1: %w", o.Prompt, o.Gen, o.Rounds, sdk.ErrInvalid)
	case len(o.Parallel) == 0 || slices.Min(o.Parallel) < 1:
		return fmt.Errorf("bench: parallel requests %v: want numbers from 1: %w", o.Parallel, sdk.ErrInvalid)
	}
	return nil
}

// sample is one round of one target.
type sample struct {
	prefill, decode float64         // tokens a second
	ttft            []time.Duration // one for each request
	itl             []time.Duration
}

// run is one request: when its tokens came.
type run struct {
	submitted time.Time
	tokens    []time.Time
}

// measure sends p requests at once and waits for all.
func measure(ctx context.Context, eng Engine, p, round int, o Options) (sample, error) {
	runs := make([]run, p)
	wait, ctx := errgroup.WithContext(ctx)
	for i := range runs {
		prompt := randomPrompt(o, p, round, i)
		wait.Go(func() error { return runs[i].do(ctx, eng, i, prompt, o.Gen) })
	}
	if err := wait.Wait(); err != nil {
		return sample{}, err
	}
	return sampleOf(runs, o.Prompt), nil
}

// randomPrompt depends on everything, so that no two requests of a run share a prefix worth reusing, while both
// targets get the same prompts.
func randomPrompt(o Options, p, round, i int) []int32 {
	rng := rand.New(rand.NewPCG(o.Seed, uint64(p)<<32|uint64(round+1)<<16|uint64(i)))
	ids := make([]int32, o.Prompt)
	for j := range ids {
		ids[j] = rng.Int32N(int32(o.Vocab))
	}
	return ids
}

func (r *run) do(ctx context.Context, eng Engine, i int, prompt []int32, gen int) error {
	r.tokens = make([]time.Time, 0, gen)
	r.submitted = time.Now()
	stream, err := eng.Submit(ctx, engine.Request{
		ID: "bench-" + strconv.Itoa(i), Prompt: prompt, MaxTokens: gen, IgnoreEOS: true, Logprobs: -1, NoReuse: true,
	})
	if err != nil {
		return err
	}
	defer stream.Close()
	for {
		t, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if t.HasToken {
			r.tokens = append(r.tokens, time.Now())
		}
	}
	if len(r.tokens) != gen {
		return fmt.Errorf("request %d got %d of %d tokens: %w", i, len(r.tokens), gen, sdk.ErrInvalidOutput)
	}
	return nil
}

// sampleOf computes the rates. Decoding is measured where all requests decode: from the last first token to the first
// last one. Where there is no such time, because early requests end while late prompts are still computed, it is
// measured from the last first token to the end.
func sampleOf(runs []run, prompt int) sample {
	start, from := runs[0].submitted, runs[0].tokens[0]
	to, end := runs[0].tokens[len(runs[0].tokens)-1], runs[0].tokens[len(runs[0].tokens)-1]
	var s sample
	for _, r := range runs {
		first, last := r.tokens[0], r.tokens[len(r.tokens)-1]
		s.ttft = append(s.ttft, first.Sub(r.submitted))
		if r.submitted.Before(start) {
			start = r.submitted
		}
		if first.After(from) {
			from = first
		}
		if last.Before(to) {
			to = last
		}
		if last.After(end) {
			end = last
		}
	}
	if !to.After(from) {
		to = end
	}
	s.prefill = rate(prompt*len(runs), from.Sub(start))
	count := 0
	for _, r := range runs {
		for i := 1; i < len(r.tokens); i++ {
			if t := r.tokens[i]; t.After(from) && !t.After(to) {
				count++
				s.itl = append(s.itl, t.Sub(r.tokens[i-1]))
			}
		}
	}
	s.decode = rate(count, to.Sub(from))
	return s
}

// rate is n a second; 0 where no time has passed.
func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

func summarise(p int, targets []Target, samples [][]sample) []Result {
	out := make([]Result, len(targets))
	for i, t := range targets {
		var prefill, decode, ttft, itl []float64
		for _, s := range samples[i] {
			prefill, decode = append(prefill, s.prefill), append(decode, s.decode)
			ttft, itl = append(ttft, millis(s.ttft)...), append(itl, millis(s.itl)...)
		}
		out[i] = Result{Parallel: p, Isolation: t.Isolation, PrefillTPS: quantile(.5, prefill), DecodeTPS: quantile(.5, decode),
			TTFT: quantile(.5, ttft), ITL: Percentiles{quantile(.5, itl), quantile(.95, itl), quantile(.99, itl)}}
	}
	tax(out, samples)
	return out
}

// tax compares the process target with the in-process one, round by round.
func tax(results []Result, samples [][]sample) {
	at := func(isolation string) int {
		return slices.IndexFunc(results, func(r Result) bool { return r.Isolation == isolation })
	}
	isolated, direct := at(Process), at(InProc)
	if isolated < 0 || direct < 0 {
		return
	}
	var decode, prefill []float64
	for round := range samples[isolated] {
		a, b := samples[isolated][round], samples[direct][round]
		if b.decode > 0 && b.prefill > 0 {
			decode, prefill = append(decode, 1-a.decode/b.decode), append(prefill, 1-a.prefill/b.prefill)
		}
	}
	if len(decode) > 0 {
		d, p := quantile(.5, decode), quantile(.5, prefill)
		results[isolated].Tax, results[isolated].PrefillTax = &d, &p
	}
}

// quantile is the empirical quantile; 0 of nothing.
func quantile(q float64, xs []float64) float64 {
	if len(xs) == 0 {
		return 0
	}
	xs = slices.Sorted(slices.Values(xs))
	return stat.Quantile(q, stat.Empirical, xs, nil)
}

func millis(ds []time.Duration) []float64 {
	out := make([]float64, len(ds))
	for i, d := range ds {
		out[i] = float64(d) / float64(time.Millisecond)
	}
	return out
}
