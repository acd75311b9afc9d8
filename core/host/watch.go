package host

import (
	"context"
	"sync"
	"time"

	"github.com/pimoe/pimoe/sdk/client"
)

const (
	// lookEvery is the period of looks at a heartbeat, and silentLooks how many may find no change: three beats. A process
	// that merely gets too little processor time must not be taken for a dead one.
	lookEvery   = time.Second
	silentLooks = 3 * client.BeatEvery / lookEvery
	// stopPatience is how long a process may be stopped. The kernel tells of a stop; somebody may let it go on at once.
	stopPatience = 200 * time.Millisecond
	// pingEvery and pingPatience stand in for the beats of a process without shared memory.
	pingEvery    = 300 * time.Millisecond
	pingPatience = 3 * time.Second
	// probeEvery is the period of a process's known-answer test, idle or busy, and probeShare the least time between two tests
	// in all: a test wakes an idle process, and there may be some dozens of them.
	probeEvery = 5 * time.Second
	probeShare = 500 * time.Millisecond
	probeSoon  = 200 * time.Millisecond // of a process in doubt
	probeLimit = 5 * time.Second
	stopWithin = 2 * time.Second
)

// causeStopped is the death of a process that somebody has sent SIGSTOP.
const causeStopped = "hung (stopped)"

// watch returns the reason why the process has to be replaced, or "" when ctx ended or no process is wanted.
func (s *supervisor) watch(ctx context.Context, inc *incarnation) string {
	if s.lenient {
		return s.watchGuest(ctx, inc)
	}
	look := time.NewTimer(untilLook())
	defer look.Stop()
	probing, stopProbing := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { s.probe(probing, inc) })
	if _, beats := inc.proc.Beat(); !beats {
		probes.Go(func() { s.ping(probing, inc) })
	}
	defer func() { stopProbing(); probes.Wait() }()
	pulse, doomed := newPulse(time.Now()), false
	var patience <-chan time.Time // runs while the process is stopped
	for {
		children := s.fleet.children.wait() // before the state: a change after this look is told
		stopped := inc.proc.Stopped()
		switch {
		case !stopped:
			patience = nil
		case patience == nil:
			patience = time.After(stopPatience)
		}
		select {
		case <-ctx.Done():
			return ""
		case <-s.leave:
			if s.parked.Load() {
				return ""
			}
		case <-inc.proc.Exited():
			return deathOf(inc.proc.Death()).describe()
		case <-inc.condemn:
			return *inc.verdict.Load()
		case <-children:
		case <-patience:
			if inc.proc.Stopped() {
				return causeStopped
			}
			patience = nil
		case now := <-look.C:
			look.Reset(untilLook())
			if count, ok := inc.proc.Beat(); ok && pulse.silent(now, count) {
				return "hung (no heartbeat)"
			}
			if doomed && !inc.gone() { // for a whole look: an end takes milliseconds
				return "hung (one of its threads has ended)"
			}
			doomed = inc.proc.Ending()
		}
	}
}

// watchGuest is watch for a process that somebody debugs: only its end counts, or what it answers.
func (s *supervisor) watchGuest(ctx context.Context, inc *incarnation) string {
	select {
	case <-ctx.Done():
		return ""
	case <-inc.proc.Exited():
		return deathOf(inc.proc.Death()).describe()
	case <-inc.condemn:
		return *inc.verdict.Load()
	}
}

// untilLook is the time to the next look at the heartbeats. All supervisors look at the same moments: that is one waking of
// an idle host, and not one for each process.
func untilLook() time.Duration {
	return time.Until(time.Now().Truncate(lookEvery).Add(lookEvery))
}

// probe repeats the known-answer test while the process lives; a wrong or missing answer condemns the process.
func (s *supervisor) probe(ctx context.Context, inc *incarnation) {
	for s.awaitProbe(ctx) {
		one, cancel := context.WithTimeout(ctx, probeLimit)
		err := inc.probe(one)
		cancel()
		if s.news.probed != nil && ctx.Err() == nil {
			s.news.probed(inc, err)
		}
		if err != nil && ctx.Err() == nil {
			if !inc.proc.Ending() { // else its death says more than the failed probe
				s.log.Warn("known-answer test failed", "pid", inc.proc.PID(), "err", err)
				inc.condemned("failed its known-answer test")
			}
			return
		}
	}
}

// awaitProbe waits until the next known-answer test is due; false means that ctx ended.
func (s *supervisor) awaitProbe(ctx context.Context) bool {
	select { // an old doubt: untilProbe knows of those that last
	case <-s.doubted:
	default:
	}
	due := time.NewTimer(s.untilProbe())
	defer due.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-due.C:
		return true
	case <-s.doubted:
	}
	select {
	case <-due.C: // both at once are one
		return true
	default:
		return sleep(ctx, min(probeSoon, s.untilProbe()))
	}
}

// hasten has the process asked a known question soon: it is in doubt.
func (s *supervisor) hasten() { token(s.doubted) }

// untilProbe is the time to the next known-answer test. A process in doubt is asked soon.
func (s *supervisor) untilProbe() time.Duration {
	if s.news.hurry != nil && s.news.hurry() {
		return probeSoon
	}
	return max(probeEvery, time.Duration(s.fleet.size())*probeShare)
}

// ping stands in for the heartbeat of a process without shared memory.
func (s *supervisor) ping(ctx context.Context, inc *incarnation) {
	for sleep(ctx, pingEvery) {
		one, cancel := context.WithTimeout(ctx, pingPatience)
		err := inc.proc.Ping(one)
		cancel()
		if err != nil && ctx.Err() == nil {
			inc.condemned("hung (no answer to a ping)")
			return
		}
	}
}
