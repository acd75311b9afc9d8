package host

import "time"

// The restart rules of FAULTS 5.1: a process that had worked is restarted at once, however often; deaths before the
// first answer wait longer and longer, and too many of them in a short time mean that a restart does not help.
const (
	firstBackoff   = 50 * time.Millisecond
	maxBackoff     = 5 * time.Second
	intensity      = 5
	intensityOver  = 30 * time.Second
	halfOpenPeriod = 60 * time.Second
	healthyAfter   = 60 * time.Second // an idle process that lived so long counts as one that had worked
)

// restarts decides when a process is started again. It is a pure state machine: time and randomness are arguments.
type restarts struct {
	failures []time.Time // starts that failed or died before they answered, within intensityOver
	streak   int         // such deaths in a row
}

// next takes one death. worked says that the process had answered a real call; draw is uniform in [0, 1). It returns
// how long to wait, and failed when the process has died too often to count on it.
func (r *restarts) next(now time.Time, worked bool, draw float64) (wait time.Duration, failed bool) {
	if worked {
		r.failures, r.streak = nil, 0
		return 0, false
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
	ceiling := min(firstBackoff<<min(r.streak-1, 16), maxBackoff)
	return time.Duration(draw * float64(ceiling)), false
}
