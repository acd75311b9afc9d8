package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// forwarder is the model as the engine uses it: a trunk with its cache and its experts. Calls never overlap.
type forwarder interface {
	// Forward is model.Trunk.Forward.
	Forward(ctx context.Context, spans []model.Span) ([]tensor.Matrix, error)
	// Hidden is model.Trunk.Hidden; route is lent its slices.
	Hidden(ctx context.Context, layer int, x tensor.Matrix, route func(row int, ids []int32, weights []float32)) (tensor.Matrix, error)
	// Layers are the layers that have experts, ascending.
	Layers() []int
	// Threads is how many threads a step may use.
	Threads() int
}

// entry is one sequence's part of a step.
type entry struct {
	s     *sequence
	n     int  // tokens
	ready bool // these are its last pending tokens
}

// sample reports whether the step chooses a token for the entry.
func (e entry) sample() bool { return e.ready && e.s.most > 0 }

// flight is a step under way.
type flight struct {
	entries  []entry
	cancel   context.CancelFunc
	deadline time.Time // the latest of its requests
	alive    int       // sequences whose streams have not ended
	job      *job      // instead of entries
}

// task is what the worker does next: a step or a job.
type task struct {
	ctx     context.Context
	entries []entry
	job     *job
}

// result is what came out.
type result struct {
	err   error   // of all entries
	drawn []drawn // one for each entry
	took  time.Duration
}

// drawn is the token chosen for an entry.
type drawn struct {
	id      int32
	logprob float32
	top     []TopLogprob
	err     error
}

// worker runs tasks one after the other until tasks is closed. results must have room for one.
func worker(f forwarder, tasks <-chan task, results chan<- result) {
	for t := range tasks {
		began := time.Now()
		var r result
		if t.job != nil {
			t.job.run(t.ctx, f)
		} else {
			r = compute(t.ctx, f, t.entries)
		}
		r.took = time.Since(began)
		results <- r
	}
}

// compute runs one step: the model, then the observers, then the samplers.
func compute(ctx context.Context, f forwarder, entries []entry) result {
	spans := make([]model.Span, len(entries))
	for i, e := range entries {
		spans[i] = e.span()
	}
	rows, err := f.Forward(ctx, spans)
	if err == nil && len(rows) != len(spans) {
		err = fmt.Errorf("the model answered %d of %d sequences: %w", len(rows), len(spans), sdk.ErrInvalidOutput)
	}
	if err != nil {
		return result{err: err}
	}
	r := result{drawn: make([]drawn, len(entries))}
	each(len(entries), f.Threads(), func(i int) { r.drawn[i] = entries[i].finish(spans[i], rows[i]) })
	return r
}

// span says what the model computes for the entry.
func (e entry) span() model.Span {
	s := e.s
	sp := model.Span{Pages: s.pages, Start: s.computed, Tokens: s.tokens[s.computed : s.computed+e.n], Logits: e.sample()}
	if s.watcher != nil {
		if s.watcher.observer.Logits != nil {
			sp.Logits, sp.AllLogits = true, true
		}
		if s.watcher.observer.Route != nil {
			sp.Route = s.watcher.route
		}
	}
	return sp
}

// finish shows the logits to the observer and chooses the next token.
func (e entry) finish(sp model.Span, rows tensor.Matrix) drawn {
	if sp.AllLogits {
		e.s.watcher.logits(sp.Start, rows.Rows, rows.Row)
	}
	if !e.sample() {
		return drawn{}
	}
	want := 1
	if sp.AllLogits {
		want = e.n
	}
	if rows.Rows != want {
		return drawn{err: fmt.Errorf("the model gave %d rows of logits, want %d: %w", rows.Rows, want, sdk.ErrInvalidOutput)}
	}
	return e.s.draw(rows.Row(rows.Rows - 1))
}

// draw chooses the next token of a sequence.
func (s *sequence) draw(logits []float32) drawn {
	id, given := s.forced()
	if given {
		s.sampler.Push(id)
	} else if id = s.sampler.Next(logits); id == sampler.None {
		return drawn{err: fmt.Errorf("the logits of position %d are not finite: %w", len(s.tokens)-1, sdk.ErrInvalidOutput)}
	}
	d := drawn{id: id}
	if n := s.request.Logprobs; n >= 0 {
		d.logprob = sampler.Logprob(logits, id)
		for _, t := range sampler.TopLogprobs(logits, n) {
			d.top = append(d.top, TopLogprob(t))
		}
	}
	return d
}

// each calls f for 0..n-1 on at most threads goroutines and waits for all.
func each(n, threads int, f func(int)) {
	threads = min(threads, n)
	if threads <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var wg sync.WaitGroup
	for t := range threads {
		wg.Go(func() {
			for i := t; i < n; i += threads {
				f(i)
			}
		})
	}
	wg.Wait()
}

// trunk is a model.Trunk with what each call needs.
type trunk struct {
	trunk  *model.Trunk
	cache  *model.Cache
	block  moe.Block
	sparse []int
	team   team.Team
}

// Forward implements forwarder.
func (t *trunk) Forward(ctx context.Context, spans []model.Span) ([]tensor.Matrix, error) {
	return t.trunk.Forward(ctx, t.cache, spans, t.block, t.team)
}

// Layers implements forwarder.
func (t *trunk) Layers() []int { return t.sparse }

// Threads implements forwarder.
func (t *trunk) Threads() int { return t.team.Threads() }

// Hidden implements forwarder.
func (t *trunk) Hidden(ctx context.Context, layer int, x tensor.Matrix, route func(int, []int32, []float32)) (tensor.Matrix, error) {
	observe := func(_, row, _ int, ids []int32, weights []float32) { route(row, ids, weights) }
	return t.trunk.Hidden(ctx, layer, x, t.block, t.team, observe)
}
