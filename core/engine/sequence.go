package engine

import (
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/sampler"
)

// sequence is one request as the loop sees it. Only the loop touches it, except that the worker reads tokens, pages
// and watcher and uses the sampler while the sequence is in the step under way (flying).
type sequence struct {
	number  uint64 // order of submission: the age of a sequence, by which shortages are decided
	request Request
	stream  *stream
	text    *text
	sampler *sampler.Sampler
	watcher *watcher // nil without Observe
	unwatch func() bool
	tokens  []int32 // prompt and continuation
	most    int     // most new tokens
	reuse   bool    // reads and feeds the prefix cache

	// The cache: keys and values of tokens[:computed] are in pages. The first indexed pages are a chain of the prefix
	// cache, which chain, the serial of its last page, stands for.
	pages    []int32
	computed int
	indexed  int
	chain    uint64
	broken   bool // the chain can't be continued

	known     bool   // has arrived at the loop
	running   bool   // has a place
	flying    bool   // is in the step under way
	over      bool   // its stream has ended; resources go as soon as it does not fly
	started   bool   // was scheduled at least once
	preempted bool   // was sent back at least once
	parked    bool   // its reader lagged since the last token
	served    uint64 // the last step in which it had its turn

	submitted, last time.Time
	usage           Usage
}

// newSequence makes a sequence for a request with at most most new tokens.
func newSequence(r Request, most int, now time.Time) *sequence {
	s := &sequence{
		request: r, most: most, submitted: now, reuse: !r.NoReuse && r.Observe == nil,
		tokens:  append(make([]int32, 0, len(r.Prompt)+min(most, 256)), r.Prompt...),
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

// generated is how many tokens the continuation has.
func (s *sequence) generated() int { return len(s.tokens) - len(s.request.Prompt) }

// forced is the next token if it is given.
func (s *sequence) forced() (int32, bool) {
	if n := s.generated(); n < len(s.request.Forced) {
		return s.request.Forced[n], true
	}
	return 0, false
}

// forget drops all that is in the cache; the pages are the caller's to release.
func (s *sequence) forget() {
	s.pages, s.computed, s.indexed, s.chain, s.broken = nil, 0, 0, 0, false
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
