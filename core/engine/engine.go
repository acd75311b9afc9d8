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
	"log/slog"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// ErrQueueFull refuses a request because as many as the limits allow are running and waiting.
var ErrQueueFull = fmt.Errorf("engine queue is full: %w", sdk.ErrOverloaded)

// The defaults of what Options leaves zero.
const (
	defaultPageTokens = 16 // small pages waste little at a sequence's end; smaller ones only add book-keeping
	defaultBuffer     = 64 // tokens that a slow reader may lag behind
	defaultTimeout    = 30 * time.Second
)

// Options are what an engine is made of. Model, Trunk, Block and Tokenizer are required.
type Options struct {
	Model *model.Config
	Trunk *model.Trunk
	Block moe.Block // the routed experts
	// Editions numbers the states of the experts, and Block then has a method At; nil = they never change.
	Editions  moe.Editions
	Tokenizer *tokenizer.Tokenizer
	Team      team.Team     // the threads of a step, which the caller keeps open until Close has returned; the zero Team is the loop's own
	Limits    config.Limits // zero fields have their defaults, but no queued requests are none

	// Cache is the cache's shape. Pages 0 = as many as MemoryBytes hold; PageTokens 0 = 16; no DType = F32.
	Cache model.CacheSpec
	// MemoryBytes bounds the cache. 0 = enough for all requests that may run at once, at most a quarter of the
	// machine's memory.
	MemoryBytes int64
	PrefixReuse bool // keep full pages and let later requests of the same tenant take them over

	Chunk   int               // most prompt tokens in a step that also decodes; 0 = as many as keep streams going, by the steps' times
	Buffer  int               // tokens that a stream holds for a slow reader before it is parked; 0 = 64
	Metrics *metrics.Registry // nil = counted but not shown
	Log     *slog.Logger      // nil = none
	Now     func() time.Time  // nil = time.Now

	// Outcome, if not nil, is told of every step by the decode loop; it must not block. The tokens that it asks the
	// probability of cost a pass over their logits.
	Outcome func(Outcome)
	Account Account // who pays for what is computed; nil = nobody asks
}

// Outcome is how one step turned out.
type Outcome struct {
	Tokens  int           // that were chosen, or given with their log-probabilities asked for
	LogProb float64       // sum of their natural log-probabilities under the unmodified distribution
	Waiting time.Duration // since the oldest request that has not had its first step was submitted; 0 = there is none
}

// Engine runs requests. Its methods are safe for concurrent use.
type Engine struct {
	setup
	box      *inbox
	finished chan struct{} // closed when both goroutines are gone and the cache is free
	freed    error         // of freeing it
}

// setup is what the loop works with: values and small interfaces, so that tests supply a model of their own.
type setup struct {
	trunk      forwarder
	decoder    func() decoder
	vocab      int
	eos        []int32
	context    int // most tokens of a sequence, prompt and continuation
	pages      int
	pageTokens int
	limits     config.Limits
	live       *liveLimits // those of limits that may change
	reuse      bool
	editions   moe.Editions // nil = the experts never change
	lenient    bool         // the trunk's block may do without experts
	chunk      int
	buffer     int
	metrics    *metrics.Registry
	log        *slog.Logger
	now        func() time.Time
	outcome    func(Outcome) // nil = nobody asks
	account    Account       // nil = nobody asks
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

// fill sets what the options left zero.
func (s *setup) fill() {
	orInt := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	orInt(&s.limits.MaxBatchSize, 32)
	orInt(&s.limits.MaxBatchTokens, 512)
	orInt(&s.limits.MaxSequenceLength, 2048)
	orInt(&s.limits.MaxConcurrentRequests, 100)
	orInt(&s.buffer, defaultBuffer)
	s.limits.MaxQueuedRequests = max(s.limits.MaxQueuedRequests, 0)
	if s.limits.RequestTimeout <= 0 {
		s.limits.RequestTimeout = defaultTimeout
	}
	if s.metrics == nil {
		s.metrics = metrics.New()
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
}

// cacheSpec completes the cache's shape.
func cacheSpec(o Options, s setup) (model.CacheSpec, error) {
	spec := o.Cache
	if spec.PageTokens <= 0 {
		spec.PageTokens = defaultPageTokens
	}
	if spec.DType == tensor.Invalid {
		spec.DType = tensor.F32
	}
	if spec.Pages > 0 {
		return spec, nil
	}
	perSequence := (s.context + spec.PageTokens - 1) / spec.PageTokens
	page := max(o.Model.PageBytes(spec), 1)
	if o.MemoryBytes > 0 {
		spec.Pages = int(min(o.MemoryBytes/page, math.MaxInt32))
		if spec.Pages == 0 {
			return spec, fmt.Errorf("a cache of %d bytes holds no page of %d bytes: %w", o.MemoryBytes, page, sdk.ErrInvalid)
		}
		return spec, nil
	}
	wanted := int64(s.limits.MaxConcurrentRequests) * int64(perSequence)
	spec.Pages = int(min(wanted, max(memoryBytes()/4/page, int64(perSequence)), math.MaxInt32))
	return spec, nil
}

// memoryBytes is the machine's memory; 4 GiB where the system does not say.
func memoryBytes() int64 {
	const unknown = 4 << 30
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return unknown
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 3 && f[0] == "MemTotal:" {
			if kb, err := strconv.ParseInt(f[1], 10, 64); err == nil {
				return kb << 10
			}
		}
	}
	return unknown
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

var (
	errDraining = fmt.Errorf("engine is shutting down: %w", sdk.ErrUnavailable)
	errStopped  = fmt.Errorf("engine is closed: %w", sdk.ErrUnavailable)
)

// inbox is how other goroutines talk to the loop. It also bounds the live requests, so that Submit has its answer at
// once.
type inbox struct {
	wake chan struct{} // capacity 1

	mu       sync.Mutex // guards all below; never held while another lock is taken
	arrived  []*sequence
	touched  []*sequence // cancelled by the reader, or with room again
	jobs     []*job
	number   uint64
	waiting  *admission // counts requests and jobs that were accepted and whose resources are not yet free
	draining bool
	closed   bool
	trim     bool          // pages that nobody uses are to be forgotten
	idle     chan struct{} // closed when draining and nothing lives
	stats    Stats
	oldest   time.Time // when the oldest request without a first step was submitted; zero = there is none
}

// mail is what has come in.
type mail struct {
	arrived, touched []*sequence
	jobs             []*job
	closed           bool
	trim             bool
}

func newInbox() *inbox {
	return &inbox{wake: make(chan struct{}, 1), idle: make(chan struct{}), waiting: newAdmission()}
}

// submit accepts a sequence if it may wait.
func (b *inbox) submit(s *sequence, limits *config.Limits, now time.Time) error {
	key := s.request.flow()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.open(); err != nil {
		return err
	}
	if err := b.waiting.check(key, limits, now, s.request.Deadline); err != nil {
		return err
	}
	s.cost = b.waiting.length.cost(len(s.request.Prompt), s.most)
	b.waiting.enter(key, limits, s.cost)
	b.number++
	s.number = b.number
	b.arrived = append(b.arrived, s)
	b.signal()
	return nil
}

// accept takes a job if it may wait, and wakes the loop.
func (b *inbox) accept(j *job, limits *config.Limits, now time.Time) error {
	deadline, _ := j.ctx.Deadline()
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.open(); err != nil {
		return err
	}
	if err := b.waiting.check(j.caller, limits, now, deadline); err != nil {
		return err
	}
	b.waiting.enter(j.caller, limits, j.cost)
	b.jobs = append(b.jobs, j)
	b.signal()
	return nil
}

// open says why nothing is taken; nil = requests are. mu is held.
func (b *inbox) open() error {
	switch {
	case b.closed:
		return errStopped
	case b.draining:
		return errDraining
	}
	return nil
}

// check says why a request could not wait at this moment.
func (b *inbox) check(key flowKey, limits *config.Limits, now, deadline time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.open(); err != nil {
		return err
	}
	return b.waiting.check(key, limits, now, deadline)
}

// started counts a request that waits no longer.
func (b *inbox) started(key flowKey, cost float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting.start(key, cost)
}

// measured notes how many tokens a step has worked off while sequences waited.
func (b *inbox) measured(tokens float64, took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting.speed.add(tokens, took)
}

// left counts a sequence out.
func (b *inbox) left(s *sequence) {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := s.request.flow()
	if !s.placed {
		b.waiting.start(key, s.cost)
	} else if s.said > 0 {
		b.waiting.length.add(s.said)
	}
	b.waiting.leave(key)
	b.rest()
}

// touch tells the loop to look at a sequence again.
func (b *inbox) touch(s *sequence) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.closed {
		b.touched = append(b.touched, s)
	}
	b.signal()
}

// leave counts a job out.
func (b *inbox) leave(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !j.begun {
		b.waiting.start(j.caller, j.cost)
	}
	b.waiting.leave(j.caller)
	b.rest()
}

// nudge has the loop look again.
func (b *inbox) nudge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signal()
}

// rest closes idle when a drain is complete.
func (b *inbox) rest() {
	if b.draining && b.waiting.live == 0 {
		select {
		case <-b.idle:
		default:
			close(b.idle)
		}
	}
}

// drain refuses new work; the channel is closed when nothing lives.
func (b *inbox) drain() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.draining = true
	b.rest()
	return b.idle
}

// close tells the loop to end everything.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed, b.draining = true, true
	b.signal()
}

// signal wakes the loop.
func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() mail {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := mail{b.arrived, b.touched, b.jobs, b.closed, b.trim}
	b.arrived, b.touched, b.jobs, b.trim = nil, nil, nil, false
	return m
}

// publish stores the loop's figures.
func (b *inbox) publish(s Stats, oldest time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats, b.oldest = s, oldest
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
