package engine

import (
	"fmt"
	"math"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

// OverloadError refuses a request because it would wait for too long, or too many wait already. It is sdk.ErrOverloaded.
type OverloadError struct {
	Why   string
	After time.Duration // then it would be taken, if nobody else comes; 0 = not known
}

func (e *OverloadError) Error() string { return fmt.Sprintf("%s: %v", e.Why, ErrQueueFull) }

// Unwrap makes it ErrQueueFull.
func (e *OverloadError) Unwrap() error { return ErrQueueFull }

// admission decides whether a request may wait: by how many do, and by how long it would have to. The second is foretold from
// the tokens of the requests before it and the rate at which the last seconds' steps have worked off such tokens. Both are
// the engine's own estimates, made the same way, so an error of the estimate cancels out.
//
// A tenant's wait counts its own requests, by its share, and those of others only as far as they go first: a flood makes
// its tenant wait, and is refused, while others are taken.
//
// It holds values only; the inbox owns it.
type admission struct {
	lines  map[flowKey]*line
	live   int     // requests and jobs
	active float64 // weights of the lines
	speed  speed
	length length
}

// line is a flow as admission sees it.
type line struct {
	weight float64
	live   int
	queued float64 // tokens of those that wait
}

func newAdmission() *admission {
	return &admission{lines: map[flowKey]*line{}, length: length{mean: firstLength}}
}

// foretold is how long a request of a flow would wait from now, if every flow that waits is worked off by its weight until it has
// nothing more; 0 = not at all, or nobody knows.
func (a *admission) foretold(key flowKey, weight float64) time.Duration {
	own, rate := a.lines[key], a.speed.rate()
	if own == nil || rate <= 0 {
		return 0
	}
	before := own.queued
	for _, l := range a.lines {
		if l != own {
			before += min(l.queued, own.queued*l.weight/weight)
		}
	}
	return time.Duration(before / rate * float64(time.Second))
}

// check says why a request can't wait; nil = it may.
func (a *admission) check(key flowKey, l *config.Limits, now, deadline time.Time) error {
	weight := key.weight(l)
	if most := l.MaxConcurrentRequests + l.MaxQueuedRequests; a.live >= most && !a.within(key, weight, most) {
		return &OverloadError{"as many requests as the limits allow run and wait", a.turnover()}
	}
	wait := a.foretold(key, weight)
	if target := l.MaxQueueTime; target > 0 && wait > target {
		return &OverloadError{fmt.Sprintf("it would wait for %s", wait.Round(time.Millisecond)), wait - target}
	}
	if !deadline.IsZero() && wait > 0 && now.Add(wait).After(deadline) {
		return &OverloadError{fmt.Sprintf("it would wait for %s, beyond its deadline", wait.Round(time.Millisecond)), wait - deadline.Sub(now)}
	}
	return nil
}

// within reports whether a flow has less than its share of the requests that may live: the share is kept for it, however
// many of others there are. So there are never more than twice as many as the limits say, and more than the limits say only
// while several flows wait.
func (a *admission) within(key flowKey, weight float64, most int) bool {
	l := a.lines[key]
	if l == nil {
		return len(a.lines) > 0 && a.live < 2*most && float64(most)*weight >= a.active+weight
	}
	return a.live < 2*most && float64(l.live+1)*a.active <= float64(most)*weight
}

// turnover is about how long it takes until a request ends.
func (a *admission) turnover() time.Duration {
	rate := a.speed.rate()
	if rate <= 0 || a.live == 0 {
		return 0
	}
	return time.Duration(a.length.mean / rate * float64(time.Second))
}

// enter counts a request that waits.
func (a *admission) enter(key flowKey, l *config.Limits, cost float64) {
	a.live++
	e := a.lines[key]
	if e == nil {
		e = &line{weight: key.weight(l)}
		a.lines[key] = e
		a.active += e.weight
	}
	e.live++
	e.queued += cost
}

// start counts a request that waits no longer.
func (a *admission) start(key flowKey, cost float64) {
	if e := a.lines[key]; e != nil {
		if e.queued -= cost; e.queued < 0.5 { // what rounding leaves is no token
			e.queued = 0
		}
	}
}

// leave counts a request out.
func (a *admission) leave(key flowKey) {
	a.live--
	e := a.lines[key]
	if e == nil {
		return
	}
	if e.live--; e.live == 0 {
		delete(a.lines, key)
		if a.active -= e.weight; len(a.lines) == 0 {
			a.active = 0
		}
	}
}

// speed is how many tokens a second are worked off while requests wait, over the last seconds of such time.
type speed struct {
	tokens, seconds float64
	steps           int // that were measured, up to speedSteps
}

const (
	// speedMemory is over how many seconds speed is measured: long beside a step, short beside a reader's patience.
	speedMemory = 2
	// speedLeast is how many seconds must have been measured before anybody is refused by them.
	speedLeast = 0.25
	// speedSteps is how many steps must have been: the first one with a queue behind it may have waited for a core, which says
	// nothing of the next ones. From then on one slow step is a small part of what is remembered.
	speedSteps = 4
)

func (s *speed) add(tokens float64, took time.Duration) {
	s.steps = min(s.steps+1, speedSteps)
	fade := math.Exp(-took.Seconds() / speedMemory)
	s.tokens, s.seconds = s.tokens*fade+tokens, s.seconds*fade+took.Seconds()
}

// rate is 0 while too little is known.
func (s *speed) rate() float64 {
	if s.seconds < speedLeast || s.steps < speedSteps {
		return 0
	}
	return s.tokens / s.seconds
}

// length is how long answers are, on average over the last ones.
type length struct{ mean float64 }

const (
	firstLength  = 128 // tokens, before any answer has ended
	lengthMemory = 32  // answers
)

func (l *length) add(tokens int) { l.mean += (float64(tokens) - l.mean) / lengthMemory }

// cost is what a request is expected to take: its prompt, and an answer of the usual length within its limit.
func (l *length) cost(prompt, most int) float64 {
	return float64(prompt) + min(float64(most), max(l.mean, 1))
}
