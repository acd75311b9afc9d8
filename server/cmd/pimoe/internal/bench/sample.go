package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime/metrics"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// sample is one round of one workload on one target.
type sample struct {
	prefill, decode float64         // tokens a second
	ttft            []time.Duration // one for each request
	itl             []time.Duration
	layer           []time.Duration
	allocs          float64 // objects that this process allocated for a decoded token
}

// moment is when a token came, and how many objects the process had allocated by then.
type moment struct {
	time.Time
	allocs uint64
}

// run is one request: when its tokens came. Only the first and the last know the allocations, because asking costs.
type run struct {
	submitted time.Time
	tokens    []moment
}

// measure runs a workload once. routes, if not nil, is told every route.
func measure(ctx context.Context, eng Engine, w Workload, round int, o Options, routes *census) (sample, error) {
	if w.Layer {
		return measureLayer(ctx, eng, w.Parallel, o)
	}
	runs := make([]run, w.Parallel)
	wait, ctx := errgroup.WithContext(ctx)
	for i := range runs {
		rng := rand.New(rand.NewPCG(o.Seed, uint64(w.Parallel)<<32|uint64(round+1)<<16|uint64(i)))
		prompt := randomIDs(rng, w.Prompt, o.Vocab)
		wait.Go(func() error {
			return runs[i].do(ctx, eng, engine.Request{
				ID: "bench-" + strconv.Itoa(i), Prompt: prompt, MaxTokens: w.Gen, IgnoreEOS: true, Logprobs: -1, NoReuse: true,
				Observe: routes.observer(w.Prompt),
			})
		})
	}
	if err := wait.Wait(); err != nil {
		return sample{}, err
	}
	return sampleOf(runs, w.Prompt), nil
}

// randomIDs are a prompt. It is different in every round and request, so that nothing is worth reusing, and the same for
// all targets. The continuation is the model's own: given tokens would be computed many at a time.
func randomIDs(rng *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = rng.Int32N(int32(vocab))
	}
	return ids
}

func (r *run) do(ctx context.Context, eng Engine, request engine.Request) error {
	r.tokens = make([]moment, 0, request.MaxTokens)
	heap := []metrics.Sample{{Name: "/gc/heap/allocs:objects"}}
	r.submitted = time.Now()
	stream, err := eng.Submit(ctx, request)
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
		if !t.HasToken {
			continue
		}
		m := moment{Time: time.Now()}
		if n := len(r.tokens); n == 0 || n == request.MaxTokens-1 {
			metrics.Read(heap)
			m.allocs = heap[0].Value.Uint64()
		}
		r.tokens = append(r.tokens, m)
	}
	if len(r.tokens) != request.MaxTokens {
		return fmt.Errorf("request %s got %d of %d tokens: %w", request.ID, len(r.tokens), request.MaxTokens, sdk.ErrInvalidOutput)
	}
	return nil
}

// sampleOf computes the rates. Decoding is measured where all requests decode: from the step of the last first token to
// the step of the first last one, each until its last reader has got its token. Where that is no time to speak of,
// because early requests have written most while late prompts were still computed, it is measured to the end.
func sampleOf(runs []run, prompt int) sample {
	start, from, earliest := runs[0].submitted, runs[0].tokens[0], runs[0]
	var s sample
	for _, r := range runs {
		s.ttft = append(s.ttft, r.tokens[0].Sub(r.submitted))
		if r.submitted.Before(start) {
			start = r.submitted
		}
		if r.tokens[0].After(from.Time) {
			from = r.tokens[0]
		}
		if r.last().Before(earliest.last().Time) {
			earliest = r
		}
	}
	s.prefill = rate(prompt*len(runs), from.Sub(start))
	steps := len(earliest.after(from))
	if 2*steps < len(earliest.tokens)-1 {
		steps = math.MaxInt
	}
	count, to := 0, from
	for _, r := range runs {
		common := r.after(from)
		first := len(r.tokens) - len(common)
		common = common[:min(steps, len(common))]
		count += len(common)
		for i, t := range common {
			s.itl = append(s.itl, t.Sub(r.tokens[first+i-1].Time))
		}
		if n := len(common); n > 0 && common[n-1].After(to.Time) {
			to = common[n-1]
		}
	}
	s.decode = rate(count, to.Sub(from.Time))
	if until := earliest.last(); count > 0 && until.allocs > from.allocs {
		s.allocs = float64(until.allocs-from.allocs) / float64(count)
	}
	return s
}

func (r run) last() moment { return r.tokens[len(r.tokens)-1] }

// after are the tokens that came later.
func (r run) after(m moment) []moment {
	i := slices.IndexFunc(r.tokens, func(t moment) bool { return t.After(m.Time) })
	if i < 0 {
		return nil
	}
	return r.tokens[i:]
}

// rate is n a second; 0 where no time has passed.
func rate(n int, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// layerCalls are the calls of one sample: enough for a 95th percentile.
const layerCalls = 100

// measureLayer sends rows through gate, router and experts of the first layer that has experts, one call after the
// other.
func measureLayer(ctx context.Context, eng Engine, rows int, o Options) (sample, error) {
	rng := rand.New(rand.NewPCG(o.Seed, uint64(rows)))
	x := tensor.Matrix{Rows: rows, Cols: o.Hidden, Stride: o.Hidden, Data: make([]float32, rows*o.Hidden)}
	for i := range x.Data {
		x.Data[i] = float32(rng.NormFloat64())
	}
	var s sample
	for i := range layerCalls + layerCalls/10 {
		start := time.Now()
		if _, _, _, err := eng.Hidden(ctx, -1, x, false, moe.AcceptExact); err != nil {
			return s, err
		}
		if i >= layerCalls/10 { // the first ones wake what has fallen asleep
			s.layer = append(s.layer, time.Since(start))
		}
	}
	return s, nil
}

// census counts which experts a step needs. Requests of one workload are equally long, so rows of one position are
// taken for rows of one step; those that start a step later change nothing in the mean.
type census struct {
	mu   sync.Mutex // guards seen
	seen map[[2]int]map[int32]bool
}

// observer watches the rows behind the prompt; nil for no census.
func (c *census) observer(prompt int) *engine.Observer {
	if c == nil {
		return nil
	}
	return &engine.Observer{Route: func(layer, position int, ids []int32, _ []float32) {
		if position < prompt {
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		step := c.seen[[2]int{layer, position}]
		if step == nil {
			step = map[int32]bool{}
			c.seen[[2]int{layer, position}] = step
		}
		for _, id := range ids {
			step[id] = true
		}
	}}
}

// mean is the number of distinct experts in one layer and step.
func (c *census) mean() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, step := range c.seen {
		n += len(step)
	}
	return float64(n) / float64(max(len(c.seen), 1))
}
