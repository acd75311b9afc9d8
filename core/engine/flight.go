package engine

import (
	"fmt"
	"slices"
	"time"
)

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

// lift notes the begin of a flight.
func (l *loop) lift(now time.Time) {
	l.crowded, l.launched = len(l.queue)+len(l.jobs) > 0, now
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

// land takes the result of a flight.
func (l *loop) land(r result) {
	f := l.flight
	l.flight = nil
	l.charge(f)
	if f.job != nil {
		l.landJob(f, r.took)
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
		l.landed(f, e, r, now)
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

// landed takes in what a step has done for one of its sequences.
func (l *loop) landed(f *flight, e entry, r result, now time.Time) {
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
