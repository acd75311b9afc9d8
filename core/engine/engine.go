// Package engine turns prompts into streams of tokens: continuous batching of all live requests in one decode loop,
// prompts in chunks, a paged cache of keys and values with prefix reuse, bounded queues, deadlines and cancellation.
//
// server and the commands use it: New, then Submit for each request, Drain and Close at the end. One goroutine owns all
// state; it hands one step at a time to a second one that computes, so that a step that waits for a dead expert never
// delays another request's cancellation or deadline. Tokens go to their readers while the next step computes, and the
// readers turn them into text. Scheduling (schedule.go), the size of steps (pace.go), what rows cost (price.go), page accounting
// (pages.go) and stop strings (text.go) are functions of values. In the steady state a step makes no garbage.
//
// The package refuses to know about HTTP, processes and retries, and it never changes an answer: batching, chunking,
// preemption and reuse give the bits that the request has alone.
package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
)

// ErrQueueFull refuses a request because as many as the limits allow are running and waiting.
var ErrQueueFull = fmt.Errorf("engine queue is full: %w", sdk.ErrOverloaded)

// Engine runs requests. Its methods are safe for concurrent use.
type Engine struct {
	setup
	box      *inbox
	finished chan struct{} // closed when both goroutines are gone and the cache is free
	freed    error         // of freeing it
}

// New allocates the cache and starts the decode loop. The caller must Close the engine.
func New(o Options) (*Engine, error) {
	if o.Model == nil || o.Trunk == nil || o.Block == nil || o.Tokenizer == nil {
		return nil, fmt.Errorf("new engine: model, trunk, block and tokenizer are required: %w", sdk.ErrInvalid)
	}
	s := setup{
		decoder: func() decoder { return o.Tokenizer.Stream(true) },
		vocab:   o.Model.Vocab, eos: o.Model.EOS, limits: o.Limits, reuse: o.PrefixReuse, editions: o.Editions,
		chunk: o.Chunk, buffer: o.Buffer, metrics: o.Metrics, log: o.Log, now: o.Now, outcome: o.Outcome, account: o.Account,
	}
	s.fill()
	s.context = min(o.Model.MaxPositions, s.limits.MaxSequenceLength)
	spec, err := cacheSpec(o, s)
	if err != nil {
		return nil, fmt.Errorf("new engine: %w", err)
	}
	cache, err := o.Model.NewCache(spec)
	if err != nil {
		return nil, fmt.Errorf("new engine: %w", err)
	}
	s.pages, s.pageTokens = spec.Pages, spec.PageTokens
	if b, ok := o.Block.(moe.Lenient); ok {
		s.lenient = b.Lenient()
	}
	s.trunk = &trunk{trunk: o.Trunk, cache: cache, block: o.Block, experts: o.Block, sparse: o.Model.SparseLayers(), team: o.Team}
	return start(s), nil
}

// start runs the two goroutines of an engine.
func start(s setup) *Engine {
	s.live = newLiveLimits(s.limits)
	e := &Engine{setup: s, box: newInbox(), finished: make(chan struct{})}
	e.box.stats = Stats{Pages: s.pages, FreePages: s.pages}
	l := newLoop(s, e.box)
	go func() {
		defer close(e.finished)
		l.run()
		e.freed = s.trunk.Close()
	}()
	return e
}

// Submit queues a request. It does not block: a full queue, or one in which it would wait too long, is an OverloadError, an engine that drains or is closed is
// sdk.ErrUnavailable, a request that can never run is sdk.ErrInvalid. A done ctx cancels the request at any time; its
// deadline, if earlier than the request's, is the request's.
func (e *Engine) Submit(ctx context.Context, r Request) (Stream, error) {
	name := requestName(r.ID)
	if err := e.check(r); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := ctx.Err(); err != nil {
		return nil, cancelled(name, context.Cause(ctx))
	}
	now := e.now()
	if d, ok := ctx.Deadline(); ok && (r.Deadline.IsZero() || d.Before(r.Deadline)) {
		r.Deadline = d
	}
	if !r.Deadline.IsZero() && !now.Before(r.Deadline) {
		return nil, cancelled(name, sdk.ErrDeadline)
	}
	s := newSequence(r, e.most(r), now)
	s.reuse, s.scored = s.reuse && e.reuse, e.outcome != nil
	if e.lenient {
		s.lose = func(layer, _ int, o moe.Outcome) { s.step.lose(layer, o) }
	}
	s.stream = newStream(name, e.buffer, func() { e.box.touch(s) })
	if t := (&text{decoder: e.decoder(), stops: stops{strings: r.Stop}}); len(r.Stop) > 0 {
		s.text = t
	} else {
		s.stream.text = t
	}
	s.unwatch = context.AfterFunc(ctx, func() { s.stream.cancel(cancelled(name, context.Cause(ctx))) })
	if err := e.box.submit(s, e.live.now(), now); err != nil {
		s.unwatch()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s.stream, nil
}

// requestName is how errors name a request.
func requestName(id string) string { return strings.TrimSpace("request " + id) }

// check refuses requests that can never run.
func (e *Engine) check(r Request) error {
	limit := e.context
	switch {
	case len(r.Prompt) == 0:
		return fmt.Errorf("the prompt is empty: %w", sdk.ErrInvalid)
	case len(r.Prompt) > limit:
		return fmt.Errorf("the prompt has %d tokens, the context limit is %d: %w", len(r.Prompt), limit, sdk.ErrInvalid)
	case r.MaxTokens < PromptOnly:
		return fmt.Errorf("max tokens %d: %w", r.MaxTokens, sdk.ErrInvalid)
	case r.Logprobs < -1 || r.Logprobs > e.vocab:
		return fmt.Errorf("logprobs %d is outside -1..%d: %w", r.Logprobs, e.vocab, sdk.ErrInvalid)
	case r.Form != nil && (r.IgnoreEOS || r.Forced != nil):
		return fmt.Errorf("a form does not go with given tokens or without the end of the text: %w", sdk.ErrInvalid)
	case slices.Contains(r.Stop, ""):
		return fmt.Errorf("a stop string is empty: %w", sdk.ErrInvalid)
	}
	for _, ids := range [][]int32{r.Prompt, r.Forced} {
		for i, id := range ids {
			if id < 0 || int(id) >= e.vocab {
				return fmt.Errorf("token id %d at %d is outside 0..%d: %w", id, i, e.vocab-1, sdk.ErrInvalid)
			}
		}
	}
	room := e.pages * e.pageTokens
	if need := cached(r, e.most(r)); need > room {
		return fmt.Errorf("prompt and continuation need %d tokens of the key and value cache, which holds %d: %w", need, room, sdk.ErrInvalid)
	}
	return nil
}

// most is the largest number of new tokens of a request.
func (e *Engine) most(r Request) int {
	switch left := e.context - len(r.Prompt); {
	case r.MaxTokens == PromptOnly:
		return 0
	case r.MaxTokens > 0:
		return min(r.MaxTokens, left)
	default: // as many as fit; the last token of a sequence needs no place in the cache
		return max(min(left, e.pages*e.pageTokens+1-len(r.Prompt)), min(left, 1))
	}
}

// cached is the most tokens that a request has in the cache: all but the last one of the continuation.
func cached(r Request, most int) int { return max(len(r.Prompt), len(r.Prompt)+most-1) }

// Stats is a snapshot of an engine.
type Stats struct {
	Running          int // requests that hold a place, also parked ones
	Queued           int // requests that wait for one: new, preempted, or parked without a place
	Pages            int
	FreePages        int // pages that can be given out at once, with CachedPages
	CachedPages      int // pages that nobody uses but whose content can be taken over
	Steps            uint64
	PromptTokens     uint64 // of requests whose prompt was computed
	CachedTokens     uint64 // of these, taken over from the cache
	CompletionTokens uint64
	Preemptions      uint64
}

// Stats is the state after the last step.
func (e *Engine) Stats() Stats {
	e.box.mu.Lock()
	defer e.box.mu.Unlock()
	s := e.box.stats
	s.Queued = max(e.box.waiting.live-s.Running, 0)
	return s
}

// Admits says whether a request of a tenant would be taken now, before anything is done for it: nil, or the error that Submit
// would give. deadline zero = none.
func (e *Engine) Admits(tenant string, p Priority, deadline time.Time) error {
	return e.box.check(flowKey{tenant, p}, e.live.now(), e.now(), deadline)
}

// Context is the most tokens that a sequence can have, prompt and continuation together.
func (e *Engine) Context() int { return e.context }

// Trim forgets what the prefix cache holds for requests to come, and gives the memory of all unused pages back. It does not wait.
func (e *Engine) Trim() {
	e.box.mu.Lock()
	defer e.box.mu.Unlock()
	if !e.box.closed {
		e.box.trim = true
		e.box.signal()
	}
}

// Drain refuses new work and waits until all accepted requests have ended, or until ctx is done.
func (e *Engine) Drain(ctx context.Context) error {
	select {
	case <-e.box.drain():
		return nil
	case <-ctx.Done():
		s := e.Stats()
		return fmt.Errorf("drain engine: %d requests left: %w", s.Running+s.Queued, context.Cause(ctx))
	}
}

// Close ends all requests with sdk.ErrUnavailable, cancels the step under way and waits for the loop. It is safe to
// call it more than once.
func (e *Engine) Close() error {
	e.box.close()
	<-e.finished
	return e.freed
}

// classify puts an error of a step into a class.
func classify(err error) error {
	for _, class := range []error{sdk.ErrInvalid, sdk.ErrNotFound, sdk.ErrOverloaded, sdk.ErrUnavailable, sdk.ErrUnsupported, sdk.ErrInvalidOutput, sdk.ErrDeadline} {
		if errors.Is(err, class) {
			return err
		}
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", sdk.ErrDeadline, err)
	}
	return err
}
