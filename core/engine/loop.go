package engine

import (
	"fmt"
	"slices"
	"time"
)

// loop owns all sequences and pages. It runs one step at a time in the worker and meanwhile takes what comes in.
type loop struct {
	setup
	box    *inbox
	meters *meters
	pool   *pool

	queue   []*sequence // without a place, oldest first
	running []*sequence // with a place, oldest first
	jobs    []*job
	flight  *flight // nil while the worker is idle
	closed  bool
	stepped bool // the last flight was a step: a job may go next

	fair     *fair
	composer composer
	pace     pace
	courtesy courtesy
	patience patience
	flown    flight     // what flight points to while a step is under way
	launched time.Time  // when the flight under way began
	crowded  bool       // sequences or jobs waited then
	worked   float64    // tokens that were worked off since the last flight that ended, by what the sequences were expected to take
	outbox   []delivery // tokens that their readers get while the next step computes

	tasks   chan task
	results chan result
	timer   *time.Timer
	alarm   time.Time // when the timer rings; zero = never
	stats   Stats
}

func newLoop(s setup, b *inbox) *loop {
	l := &loop{setup: s, box: b, meters: newMeters(s.metrics, b, s.now), pool: newPool(s.pages, s.pageTokens)}
	l.pace.fixed = s.chunk
	l.fair = newFair()
	l.composer.claims = map[claim]bool{}
	l.tasks, l.results = make(chan task), make(chan result, 1)
	return l
}

// run is the decode loop. It returns after the inbox was closed, all streams have ended and the worker is gone.
func (l *loop) run() {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		worker(l.trunk, l.tasks, l.results)
	}()
	l.timer = time.NewTimer(time.Hour)
	l.timer.Stop()
	defer l.timer.Stop()
	for {
		l.receive(l.box.take())
		l.expire(l.now())
		if l.flight == nil {
			if l.closed {
				break
			}
			l.launch()
		}
		l.deliver()
		l.arm()
		select {
		case <-l.box.wake:
		case <-l.timer.C:
			l.alarm = time.Time{}
		case r := <-l.results:
			l.land(r)
		}
	}
	l.deliver()
	l.patience.drop()
	close(l.tasks)
	<-gone
}

// receive takes in what has come: new sequences, cancelled ones, jobs, the end.
func (l *loop) receive(m mail) {
	for _, s := range m.arrived {
		s.known = true
		key := s.request.flow()
		s.flow = l.fair.of(key, key.weight(l.live.now()))
		l.fair.wait(s.flow, s.cost, l.now())
		l.queue = append(l.queue, s)
		if err := s.stream.ended(); err != nil { // cancelled before it arrived
			l.end(s, err)
		}
	}
	for _, s := range m.touched {
		if err := s.stream.ended(); err != nil && s.known {
			l.end(s, err)
		}
	}
	for _, j := range m.jobs {
		j.flow = l.fair.of(j.caller, j.caller.weight(l.live.now()))
		l.fair.wait(j.flow, j.cost, l.now())
		l.jobs = append(l.jobs, j)
	}
	if m.trim {
		free := l.pool.trim()
		if r, ok := l.trunk.(releaser); ok {
			r.Release(free)
		}
	}
	if m.closed && !l.closed {
		l.closed = true
		l.abort()
	}
}

// abort ends everything, because the engine was closed.
func (l *loop) abort() {
	for _, s := range slices.Concat(l.queue, l.running) {
		l.end(s, fmt.Errorf("%s: %w", s.stream.name, errStopped))
	}
	for _, j := range l.jobs {
		l.answer(j, errStopped)
	}
	l.jobs = nil
	if l.flight != nil {
		l.flight.cancel()
	}
}

// end ends a sequence; err nil is a regular end, which the reader sees behind the last token. What the sequence holds goes
// now, or when its step is over.
func (l *loop) end(s *sequence, err error) {
	if s.over {
		return
	}
	s.over = true
	s.unwatch()
	if s.watcher != nil {
		s.watcher.stop()
	}
	if err != nil {
		l.meters.finished[outcome(err, "")].Inc()
		l.log.Debug("request ended", "request", s.request.ID, "error", err, "completion_tokens", s.usage.CompletionTokens)
	}
	if s.flying {
		if l.flight.alive--; l.flight.alive == 0 {
			l.flight.cancel() // nobody waits for this step
		}
	} else {
		l.drop(s)
	}
	if err != nil {
		l.deliver() // what was computed before comes before
		s.stream.end(err, s.usage)
	}
}

// drop frees the place and the pages of an ended sequence.
func (l *loop) drop(s *sequence) {
	l.pool.release(s.pages)
	s.forget()
	l.leave(s)
	if s.running {
		s.flow.held--
		l.running = remove(l.running, s)
	} else {
		l.queue = remove(l.queue, s)
	}
	l.fair.end(s.flow, s.placed, float64(s.said+len(s.request.Prompt))-s.cost, l.now())
	if s.placed {
		l.worked += s.cost - s.worked
	}
	l.box.left(s)
}
