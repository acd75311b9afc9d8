package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// grace is how long a request whose deadline is also the deadline of its step waits for the step's own error, which
// names the cause where "deadline exceeded" does not. Experts answer a passed deadline within milliseconds.
const grace = 100 * time.Millisecond

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

	tasks   chan task
	results chan result
	timer   *time.Timer
	stats   Stats
}

func newLoop(s setup, b *inbox) *loop {
	l := &loop{setup: s, box: b, meters: newMeters(s.metrics, b), pool: newPool(s.pages, s.pageTokens)}
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
		l.publish()
		l.arm()
		select {
		case <-l.box.wake:
		case <-l.timer.C:
		case r := <-l.results:
			l.land(r)
		}
	}
	l.publish()
	close(l.tasks)
	<-gone
}

// receive takes in what has come: new sequences, cancelled ones, jobs, the end.
func (l *loop) receive(m mail) {
	for _, s := range m.arrived {
		s.known = true
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
	l.jobs = append(l.jobs, m.jobs...)
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

// expire ends the requests whose deadline has passed.
func (l *loop) expire(now time.Time) {
	var late []*sequence
	for _, list := range [][]*sequence{l.queue, l.running} {
		for _, s := range list {
			if d := l.due(s); !d.IsZero() && !now.Before(d) {
				late = append(late, s)
			}
		}
	}
	for _, s := range late {
		l.end(s, cancelled(s.stream.name, sdk.ErrDeadline))
	}
}

// due is when the loop ends a sequence for its deadline; zero = never.
func (l *loop) due(s *sequence) time.Time {
	d := s.request.Deadline
	if s.over {
		return time.Time{}
	}
	if s.flying && !d.IsZero() && !d.Before(l.flight.deadline) {
		return d.Add(grace)
	}
	return d
}

// arm sets the timer to the next deadline.
func (l *loop) arm() {
	var next time.Time
	for _, list := range [][]*sequence{l.queue, l.running} {
		for _, s := range list {
			if d := l.due(s); !d.IsZero() && (next.IsZero() || d.Before(next)) {
				next = d
			}
		}
	}
	if next.IsZero() {
		l.timer.Stop()
		return
	}
	l.timer.Reset(max(next.Sub(l.now()), 0))
}

// end ends a sequence's stream; err nil is a regular end. What the sequence holds goes now, or when its step is over.
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
	l.publish() // who sees the end sees the figures too
	s.stream.end(err, s.usage)
}

// drop frees the place and the pages of an ended sequence.
func (l *loop) drop(s *sequence) {
	l.pool.release(s.pages)
	s.forget()
	if s.running {
		l.running = remove(l.running, s)
	} else {
		l.queue = remove(l.queue, s)
	}
	l.box.leave()
}

// launch starts the next flight, if there is anything to do. Jobs and steps take turns.
func (l *loop) launch() {
	if len(l.jobs) > 0 && l.stepped && l.launchJob() {
		return
	}
	l.admit()
	if entries := l.compose(); len(entries) > 0 {
		l.launchStep(entries)
		return
	}
	l.launchJob()
}

// launchStep hands a step to the worker. Its deadline is the latest of its requests: it serves all of them.
func (l *loop) launchStep(entries []entry) {
	now := l.now()
	l.stats.Steps++
	f := &flight{entries: entries, alive: len(entries)}
	rows := 0
	for _, e := range entries {
		rows += e.n
		d := e.s.request.Deadline
		if d.IsZero() { // no deadline of its own: the step still must not wait for ever
			d = now.Add(l.limits.RequestTimeout)
		}
		if d.After(f.deadline) {
			f.deadline = d
		}
		e.s.flying = true
		l.schedule(e.s, now)
	}
	var ctx context.Context
	ctx, f.cancel = context.WithTimeout(context.Background(), f.deadline.Sub(now))
	l.flight, l.stepped = f, true
	l.meters.steps.Inc()
	l.meters.sequences.Update(float64(len(entries)))
	l.meters.tokenRows.Update(float64(rows))
	l.tasks <- task{ctx: ctx, entries: entries}
}

// schedule notes the first step of a sequence.
func (l *loop) schedule(s *sequence, now time.Time) {
	if s.started {
		return
	}
	s.started = true
	s.usage.Queued = now.Sub(s.submitted)
	l.meters.queued.Update(s.usage.Queued.Seconds())
}

// launchJob starts the first job whose caller still waits.
func (l *loop) launchJob() bool {
	for len(l.jobs) > 0 {
		j := l.jobs[0]
		l.jobs = l.jobs[1:]
		if err := j.ctx.Err(); err != nil {
			l.answer(j, err)
			continue
		}
		ctx, cancel := context.WithCancel(j.ctx)
		l.flight, l.stepped = &flight{job: j, cancel: cancel}, false
		l.tasks <- task{ctx: ctx, job: j}
		return true
	}
	return false
}

// answer gives a job back to its caller.
func (l *loop) answer(j *job, err error) {
	if j.err == nil {
		j.err = err
	}
	close(j.done)
	l.box.leave()
}

// land takes the result of a flight.
func (l *loop) land(r result) {
	f := l.flight
	l.flight = nil
	f.cancel()
	if f.job != nil {
		if l.closed && f.job.err != nil {
			f.job.err = errStopped
		}
		l.answer(f.job, nil)
		return
	}
	l.meters.step.Update(r.took.Seconds())
	now := l.now()
	for i, e := range f.entries {
		s := e.s
		s.flying = false
		switch {
		case s.over:
			l.drop(s)
		case r.err != nil:
			l.end(s, fmt.Errorf("%s: %w", s.stream.name, classify(r.err)))
		default:
			l.advance(s, e, r.drawn[i], now)
		}
	}
}

// advance takes in what a step computed for a sequence.
func (l *loop) advance(s *sequence, e entry, d drawn, now time.Time) {
	s.computed += e.n
	if s.watcher != nil {
		s.watcher.advance(s.computed)
	}
	l.index(s)
	if !e.ready {
		return
	}
	if s.last.IsZero() {
		l.promptDone(s)
	}
	switch {
	case d.err != nil:
		l.end(s, fmt.Errorf("%s: %w", s.stream.name, d.err))
	case s.most == 0:
		l.emit(s, Token{Finish: FinishLength})
	default:
		l.token(s, d, now)
	}
}

// promptDone counts a prompt whose last token was computed for the first time.
func (l *loop) promptDone(s *sequence) {
	l.stats.PromptTokens += uint64(s.usage.PromptTokens)
	l.stats.CachedTokens += uint64(s.usage.CachedTokens)
	l.meters.prompt.Add(s.usage.PromptTokens)
	l.meters.reused.Add(s.usage.CachedTokens)
}

// token adds a chosen token to a sequence and to its stream.
func (l *loop) token(s *sequence, d drawn, now time.Time) {
	l.clock(s, now)
	t := Token{ID: d.id, Logprob: d.logprob, Top: d.top}
	if !s.request.IgnoreEOS && slices.Contains(l.eos, d.id) {
		t.Text, _ = s.text.close()
		t.Finish = FinishStop
		l.emit(s, t)
		return
	}
	s.tokens = append(s.tokens, d.id)
	s.usage.CompletionTokens++
	l.stats.CompletionTokens++
	l.meters.completion.Inc()
	t.HasToken = true
	var stopped bool
	t.Text, stopped = s.text.push(d.id)
	switch {
	case stopped:
		t.Finish = FinishStop
	case s.generated() >= s.most:
		t.Finish = FinishLength
		tail, stopped := s.text.close()
		t.Text += tail
		if stopped {
			t.Finish = FinishStop
		}
	}
	l.emit(s, t)
}

// clock measures the time to a token.
func (l *loop) clock(s *sequence, now time.Time) {
	if s.last.IsZero() {
		s.usage.FirstToken = now.Sub(s.submitted)
		l.meters.ttft.Update(s.usage.FirstToken.Seconds())
	} else if !s.parked { // the time in which a reader lagged is not ours
		l.meters.inter.Update(now.Sub(s.last).Seconds())
	}
	s.last, s.parked = now, false
}

// emit sends a token to the reader and ends the sequence with the last one.
func (l *loop) emit(s *sequence, t Token) {
	s.stream.push(t, s.usage)
	if t.Finish != "" {
		l.meters.finished[string(t.Finish)].Inc()
		l.end(s, nil)
	}
}

// publish shows the figures to Stats.
func (l *loop) publish() {
	l.stats.Running = len(l.running)
	l.stats.Pages = l.pages
	l.stats.FreePages = l.pool.available()
	l.stats.CachedPages = l.pool.idle
	l.box.publish(l.stats)
}
