package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// forwarder is the model as the engine uses it: a trunk with its cache and its experts. Calls never overlap.
type forwarder interface {
	// Forward is model.Trunk.Forward.
	Forward(ctx context.Context, spans []model.Span) ([]tensor.Matrix, error)
	// Hidden is model.Trunk.Hidden; route is lent its slices.
	Hidden(ctx context.Context, layer int, x tensor.Matrix, route func(row int, ids []int32, weights []float32), judge moe.Judge) (tensor.Matrix, error)
	// Layers are the layers that have experts, ascending.
	Layers() []int
	// Team is the threads of a step.
	Team() team.Team
	// Close frees the cache. No call is under way or follows.
	Close() error
}

// entry is one sequence's part of a step.
type entry struct {
	s     *sequence
	n     int  // tokens
	ready bool // these are its last pending tokens
}

// sample reports whether the step chooses a token for the entry.
func (e entry) sample() bool { return e.ready && e.s.most > 0 }

// judged is how many of the entry's last positions have logits that judge a token which the reader has not got yet: none
// while a prompt is read, one in a decode step, several where tokens are given.
func (e entry) judged() int {
	end := e.s.computed + e.n
	if !e.sample() { // what follows the last token of all is not asked for
		end = min(end, len(e.s.tokens)-1)
	}
	return max(end-max(e.s.told()-1, e.s.computed), 0)
}

// flight is a step or a job under way.
type flight struct {
	entries  []entry
	deadline time.Time // the latest of its requests
	began    time.Time // of a step
	edition  uint64    // of a job
	alive    int       // sequences whose streams have not ended
	job      *job      // instead of entries
	followed []spans.Step
	cancel   context.CancelFunc
}

// task is what the worker does next: a step or a job.
type task struct {
	ctx     context.Context
	entries []entry
	job     *job
	edition uint64 // of the experts
}

// result is what came out; the chosen tokens are with the sequences.
type result struct {
	err  error // of all entries
	took time.Duration
}

// drawn is a token chosen for a sequence.
type drawn struct {
	id      int32
	logprob float32
	top     []TopLogprob
	scored  bool // logprob is known, whether or not the request asks for it
	whole   bool // the request's form is complete
	done    bool // and nothing may follow
	err     error
}

// worker runs tasks one after the other until tasks is closed. results must have room for one.
func worker(f forwarder, tasks <-chan task, results chan<- result) {
	s := step{model: f}
	for t := range tasks {
		began := time.Now()
		var r result
		if e, ok := f.(editioned); ok {
			e.use(t.edition)
		}
		if t.job != nil {
			t.job.run(t.ctx, f)
		} else {
			r.err = s.compute(t.ctx, t.entries)
		}
		r.took = time.Since(began)
		results <- r
	}
}

// editioned is a forwarder whose experts have editions.
type editioned interface {
	use(edition uint64) // for all calls until the next use
}

// releaser is a forwarder that can give the memory of pages back. Calls of the others may be under way, on other pages.
type releaser interface{ Release(pages []int32) }

// step is the worker's memory of the step that it computes.
type step struct {
	model   forwarder
	entries []entry
	spans   []model.Span
	rows    []tensor.Matrix
}

// compute runs one step: the model, then the observers and the samplers.
func (s *step) compute(ctx context.Context, entries []entry) (err error) {
	s.entries, s.spans = entries, s.spans[:0]
	for _, e := range entries {
		s.spans = append(s.spans, e.span())
	}
	if s.rows, err = s.model.Forward(ctx, s.spans); err != nil {
		return err
	}
	if len(s.rows) != len(s.spans) {
		return fmt.Errorf("the model answered %d of %d sequences: %w", len(s.rows), len(s.spans), sdk.ErrInvalidOutput)
	}
	s.model.Team().Do(len(entries), s)
	return nil
}

// Run implements team.Task: it finishes one entry.
func (s *step) Run(_, i int) { s.entries[i].finish(&s.spans[i], s.rows[i]) }

// span says what the model computes for the entry.
func (e entry) span() model.Span {
	s := e.s
	sp := model.Span{Pages: s.pages, Start: s.computed, Tokens: s.tokens[s.computed : s.computed+e.n], Logits: e.sample()}
	if n := e.judged(); s.request.Logprobs >= 0 {
		sp.Logits, sp.AllLogits = n > 0, n > 1
	}
	if s.watcher != nil {
		s.watcher.ask(&sp)
	}
	sp.Lost, sp.Accept = s.lose, s.request.accepts()
	return sp
}

// ask has the model show what the observer wants.
func (w *watcher) ask(sp *model.Span) {
	o := w.observer
	sp.From = o.From
	if o.Logits != nil {
		sp.Logits, sp.AllLogits = true, true
	}
	if o.Route != nil {
		sp.Route = w.route
	}
	if o.Hop != nil {
		sp.Trace = w.hop
	}
	if o.State != nil {
		sp.State = w.state
	}
}

// finish shows the logits to the observer and chooses the next tokens.
func (e entry) finish(sp *model.Span, rows tensor.Matrix) {
	s := e.s
	s.drawn = s.drawn[:0]
	if s.step.missing.Err != nil {
		return
	}
	want := 0
	switch {
	case sp.AllLogits:
		want = e.n
	case sp.Logits:
		want = 1
	}
	if rows.Rows != want {
		s.drawn = append(s.drawn, drawn{err: fmt.Errorf("the model gave %d rows of logits, want %d: %w", rows.Rows, want, sdk.ErrInvalidOutput)})
		return
	}
	if s.watcher != nil && s.watcher.observer.Logits != nil && sp.AllLogits {
		s.watcher.logits(sp.Start, rows.Rows, rows.Row)
	}
	end := s.computed + e.n
	for p := end - e.judged(); p < end; p++ {
		var logits []float32 // of position p; nil = not asked for
		if row := rows.Rows - (end - p); row >= 0 {
			logits = rows.Row(row)
		}
		s.drawn = append(s.drawn, s.draw(p+1, logits))
	}
}

// draw chooses the token of a position, unless it is given, from the logits of the position before it.
func (s *sequence) draw(position int, logits []float32) drawn {
	var d drawn
	if position < len(s.tokens) {
		d.id = s.tokens[position]
		s.sampler.Push(d.id)
	} else if form := s.request.Form; form != nil {
		d.id = s.sampler.NextOf(logits, form.Mask(len(s.request.Prompt)+s.most-position))
		if d.id == sampler.None || !form.Accept(d.id) {
			return drawn{err: fmt.Errorf("no token of position %d fits the form: %w", position, sdk.ErrInvalidOutput)}
		}
		d.whole, d.done = form.Complete(), form.Done()
	} else if d.id = s.sampler.Next(logits); d.id == sampler.None {
		return drawn{err: fmt.Errorf("the logits of position %d are not finite: %w", position-1, sdk.ErrInvalidOutput)}
	}
	if n := s.request.Logprobs; n < 0 && s.scored && logits != nil {
		d.logprob, d.scored = sampler.Logprob(logits, d.id), true
	} else if n >= 0 {
		var top []sampler.TopLogprob
		d.scored = true
		d.logprob, top = s.sampler.Logprobs(logits, d.id, n)
		for _, t := range top {
			d.top = append(d.top, TopLogprob(t))
		}
	}
	return d
}

// trunk is a model.Trunk with what each call needs.
type trunk struct {
	trunk  *model.Trunk
	cache  *model.Cache
	block  moe.Block
	sparse []int
	team   team.Team

	experts moe.Block // block with the experts of the edition
	edition uint64
}

// use implements editioned.
func (t *trunk) use(edition uint64) {
	if edition == t.edition {
		return
	}
	if l, ok := t.block.(interface{ At(uint64) moe.Block }); ok {
		t.edition, t.experts = edition, l.At(edition)
	}
}

// Forward implements forwarder.
func (t *trunk) Forward(ctx context.Context, spans []model.Span) ([]tensor.Matrix, error) {
	return t.trunk.Forward(ctx, t.cache, spans, t.experts, t.team)
}

// Layers implements forwarder.
func (t *trunk) Layers() []int { return t.sparse }

// Team implements forwarder.
func (t *trunk) Team() team.Team { return t.team }

// Release implements releaser.
func (t *trunk) Release(pages []int32) { t.cache.Release(pages) }

// Close implements forwarder.
func (t *trunk) Close() error { return t.cache.Close() }

// Hidden implements forwarder.
func (t *trunk) Hidden(ctx context.Context, layer int, x tensor.Matrix, route func(int, []int32, []float32), judge moe.Judge) (tensor.Matrix, error) {
	observe := func(_, row, _ int, ids []int32, weights []float32) { route(row, ids, weights) }
	return t.trunk.Hidden(ctx, layer, x, t.experts, t.team, observe, judge)
}
