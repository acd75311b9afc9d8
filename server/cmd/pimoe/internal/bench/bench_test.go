package bench

import (
	"context"
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/sdk"
)

// instant is an engine that answers at once and remembers what it was asked.
type instant struct {
	mu      sync.Mutex // guards prompts
	prompts [][]int32
	short   int // tokens to leave out
}

func (e *instant) Submit(_ context.Context, r engine.Request) (engine.Stream, error) {
	if !r.NoReuse || !r.IgnoreEOS {
		return nil, sdk.ErrInvalid
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.prompts = append(e.prompts, r.Prompt)
	return &tokens{left: r.MaxTokens - e.short}, nil
}

type tokens struct{ left int }

func (s *tokens) Next(context.Context) (engine.Token, error) {
	if s.left == 0 {
		return engine.Token{}, io.EOF
	}
	s.left--
	return engine.Token{HasToken: true}, nil
}
func (s *tokens) Usage() engine.Usage { return engine.Usage{} }
func (s *tokens) Close()              {}

func TestRun(t *testing.T) {
	a, b := &instant{}, &instant{}
	var steps []int
	results, err := Run(context.Background(), []Target{{Process, a}, {InProc, b}}, Options{
		Prompt: 5, Gen: 4, Parallel: []int{1, 3}, Vocab: 1000, Rounds: 2, Seed: 7, Progress: func(done, total int) { steps = append(steps, done, total) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 4 || results[0].Isolation != Process || results[1].Isolation != InProc || results[2].Parallel != 3 {
		t.Errorf("%+v", results)
	}
	for _, r := range results {
		if (r.Isolation == Process) != (r.Tax != nil && r.PrefillTax != nil) || r.PrefillTPS <= 0 || r.TTFT <= 0 {
			t.Errorf("%+v", r)
		}
	}
	const requests = (1 + 3) * 3 // a warm-up and two rounds
	if len(a.prompts) != requests || len(steps) != 2*12 || steps[len(steps)-2] != 12 || steps[len(steps)-1] != 12 {
		t.Errorf("%d prompts, progress %v", len(a.prompts), steps)
	}
	seen := map[[5]int32]bool{}
	for _, p := range a.prompts {
		if key := [5]int32(p); seen[key] {
			t.Errorf("prompt %v twice", p)
		} else {
			seen[key] = true
		}
	}
	for _, p := range b.prompts { // requests of one round come in any order
		if !seen[[5]int32(p)] {
			t.Errorf("the targets got different prompts: %v", p)
		}
	}
}

func TestRefusals(t *testing.T) {
	good := Options{Prompt: 1, Gen: 2, Parallel: []int{1}, Vocab: 2, Rounds: 1}
	for _, change := range []func(*Options){
		func(o *Options) { o.Prompt = 0 }, func(o *Options) { o.Gen = 1 }, func(o *Options) { o.Rounds = 0 },
		func(o *Options) { o.Parallel = nil }, func(o *Options) { o.Parallel = []int{1, 0} },
	} {
		o := good
		change(&o)
		if _, err := Run(context.Background(), []Target{{Process, &instant{}}}, o); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
	if _, err := Run(context.Background(), []Target{{Process, &instant{short: 1}}}, good); !errors.Is(err, sdk.ErrInvalidOutput) {
		t.Errorf("an engine that stops early: %v", err)
	}
}

// at makes a run from milliseconds: the submit, then the tokens.
func at(ms ...int) run {
	base := time.Unix(1000, 0)
	r := run{submitted: base.Add(time.Duration(ms[0]) * time.Millisecond)}
	for _, m := range ms[1:] {
		r.tokens = append(r.tokens, base.Add(time.Duration(m)*time.Millisecond))
	}
	return r
}

func TestSampleOf(t *testing.T) {
	// Two requests of 10 prompt tokens; first tokens at 100 and 200 ms, both decode from 200 to 400 ms.
	s := sampleOf([]run{at(0, 100, 150, 250, 300, 400), at(10, 200, 260, 320, 380, 500)}, 10)
	if s.prefill != 100 { // 20 tokens in 200 ms
		t.Errorf("prefill %v", s.prefill)
	}
	if s.decode != 30 { // 250 300 400, 260 320 380: 6 tokens in 200 ms
		t.Errorf("decode %v", s.decode)
	}
	if !slices.Equal(millis(s.ttft), []float64{100, 190}) || !slices.Equal(millis(s.itl), []float64{100, 50, 100, 60, 60, 60}) {
		t.Errorf("ttft %v itl %v", s.ttft, s.itl)
	}
	// The first request ends before the second has its first token: measured from there to the end.
	s = sampleOf([]run{at(0, 10, 20), at(0, 100, 200)}, 1)
	if s.decode != 10 {
		t.Errorf("decode without a common time: %v", s.decode)
	}
}

func TestTaxIsMedianOfRounds(t *testing.T) {
	samples := [][]sample{
		{{prefill: 50, decode: 90}, {prefill: 50, decode: 50}, {prefill: 50, decode: 95}},
		{{prefill: 100, decode: 100}, {prefill: 100, decode: 100}, {prefill: 100, decode: 100}},
	}
	rs := summarise(1, []Target{{Isolation: Process}, {Isolation: InProc}}, samples)
	if rs[0].Tax == nil || math.Abs(*rs[0].Tax-0.1) > 1e-12 || math.Abs(*rs[0].PrefillTax-0.5) > 1e-12 || rs[1].Tax != nil {
		t.Errorf("%+v", rs)
	}
	if rs[0].DecodeTPS != 90 || rs[0].PrefillTPS != 50 {
		t.Errorf("medians: %+v", rs[0])
	}
}
