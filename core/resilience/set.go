package resilience

import (
	"fmt"
	"slices"
	"time"
)

// State is what a replica may be used for (FAULTS 5.2). The process behind it has states of its own.
type State string

// The states.
const (
	Down        State = "down"        // no process that has passed its known-answer test
	Ready       State = "ready"       // gets calls
	Suspect     State = "suspect"     // gets calls only if no replica is ready
	Quarantined State = "quarantined" // gets none, until Release
	Draining    State = "draining"    // gets no new ones
)

// Outcome is how a call on a replica ended.
type Outcome int

// The outcomes.
const (
	Answered  Outcome = iota
	Failed            // the process died or did not answer in time
	Invalid           // it gave an answer that can't be right
	Overtaken         // the hedge was quicker, and the call was given up
	Dropped           // the caller went away, or its own mistake was refused: says nothing about the replica
)

// Verdict is what has to be done with a replica's process.
type Verdict int

// The verdicts.
const (
	Keep    Verdict = iota
	Replace         // by a fresh process of the same program
	Isolate         // it is quarantined: end the process and start none
)

const (
	// invalidLimit is how many invalid answers bring a replica into quarantine, over all its processes.
	invalidLimit = 3
	// forgiveAfter is how many good answers in a row erase an invalid one: a flaw of the hardware must not add up over weeks.
	forgiveAfter = 1 << 20
	// goodProbes make a suspect replica ready again.
	goodProbes = 3
	// slowFactor times the median of the others is too slow, over slowCalls calls.
	slowFactor, slowCalls = 3, 16
	// hedgeFloor is the least time after which a call is hedged.
	hedgeFloor = 2 * time.Millisecond
	// hangFactor times what 95 of 100 calls take is no slow answer any more: a busy machine makes tens of it.
	hangFactor = 100
)

// Options are what an operator may set; zero values are the defaults.
type Options struct {
	BreakerThreshold int     // failures in a row that open a replica's breaker
	RetryShare       float64 // retries for each success; 0 = 0.1
	HedgeShare       float64 // hedges for each success; 0 = 0.05, negative = none
}

// Set is the replicas of one expert group, numbered from 0. It is not safe for concurrent use.
type Set struct {
	members []member
	retries budget
	hedges  budget // has no share where hedging is switched off
	latency latency
	others  []float64 // of othersMedian, kept
	// Violated is called when an invariant does not hold (FAULTS 5.5). It must not be nil when something happens.
	Violated func(what string)
}

type member struct {
	state    State
	standby  bool
	inflight int
	invalid  int     // invalid answers that are not forgiven
	good     int     // good answers in a row since the latest invalid one
	probes   int     // good probes of a suspect in a row
	slow     float64 // moving mean of the time for a unit of work, in ns
	measured int     // calls in it; with none it begins anew
	breaker  breaker
}

// NewSet makes a set of so many replicas, all down. The last standbys of them get calls only while no other is ready.
func NewSet(replicas, standbys int, o Options) *Set {
	if o.BreakerThreshold <= 0 {
		o.BreakerThreshold = DefaultBreakerThreshold
	}
	if o.RetryShare == 0 {
		o.RetryShare = 0.1
	}
	if o.HedgeShare == 0 {
		o.HedgeShare = 0.05
	}
	s := &Set{
		members: make([]member, replicas), others: make([]float64, replicas),
		retries: newBudget(o.RetryShare, 10, 3), hedges: newBudget(max(o.HedgeShare, 0), 10, 0),
		Violated: func(what string) { panic("resilience: " + what) },
	}
	for i := range s.members {
		s.members[i] = member{state: Down, standby: i >= replicas-standbys, breaker: breaker{threshold: o.BreakerThreshold}}
	}
	return s
}

// State of a replica.
func (s *Set) State(i int) State { return s.members[i].state }

// Inflight is how many calls a replica has.
func (s *Set) Inflight(i int) int { return s.members[i].inflight }

// Up says that a replica's new process has passed its known-answer test.
func (s *Set) Up(i int) {
	m := &s.members[i]
	if m.state == Quarantined {
		s.Violated(fmt.Sprintf("replica %d comes up in quarantine", i))
		return
	}
	m.state, m.measured = Ready, 0
	m.breaker = breaker{threshold: m.breaker.threshold}
}

// StandBy says whether a replica gets calls only while no other is ready, as the last standbys do from the beginning.
func (s *Set) StandBy(i int, standby bool) { s.members[i].standby = standby }

// Down says that a replica has no process any more. A quarantine lasts.
func (s *Set) Down(i int) {
	if m := &s.members[i]; m.state != Quarantined {
		m.state = Down
	}
}

// Drain keeps new calls from a replica.
func (s *Set) Drain(i int) {
	if m := &s.members[i]; m.state == Ready || m.state == Suspect {
		m.state = Draining
	}
}

// Quarantine says that a replica has been caught with wrong numbers.
func (s *Set) Quarantine(i int) { s.members[i].state = Quarantined }

// Release ends a quarantine, by an operator's word or because of another program. The replica is down then.
func (s *Set) Release(i int) {
	m := &s.members[i]
	if m.state == Quarantined {
		m.state = Down
	}
	m.invalid = 0
}

// Doubt makes a ready replica suspect: it has missed a beat. A group's last ready replica stays what it is, since nothing
// would be won, and so does half of a group.
func (s *Set) Doubt(i int) {
	m := &s.members[i]
	if m.state != Ready || !s.canSpare() {
		return
	}
	m.state, m.probes = Suspect, 0
}

// Prefer says that a replica has answered a call that another one was too slow for: it is well, whatever was thought of it, so
// that of two replicas in doubt the one that answers gets the calls.
func (s *Set) Prefer(i int) {
	if m := &s.members[i]; m.state == Suspect {
		m.state, m.measured = Ready, 0
	}
}

// canSpare reports whether one more ready replica may be left out: as many are ready then as are out, so at least one is.
func (s *Set) canSpare() bool {
	ready, suspect := 0, 0
	for i := range s.members {
		switch s.members[i].state {
		case Ready:
			ready++
		case Suspect:
			suspect++
		}
	}
	return suspect+1 <= ready-1
}

// Probed takes the outcome of a known-answer test.
func (s *Set) Probed(i int, ok bool) {
	m := &s.members[i]
	if m.state != Suspect {
		return
	}
	if !ok {
		m.probes = 0
		return
	}
	if m.probes++; m.probes >= goodProbes {
		m.state, m.measured = Ready, 0
	}
}

// Pick is the replica for a call: of the ready ones, without those whose bit is set in avoid, the one with the fewest calls,
// the lowest number first; else of the suspect ones; -1 if there is none. A replica whose breaker is open comes last of all:
// an answer that may fail is better than none.
func (s *Set) Pick(now time.Time, avoid uint64) int {
	best, bestRank := -1, 4 // worse than any
	for i := range s.members {
		m := &s.members[i]
		if avoid&(1<<i) != 0 || m.state != Ready && m.state != Suspect {
			continue
		}
		rank := 0
		if m.standby {
			rank = 1
		}
		if m.state == Suspect {
			rank = 2
		}
		if !m.breaker.allows(now) {
			rank = 3
		}
		if rank < bestRank || rank == bestRank && m.inflight < s.members[best].inflight {
			best, bestRank = i, rank
		}
	}
	return best
}

// Begin notes a call on a replica that Pick has named.
func (s *Set) Begin(i int) {
	m := &s.members[i]
	if m.state != Ready && m.state != Suspect {
		s.Violated(fmt.Sprintf("a call is routed to replica %d, which is %s", i, m.state))
	}
	m.inflight++
	m.breaker.begin()
}

// End takes the outcome of a call that took so long for so much work, and says what has to be done with the process. draw is
// uniform in [0, 1).
func (s *Set) End(now time.Time, i int, o Outcome, took time.Duration, work, draw float64) Verdict {
	m := &s.members[i]
	if m.inflight--; m.inflight < 0 {
		s.Violated(fmt.Sprintf("replica %d has %d calls", i, m.inflight))
		m.inflight = 0
	}
	switch o {
	case Answered:
		s.answered(now, i, took, work, draw)
	case Failed:
		m.breaker.end(now, false, draw)
	case Invalid:
		m.breaker.end(now, false, draw)
		return s.Accuse(i)
	case Overtaken:
		m.breaker.end(now, false, draw)
		s.Doubt(i)
	case Dropped:
		m.breaker.abort()
	}
	return Keep
}

// Accuse counts an invalid answer, of a call or of a known-answer test, and says what has to be done with the process.
func (s *Set) Accuse(i int) Verdict {
	m := &s.members[i]
	m.good = 0
	if m.invalid++; m.invalid >= invalidLimit {
		m.state = Quarantined
		return Isolate
	}
	return Replace
}

func (s *Set) answered(now time.Time, i int, took time.Duration, work, draw float64) {
	m := &s.members[i]
	m.breaker.end(now, true, draw)
	s.retries.earn()
	s.hedges.earn()
	s.latency.add(took, work)
	if m.good++; m.good >= forgiveAfter {
		m.good, m.invalid = 0, max(m.invalid-1, 0)
	}
	const weight = 1. / slowCalls
	each := float64(took) / work
	if m.measured++; m.measured <= slowCalls {
		m.slow += (each - m.slow) / float64(m.measured)
		return
	}
	m.slow += (each - m.slow) * weight
	if took > hedgeFloor && m.slow > slowFactor*s.othersMedian(i) {
		s.Doubt(i)
	}
}

// othersMedian is the median (the lower one of two) of the other replicas' times; what is not known is no outlier's measure.
func (s *Set) othersMedian(i int) float64 {
	times := s.others[:0]
	for j := range s.members {
		if m := &s.members[j]; j != i && m.measured >= slowCalls && m.state == Ready {
			times = append(times, m.slow)
		}
	}
	if len(times) == 0 {
		return s.members[i].slow
	}
	slices.Sort(times)
	return times[(len(times)-1)/2]
}

// Retry asks whether a failed call may be repeated on another replica beside the first try; EndRetry gives it back.
func (s *Set) Retry() bool { return s.retries.take() }

// EndRetry says that a repeated call has ended.
func (s *Set) EndRetry() { s.retries.giveBack() }

// HedgeAfter is how long a call of so much work may take before it is hedged; false where hedging is switched off or too few
// calls are known. Whether another replica has room is asked when the time has come: one that starts now may be ready by then.
func (s *Set) HedgeAfter(work float64) (time.Duration, bool) {
	if s.hedges.share == 0 || s.latency.p95 == 0 {
		return 0, false
	}
	return max(s.latency.most(work), hedgeFloor), true
}

// HangAfter is how long a call of so much work may take before its process counts as hung; 0 while too few calls are known.
func (s *Set) HangAfter(work float64) time.Duration { return hangFactor * s.latency.most(work) }

// Hedge asks whether a call may be hedged now; EndHedge gives it back.
func (s *Set) Hedge() bool { return s.hedges.take() }

// EndHedge says that a hedge has ended.
func (s *Set) EndHedge() { s.hedges.giveBack() }
