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

// delivery is a token on its way to its reader.
type delivery struct {
	s     *sequence
	token Token
	usage Usage
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
		l.fair.wait(s.flow)
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
		l.fair.wait(j.flow)
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
			next = earlier(next, l.due(s))
			if s.outage.group != nil {
				next = earlier(next, s.outage.retry)
			}
		}
	}
	for _, j := range l.jobs {
		if j.outage.group != nil {
			next = earlier(next, j.outage.retry)
		}
	}
	switch {
	case next.Equal(l.alarm):
	case next.IsZero():
		l.timer.Stop()
	default:
		l.timer.Reset(max(next.Sub(l.now()), 0))
	}
	l.alarm = next
}

// earlier is the earlier of two times; zero = never.
func earlier(a, b time.Time) time.Time {
	if b.IsZero() || !a.IsZero() && a.Before(b) {
		return a
	}
	return b
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

// launch starts the next flight, if there is anything to do. Jobs and steps take turns.
func (l *loop) launch() {
	l.resume(l.now())
	if len(l.jobs) > 0 && l.stepped && l.launchJob(l.mayJob) {
		return
	}
	l.admit()
	if entries := l.compose(); len(entries) > 0 {
		l.launchStep(entries)
		return
	}
	l.patience.drop()
	l.launchJob(func(*job) bool { return true })
}

// launchStep hands a step to the worker. Its deadline is the latest of its requests: it serves all of them. One that
// has no deadline still must not wait for ever: it waits at least half of the configured time, and at most all of it.
func (l *loop) launchStep(entries []entry) {
	now := l.now()
	l.stats.Steps++
	var from, to time.Time
	rows := 0
	for _, e := range entries {
		rows += e.n
		early, late := e.s.request.Deadline, e.s.request.Deadline
		if late.IsZero() {
			early, late = now.Add(l.live.patience()/2), now.Add(l.live.patience())
		}
		from, to = latest(from, early), latest(to, late)
		e.s.flying = true
		l.schedule(e.s, now)
	}
	ctx, deadline := l.patience.get(from, to, now)
	l.flown = flight{entries: entries, alive: len(entries), deadline: deadline, began: now, cancel: l.patience.cancel, followed: l.flown.followed[:0]}
	ctx = l.flown.follow(ctx, rows)
	l.flight, l.stepped = &l.flown, true
	l.lift(now)
	l.meters.steps.Inc()
	l.meters.sequences.Update(float64(len(entries)))
	l.meters.tokenRows.Update(float64(rows))
	l.begin()
	l.tasks <- task{ctx: ctx, entries: entries, edition: entries[0].s.edition}
}

// latest is the later of two times.
func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
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

// lift notes the begin of a flight.
func (l *loop) lift(now time.Time) {
	l.crowded, l.launched = len(l.queue)+len(l.jobs) > 0, now
}

// launchJob starts the first job in the order of fair that may run and whose caller still waits.
func (l *loop) launchJob(may func(*job) bool) bool {
	l.fair.inTurn(l.jobs)
	for i := 0; i < len(l.jobs); {
		j := l.jobs[i]
		ready, err := j.outage.look(l.now(), l.live.patience())
		ready = ready && may(j)
		if e := j.ctx.Err(); e != nil {
			err = e
		}
		if !ready && err == nil {
			i++
			continue
		}
		l.jobs = slices.Delete(l.jobs, i, i+1)
		if err != nil {
			l.answer(j, err)
			continue
		}
		j, release := l.crowd(j)
		ctx, cancel := context.WithCancel(j.ctx)
		var edition uint64
		if l.editions != nil {
			edition, _ = l.editions.Enter()
		}
		l.flight, l.stepped = &flight{job: j, cancel: func() { cancel(); release() }, edition: edition}, false
		l.lift(l.now())
		l.begin()
		l.tasks <- task{ctx: ctx, job: j, edition: edition}
		return true
	}
	return false
}

// crowd joins a job with those that wait behind it and can run in the same calls, up to the tokens of a step, and charges their
// flows.
func (l *loop) crowd(j *job) (*job, context.CancelFunc) {
	l.turn(j)
	parts, rows := []*job{j}, j.input.Rows
	for i := 0; i < len(l.jobs); {
		o := l.jobs[i]
		if !j.joins(o) || rows+o.input.Rows > l.limits.MaxBatchTokens || o.ctx.Err() != nil {
			i++
			continue
		}
		l.turn(o)
		parts, rows = append(parts, o), rows+o.input.Rows
		l.jobs = slices.Delete(l.jobs, i, i+1)
	}
	if len(parts) == 1 {
		return j, func() {}
	}
	return join(parts)
}

// turn charges a job's flow for its first turn. What it repeats counts as worked off once.
func (l *loop) turn(j *job) {
	if j.begun {
		return
	}
	j.begun, j.tag = true, l.fair.start(j.flow, j.cost)
	l.worked += j.cost
	l.box.started(j.caller, j.cost)
}

// disperse ends a joined job: each part has its answer, or runs again by itself, so that nobody fails for another's rows.
func (l *loop) disperse(j *job) {
	if j.err == nil {
		j.split()
	}
	for _, p := range j.parts {
		switch {
		case j.err == nil:
			l.answer(p, nil)
		case l.closed:
			l.answer(p, errStopped)
		default:
			p.alone = true
			l.jobs = append(l.jobs, p)
		}
	}
}

// answer gives a job back to its caller.
func (l *loop) answer(j *job, err error) {
	if j.err == nil {
		j.err = err
	}
	if j.err == nil {
		l.meters.answers[j.lost.quality.Status()].Inc()
	}
	l.fair.end(j.flow, j.begun, 0, l.now())
	close(j.done)
	l.box.leave(j)
}

// land takes the result of a flight.
func (l *loop) land(r result) {
	f := l.flight
	l.flight = nil
	l.charge(f)
	if f.job != nil {
		f.cancel()
		l.measure(l.now())
		l.reckonJobs(f.job.callers(), r.took)
		if l.editions != nil {
			l.editions.Leave(f.edition)
		}
		if f.job.parts != nil {
			l.disperse(f.job)
			return
		}
		if l.closed && f.job.err != nil {
			f.job.err = errStopped
		}
		if missing := f.job.lost.missing; f.job.err == nil && missing.Err != nil {
			if f.job.err = f.job.outage.begin(missing, l.now()); f.job.err == nil && l.closed {
				f.job.err = errStopped
			}
			if f.job.err == nil {
				l.jobs = append(l.jobs, f.job)
				return
			}
		}
		l.answer(f.job, nil)
		return
	}
	f.unfollow(r.err)
	if r.err != nil {
		l.patience.drop() // what the step has left behind ends with its context
	}
	l.meters.step.Update(r.took.Seconds())
	l.learn(f.entries, r.took)
	now := l.now()
	if l.outcome != nil {
		l.outcome(l.outcomeOf(f.entries, r.err, now))
	}
	for _, e := range f.entries {
		s := e.s
		s.flying = false
		switch {
		case s.over:
			l.drop(s)
		case r.err != nil:
			l.end(s, fmt.Errorf("%s: %w", s.stream.name, classify(r.err)))
		case s.step.missing.Err != nil:
			l.suspend(s, now)
		default:
			if w := s.watcher; w != nil && w.observer.Step != nil {
				w.step(s.computed+e.n-1, s.waited(f.began), r.took)
			}
			l.advance(s, e, now)
		}
	}
	l.measure(now)
}

// measure notes what has been worked off until the end of a flight beside which others waited.
func (l *loop) measure(now time.Time) {
	if l.crowded && now.After(l.launched) {
		l.box.measured(l.worked, now.Sub(l.launched))
	}
	l.worked = 0
}

// waited is how long a sequence has waited for a step: since its last token, or before its first step.
func (s *sequence) waited(began time.Time) time.Duration {
	if s.last.IsZero() {
		return s.usage.Queued
	}
	return began.Sub(s.last)
}

// learn tells the pace of a step with prompts, and the price of every step.
func (l *loop) learn(entries []entry, took time.Duration) {
	rows := 0
	var all load
	for _, e := range entries {
		rows += e.n
		all.add(e.n)
	}
	l.courtesy.price.took(all, took)
	if rows > len(entries) && took > 0 {
		l.pace.took(rows, took)
	}
}

// oldest is when the oldest request that has not had its first step was submitted; zero = there is none.
func (l *loop) oldest() (at time.Time) {
	for _, list := range [...][]*sequence{l.queue, l.running} {
		if i := slices.IndexFunc(list, func(s *sequence) bool { return !s.started }); i >= 0 {
			at = earlier(at, list[i].submitted)
		}
	}
	return at
}

// outcomeOf sums up a step that is over. A step that failed has chosen nothing.
func (l *loop) outcomeOf(entries []entry, err error, now time.Time) Outcome {
	var o Outcome
	if oldest := l.oldest(); !oldest.IsZero() {
		o.Waiting = max(now.Sub(oldest), 0)
	}
	if err != nil {
		return o
	}
	for _, e := range entries {
		for _, d := range e.s.drawn {
			if d.scored && d.logprob-d.logprob == 0 { // a given token may be impossible
				o.Tokens++
				o.LogProb += float64(d.logprob)
			}
		}
	}
	return o
}

// advance takes in what a step computed for a sequence.
func (l *loop) advance(s *sequence, e entry, now time.Time) {
	s.settle()
	s.computed += e.n
	l.work(s, e.n)
	if s.watcher != nil {
		s.watcher.advance(s.computed)
	}
	l.index(s)
	if s.computed < len(s.request.Prompt) {
		return
	}
	if s.last.IsZero() {
		l.promptDone(s)
	}
	if s.most == 0 {
		l.emit(s, Token{Finish: FinishLength})
		return
	}
	for _, d := range s.drawn {
		if d.err != nil {
			l.end(s, fmt.Errorf("%s: %w", s.stream.name, d.err))
		}
		if s.over {
			return
		}
		l.token(s, d, now)
	}
}

// work counts what a step has done for a sequence; what it was not expected to need does not count.
func (l *loop) work(s *sequence, tokens int) {
	n := min(float64(tokens), s.cost-s.worked)
	s.worked += n
	l.worked += n
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
	t := Token{ID: d.id, Top: d.top}
	if s.request.Logprobs >= 0 {
		t.Logprob = d.logprob
	}
	if !s.request.IgnoreEOS && slices.Contains(l.eos, d.id) {
		t.Finish = FinishStop
	} else {
		t.HasToken = true
		if s.told() == len(s.tokens) { // it was not given
			s.tokens = append(s.tokens, d.id)
		}
		s.said++
		s.usage.CompletionTokens++
		l.stats.CompletionTokens++
		l.meters.completion.Inc()
		switch {
		case d.done || d.whole && s.said >= s.most:
			t.Finish = FinishStop
		case s.said >= s.most:
			t.Finish = FinishLength
		}
	}
	if s.text != nil {
		s.text.fill(&t)
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

// emit puts a token into the outbox and ends the sequence with the last one.
func (l *loop) emit(s *sequence, t Token) {
	t.Quality = s.usage.Quality
	l.outbox = append(l.outbox, delivery{s, t, s.usage})
	s.unsent++
	if t.Finish != "" {
		l.meters.finished[string(t.Finish)].Inc()
		l.meters.answers[t.Quality.Status()].Inc()
		l.end(s, nil)
	}
}

// deliver gives the outbox to the readers. The loop does this when the next step is under way, so that they wake up and
// write beside it. Who sees an end sees the figures too.
func (l *loop) deliver() {
	l.publish()
	for i := range l.outbox {
		d := &l.outbox[i]
		d.s.unsent--
		d.s.stream.push(d.token, d.usage)
		*d = delivery{}
	}
	l.outbox = l.outbox[:0]
}

// publish shows the figures to Stats.
func (l *loop) publish() {
	l.stats.Running = len(l.running)
	l.stats.Pages = l.pages
	l.stats.FreePages = l.pool.available()
	l.stats.CachedPages = l.pool.idle
	l.box.publish(l.stats, l.oldest())
}
