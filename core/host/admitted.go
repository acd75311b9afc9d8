package host

import (
	"context"
	"errors"
	"fmt"

	"github.com/pimoe/pimoe/sdk"
)

var (
	// errBarred is why a quarantined replica has no process, errParked why one has none that its group does not want now.
	errBarred = errors.New("quarantined")
	errParked = errors.New("not wanted now")
)

// admitted waits while the replica is in quarantine or not wanted; false means that ctx ended. Whoever is set free is worth
// waiting for.
func (s *supervisor) admitted(ctx context.Context) bool {
	for waited := false; ; waited = true {
		why := s.barred.Load()
		switch {
		case s.parked.Load():
			s.unwanted()
		case why != nil:
			s.set(StateBarred, nil, fmt.Errorf("%w: it %s: %w", errBarred, *why, sdk.ErrUnavailable), true)
		default:
			if waited {
				s.set(StateStarting, nil, fmt.Errorf("%s: starting: %w", s.name, sdk.ErrUnavailable), false)
			}
			return ctx.Err() == nil
		}
		s.firstOnce.Do(func() { close(s.first) })
		select {
		case <-s.release:
		case <-ctx.Done():
			return false
		}
	}
}

// unwanted says that the replica has no process because none is wanted.
func (s *supervisor) unwanted() {
	s.anew = true
	s.set(StateParked, nil, fmt.Errorf("%s: %w: %w", s.name, errParked, sdk.ErrUnavailable), true)
}

// bar ends the process, also one that has taken the guilty one's place meanwhile, and keeps the supervisor from starting
// another one until free is called.
func (s *supervisor) bar(cause string) {
	if s.barred.CompareAndSwap(nil, &cause) {
		s.log.Error("replica is quarantined", "cause", cause)
		s.tell(Event{What: EventQuarantined, Object: s.name, Why: cause})
	}
	s.condemn(cause)
}

// free ends a quarantine. What it finds running has been part of it.
func (s *supervisor) free() {
	if s.barred.Swap(nil) != nil {
		s.tell(Event{What: EventReleased, Object: s.name, Why: "by an operator"})
	}
	s.condemn("was in quarantine")
	token(s.release)
}

// park keeps the supervisor from starting another process. The present one goes on until dismiss is called.
func (s *supervisor) park() {
	s.parked.Store(true)
	token(s.release)
}

// dismiss ends the process of a parked replica.
func (s *supervisor) dismiss() { token(s.leave) }

// unpark has a process started again.
func (s *supervisor) unpark() {
	select {
	case <-s.leave: // it had no process to end
	default:
	}
	s.parked.Store(false)
	token(s.release)
}
