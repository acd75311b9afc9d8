package engine

import (
	"slices"

	"github.com/pimoe/pimoe/core/moe"
)

// This file gives places and pages to sequences. The rule that keeps everybody moving: a sequence that lacks pages
// takes them from parked ones first, then from younger ones, never from older ones. So the oldest sequence that can
// run always runs, and since no request is larger than the pool, every request's turn comes.

// admit gives places to the queue's sequences, in the order of fair, while there are places and pages. One whose reader
// lags is passed over.
func (l *loop) admit() {
	for len(l.queue) > 0 {
		s := l.fair.choose(l.queue, l.live.places())
		if s == nil {
			return
		}
		l.edition(s)
		if len(l.running) >= l.live.places() && !l.evictParked() && !(l.fits(s) && l.yield(s)) {
			return
		}
		for !l.fits(s) {
			if !l.evictParked() {
				return
			}
		}
		l.queue = remove(l.queue, s)
		l.running = insert(l.running, s)
		s.running = true
		s.flow.held++
		l.place(s)
		s.pages = slices.Grow(s.pages, l.pool.need(cap(s.tokens)))
		l.take(s)
	}
}

// yield takes a place from a flow that has one more than its share of them or more, for one that has less: its youngest one goes
// back. The flow still has its share then, so that it takes no place back in its turn.
// What that one has computed is in the prefix cache, so little is lost, and a flood holds no places against those
// that come after it.
func (l *loop) yield(s *sequence) bool {
	places := l.live.places()
	if l.fair.beyond(s.flow, places) {
		return false
	}
	for _, v := range slices.Backward(l.running) {
		if v.flow != s.flow && float64(v.flow.held) >= l.fair.share(v.flow, places)+1 {
			l.preempt(v)
			return true
		}
	}
	return false
}

// place charges a sequence's flow for its first place.
func (l *loop) place(s *sequence) {
	if s.placed {
		return
	}
	s.placed, s.tag = true, l.fair.start(s.flow, s.cost)
	s.served = l.stats.Steps // it waits for its turn from now on: a prompt that has been read in part waits for longer
	l.box.started(s.request.flow(), s.cost)
}

// edition settles which edition of the experts computes a sequence. It keeps it when it is sent back.
func (l *loop) edition(s *sequence) {
	if s.entered {
		return
	}
	s.entered, s.salt = true, s.request.Tenant
	if l.editions != nil {
		var numerics string
		if s.edition, numerics = l.editions.Enter(); numerics != "" {
			s.salt += "\x00" + numerics
		}
		if a, ok := l.editions.(moe.Attributed); ok {
			s.usage.Programs = a.Programs(s.edition)
		}
		if v, ok := l.editions.(moe.Versioned); ok {
			s.usage.Version = v.Version(s.edition)
		}
	}
}

// leave gives a sequence's edition back.
func (l *loop) leave(s *sequence) {
	if s.entered && l.editions != nil {
		l.editions.Leave(s.edition)
	}
	s.entered = false
}

// fits reports whether the pages that a sequence needs for what it has to compute can be had, beside those that the
// running ones still need, with one more each to grow into: less would preempt somebody at once. One that is alone
// always fits.
func (l *loop) fits(s *sequence) bool {
	if len(l.running) == 0 {
		return true
	}
	chain, idle := l.prefix(s)
	need := l.pool.need(len(s.tokens)) - chain
	for _, r := range l.running {
		need += l.pool.need(len(r.tokens)+l.pageTokens) - len(r.pages)
	}
	return l.pool.available()-idle >= need
}

// prefix counts the pages of the prefix cache that a sequence could take over, and how many of them are idle.
func (l *loop) prefix(s *sequence) (pages, idle int) {
	chain := s.chain
	for s.reuse {
		id, ok := l.next(s, pages, chain)
		if !ok {
			break
		}
		if l.pool.pages[id].refs == 0 {
			idle++
		}
		chain = l.pool.pages[id].serial
		pages++
	}
	return pages, idle
}

// next finds page i of a sequence in the prefix cache. The last known token is always computed: its logits are wanted.
func (l *loop) next(s *sequence, i int, chain uint64) (int32, bool) {
	from, to := i*l.pageTokens, (i+1)*l.pageTokens
	if to >= s.told() {
		return -1, false
	}
	return l.pool.lookup(chain, s.salt, s.tokens[from:to])
}

// take lets a sequence take over pages of the prefix cache from where it stands, which must be the end of a page.
func (l *loop) take(s *sequence) {
	if !s.reuse || s.broken || s.indexed != len(s.pages) || s.computed != s.indexed*l.pageTokens {
		return
	}
	for {
		id, ok := l.next(s, s.indexed, s.chain)
		if !ok {
			return
		}
		l.pool.retain(id)
		s.pages = append(s.pages, id)
		s.chain = l.pool.pages[id].serial
		s.indexed++
		s.computed += l.pageTokens
		if !s.preempted && s.computed <= len(s.request.Prompt) {
			s.usage.CachedTokens += l.pageTokens
		}
	}
}

// index offers the pages that a sequence has filled to the prefix cache.
func (l *loop) index(s *sequence) {
	for s.reuse && !s.broken && (s.indexed+1)*l.pageTokens <= s.computed {
		from := s.indexed * l.pageTokens
		serial, ok := l.pool.publish(s.pages[s.indexed], s.chain, s.salt, s.tokens[from:from+l.pageTokens])
		if !ok {
			s.broken = true
			return
		}
		s.chain = serial
		s.indexed++
	}
}

// claim is a page that a sequence is about to fill.
type claim struct {
	chain, hash uint64
}

// composer is the memory of composing a step, kept from step to step.
type composer struct {
	ready      []*sequence
	candidates []candidate
	order      []int
	claims     map[claim]bool
	planner    planner
	entries    []entry
}

// runnable lists the running sequences that can take part in a step, oldest first. A sequence at the beginning of a
// page that an older one is filling with the same tokens waits and takes the page over: so repeats of a prompt that
// come at once cost one prompt.
func (l *loop) runnable() []*sequence {
	c := &l.composer
	c.ready = c.ready[:0]
	clear(c.claims)
	for _, s := range l.running {
		if s.outage.group != nil {
			continue
		}
		if !s.stream.room(s.unsent) {
			s.parked = true
			continue
		}
		l.take(s)
		from, to := s.indexed*l.pageTokens, (s.indexed+1)*l.pageTokens
		if s.reuse && !s.broken && s.pending() > 1 && to < s.told() {
			page := claim{s.chain, l.pool.hash(s.salt, s.tokens[from:to])}
			if c.claims[page] && s.computed == from {
				continue
			}
			c.claims[page] = true
		}
		c.ready = append(c.ready, s)
	}
	return c.ready
}

// promptGrain is how many rows attention computes together, and a page: fewer of one prompt cost nearly as much.
const promptGrain = 16

// compose chooses the next step and secures its pages, oldest sequence first. The result is valid until the next call.
func (l *loop) compose() []entry {
	ready := oneEdition(l.runnable())
	if len(ready) == 0 {
		return nil
	}
	c := &l.composer
	c.candidates, c.entries = c.candidates[:0], c.entries[:0]
	streams := 0
	for _, s := range ready {
		n := s.cut(s.pending(), l.buffer)
		c.candidates = append(c.candidates, candidate{pending: n, served: s.served})
		if n == 1 {
			streams++
		}
	}
	oldest, pending := ready[0], c.candidates[0].pending
	l.fair.look(l.now(), l.limits.MaxBatchSize)
	ready, brief := l.restrain(c.turns(ready, l.fair.active, l.limits.MaxBatchSize))
	b := bounds{l.limits.MaxBatchSize, l.limits.MaxBatchTokens, l.pace.chunk(min(streams, l.limits.MaxBatchSize)), promptGrain}
	if brief {
		b = l.courtesy.price.brief(b)
	}
	for _, sh := range c.planner.plan(c.candidates, b) {
		if s := ready[sh.index]; s.running { // not preempted for an older one meanwhile
			l.enter(s, sh.tokens)
		}
	}
	if len(c.entries) == 0 { // none of the chosen ones found pages; the oldest always does
		l.enter(oldest, min(pending, b.tokens, b.chunk))
	}
	l.reckon(c.entries)
	return c.entries
}

// turns ranks the candidates within their flows, longest waiting first, so that a step takes from all flows alike, and
// keeps of each flow as many as its weight gives it of a step: what a flow does not use makes the step shorter, which all who
// are in it notice, rather than a flood's answers more.
func (c *composer) turns(ready []*sequence, active float64, batch int) []*sequence {
	first := ready[0].flow
	if !slices.ContainsFunc(ready, func(s *sequence) bool { return s.flow != first }) {
		return ready
	}
	c.order = c.order[:0]
	for i, s := range ready {
		s.flow.rank = 0
		c.order = append(c.order, i)
	}
	byWaiting(c.candidates, c.order)
	for _, i := range c.order {
		w := ready[i].flow
		c.candidates[i].turn = float64(w.rank) / w.weight
		if w.rank++; i > 0 && float64(w.rank) > max(float64(batch)*w.weight/active, 1) { // the oldest must always be able to run
			c.candidates[i].pending = 0
		}
	}
	return c.keep(ready)
}

// keep drops candidates that have nothing pending.
func (c *composer) keep(ready []*sequence) []*sequence {
	kept := 0
	for i, s := range ready {
		if c.candidates[i].pending > 0 {
			ready[kept], c.candidates[kept] = s, c.candidates[i]
			kept++
		}
	}
	c.candidates = c.candidates[:kept]
	return ready[:kept]
}

// oneEdition keeps those that the edition of the one that has waited longest computes: a step is computed by one edition of
// the experts. While they are changed there are two for a while, and their steps take turns.
func oneEdition(ready []*sequence) []*sequence {
	if len(ready) == 0 {
		return ready
	}
	first := ready[0]
	mixed := false
	for _, s := range ready {
		mixed = mixed || s.edition != first.edition
		if s.served < first.served {
			first = s
		}
	}
	if !mixed {
		return ready
	}
	return slices.DeleteFunc(ready, func(s *sequence) bool { return s.edition != first.edition })
}

// enter adds a sequence to a step with as many of n tokens as pages can be had for. One that finds none has had its
// turn, so that it does not keep others from theirs.
func (l *loop) enter(s *sequence, n int) {
	s.served = l.stats.Steps + 1
	if n = l.secure(s, n); n > 0 {
		l.composer.entries = append(l.composer.entries, entry{s: s, n: n, ready: n == s.pending()})
	}
}

// secure gives a sequence pages for its next n tokens and returns for how many it has them.
func (l *loop) secure(s *sequence, n int) int {
	for need := l.pool.need(s.computed + n); len(s.pages) < need; {
		id, ok := l.pool.alloc()
		if ok {
			s.pages = append(s.pages, id)
		} else if !l.reclaim(s) {
			break
		}
	}
	return min(n, len(s.pages)*l.pageTokens-s.computed)
}

// reclaim preempts one sequence for the sake of s: the youngest parked one, else the youngest one, if younger than s.
func (l *loop) reclaim(s *sequence) bool {
	if l.evictParked() {
		return true
	}
	for _, v := range slices.Backward(l.running) {
		if v.number <= s.number {
			return false
		}
		if len(v.pages) > 0 {
			l.preempt(v)
			return true
		}
	}
	return false
}

// evictParked preempts the youngest sequence whose reader lags, if there is one.
func (l *loop) evictParked() bool {
	for _, v := range slices.Backward(l.running) {
		if !v.stream.room(v.unsent) {
			v.parked = true
			l.preempt(v)
			return true
		}
	}
	return false
}

// preempt takes place and pages from a sequence and puts it back into the queue at its age. It computes its tokens
// again later, the same to the bit; its sampler and its text stay as they are.
func (l *loop) preempt(s *sequence) {
	l.pool.release(s.pages)
	s.forget()
	s.running, s.preempted = false, true
	s.flow.held--
	l.running = remove(l.running, s)
	l.queue = insert(l.queue, s)
	l.stats.Preemptions++
	l.meters.preemptions.Inc()
	l.log.Debug("request preempted", "request", s.request.ID, "tokens", len(s.tokens))
}
