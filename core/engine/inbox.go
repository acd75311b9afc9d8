package engine

import (
	"fmt"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
)

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
