package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
)

// sequence is one request as the loop sees it. Only the loop touches it, except that while the sequence is in the step
// under way (flying) the worker reads tokens, pages and watcher and uses sampler and drawn.
type sequence struct {
	number  uint64 // order of submission: the age of a sequence, by which shortages are decided
	request Request
	stream  *stream
	text    *text // nil where the stream makes the text: there are no stop strings
	sampler *sampler.Sampler
	watcher *watcher // nil without Observe
	unwatch func() bool
	tokens  []int32 // prompt and continuation, with the given tokens that the reader has not got yet
	said    int     // tokens of the continuation that the reader has got
	drawn   []drawn // what the step under way has chosen
	unsent  int     // tokens that were said and not yet given to the stream
	most    int     // most new tokens
	reuse   bool    // reads and feeds the prefix cache
	salt    string  // of the prefix cache: the tenant, and what the experts compute
	edition uint64  // of the experts, from its first place to its end
	entered bool    // edition is in use
	scored  bool    // the engine's Outcome wants log-probabilities, whatever the request wants

	// The cache: keys and values of tokens[:computed] are in pages. The first indexed pages are a chain of the prefix
	// cache, which chain, the serial of its last page, stands for.
	pages    []int32
	computed int
	indexed  int
	chain    uint64
	broken   bool // the chain can't be continued

	flow   *flow   // in which it waits
	cost   float64 // tokens that it was expected to take when it came
	worked float64 // of cost, what counts as worked off
	tag    float64 // by which it has its place, once placed
	placed bool    // has had a place

	known     bool   // has arrived at the loop
	running   bool   // has a place
	flying    bool   // is in the step under way
	over      bool   // its stream has ended; resources go as soon as it does not fly
	started   bool   // was scheduled at least once
	preempted bool   // was sent back at least once
	parked    bool   // its reader lagged since the last token
	served    uint64 // the last step in which it had its turn

	// Where experts may be missing: what its tokens have lost, those of the step under way apart, and what it waits for.
	lost, step ledger
	lose       func(layer, position int, o moe.Outcome) // into step; nil = it waits within the step
	outage     outage

	submitted, last time.Time
	usage           Usage
}

// newSequence makes a sequence for a request with at most most new tokens.
func newSequence(r Request, most int, now time.Time) *sequence {
	s := &sequence{
		request: r, most: most, submitted: now, reuse: !r.NoReuse && (r.Observe == nil || r.Observe.From >= len(r.Prompt)-1),
		tokens:  append(append(make([]int32, 0, len(r.Prompt)+min(most, 4096)), r.Prompt...), r.Forced[:min(most, len(r.Forced))]...),
		sampler: sampler.New(r.Sampling, r.Prompt),
		usage:   Usage{PromptTokens: len(r.Prompt)},
	}
	if r.Observe != nil {
		s.watcher = &watcher{observer: r.Observe}
	}
	return s
}

// pending is how many tokens have no keys and values yet; at least 1 while the sequence lives.
func (s *sequence) pending() int { return len(s.tokens) - s.computed }

// told is how many tokens the reader has or has given: prompt and what was said.
func (s *sequence) told() int { return len(s.request.Prompt) + s.said }

// cut is how many of its next n tokens a sequence may compute in one step. Given tokens are said as soon as they are
// computed, and a stream has room for a buffer of them. Where their log-probabilities are wanted too the step ends with
// the prompt, whose logits nobody needs.
func (s *sequence) cut(n, buffer int) int {
	judge := s.told() - 1 // the position whose logits judge the next token
	if s.request.Logprobs >= 0 && s.computed < judge {
		n = min(n, judge+1-s.computed)
	}
	return min(n, max(judge-s.computed, 0)+buffer)
}

// forget drops all that is in the cache; the pages are the caller's to release.
func (s *sequence) forget() {
	s.pages, s.computed, s.indexed, s.chain, s.broken = s.pages[:0], 0, 0, 0, false
}

// byAge orders sequences for binary search.
func byAge(s *sequence, number uint64) int {
	switch {
	case s.number < number:
		return -1
	case s.number > number:
		return 1
	}
	return 0
}

// insert puts a sequence into a list ordered by age.
func insert(list []*sequence, s *sequence) []*sequence {
	i, _ := slices.BinarySearchFunc(list, s.number, byAge)
	return slices.Insert(list, i, s)
}

// remove takes a sequence out of a list ordered by age.
func remove(list []*sequence, s *sequence) []*sequence {
	if i, ok := slices.BinarySearchFunc(list, s.number, byAge); ok {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// watcher hands intermediate values to an Observer: each position once, also when a preempted sequence computes it
// again, and none after the stream has ended.
type watcher struct {
	observer *Observer

	mu   sync.Mutex // held during the Observer's functions
	seen int        // positions below this were shown
	over bool
}

// logits shows the rows of positions from start.
func (w *watcher) logits(start, rows int, row func(int) []float32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range rows {
		if !w.over && start+i >= w.seen {
			w.observer.Logits(start+i, row(i))
		}
	}
}

// route shows one row of a layer.
func (w *watcher) route(layer, position int, ids []int32, weights []float32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && position >= w.seen {
		w.observer.Route(layer, position, ids, weights)
	}
}

// hop shows the way of one row through a layer.
func (w *watcher) hop(position int, h *moe.Hop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && position >= w.seen {
		w.observer.Hop(position, h)
	}
}

// state shows what the head gets of one row.
func (w *watcher) state(position int, state []float32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && position >= w.seen {
		w.observer.State(position, state)
	}
}

// step shows how long a step took.
func (w *watcher) step(position int, queue, took time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over && position >= max(w.seen, w.observer.From) {
		w.observer.Step(position, queue, took)
	}
}

// advance says that all positions below n were shown.
func (w *watcher) advance(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = max(w.seen, n)
}

// stop ends the showing.
func (w *watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}
