package host

import "time"

// The restart rules of FAULTS 5.1: a process that had worked is restarted at once (but see giveWay), however often; deaths before the
// first answer wait longer and longer, and too many of them in a short time mean that a restart does not help. What
// others did to a process, a SIGKILL or a SIGSTOP, says nothing about the next one: a replica that stands by and is killed
// again and again before its first call is no crash loop.
const (
	firstBackoff   = 50 * time.Millisecond
	maxBackoff     = 5 * time.Second
	intensity      = 5
	intensityOver  = 30 * time.Second
	halfOpenPeriod = 60 * time.Second
	healthyAfter   = 60 * time.Second // an idle process that lived so long counts as one that had worked
	struckAfter    = time.Second      // the same of one that was ended from outside
	freeStrikes    = 3                // ends from outside in a row, each sooner than that, without a wait
	maxStrikeWait  = time.Second
)

// ending is how a process or a start ended.
type ending int

const (
	broken ending = iota // by itself, before it had worked
	struck               // from outside, before it had worked
	worked               // it had answered a real call
)

// restarts decides when a process is started again. It is a pure state machine: time and randomness are arguments.
type restarts struct {
	failures []time.Time // starts that failed or died before they answered, within intensityOver
	streak   int         // such deaths in a row
	strikes  int         // ends from outside in a row
}

// next takes one end; draw is uniform in [0, 1). It returns how long to wait, and failed when the process has died too
// often to count on it.
func (r *restarts) next(now time.Time, end ending, draw float64) (wait time.Duration, failed bool) {
	switch end {
	case worked:
		*r = restarts{}
		return 0, false
	case struck:
		if r.strikes++; r.strikes <= freeStrikes {
			return 0, false
		}
		return backoff(r.strikes-freeStrikes, maxStrikeWait, draw), false
	}
	r.streak++
	kept := r.failures[:0]
	for _, t := range r.failures {
		if now.Sub(t) < intensityOver {
			kept = append(kept, t)
		}
	}
	r.failures = append(kept, now)
	if len(r.failures) > intensity {
		return halfOpenPeriod, true
	}
	return backoff(r.streak, maxBackoff, draw), false
}

// backoff is the wait after so many ends in a row, with full jitter.
func backoff(streak int, most time.Duration, draw float64) time.Duration {
	ceiling := min(firstBackoff<<min(streak-1, 16), most)
	return time.Duration(draw * float64(ceiling))
}
