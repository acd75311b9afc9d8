package engine

import (
	"time"

	"github.com/pimoe/pimoe/sdk"
)

// grace is how long a request whose deadline is also the deadline of its step waits for the step's own error, which
// names the cause where "deadline exceeded" does not. Experts answer a passed deadline within milliseconds.
const grace = 100 * time.Millisecond

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
