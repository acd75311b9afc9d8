package resilience

import (
	"slices"
	"time"
)

const (
	latencyKept = 128 // latest calls of a group that the quantile is of
	latencyTurn = 32  // calls after which it is computed anew
)

// latency keeps a quantile of the time that a call takes for a unit of work. Calls of a group differ a hundredfold in their
// rows, so their times alone would say nothing.
type latency struct {
	kept     [latencyKept]float64 // ns for a unit of work
	at, seen int
	turn     int
	p95      float64
	scratch  [latencyKept]float64
}

func (l *latency) add(took time.Duration, work float64) {
	l.kept[l.at], l.at, l.seen = float64(took)/work, (l.at+1)%latencyKept, min(l.seen+1, latencyKept)
	if l.turn++; l.turn < latencyTurn {
		return
	}
	l.turn = 0
	s := l.scratch[:l.seen]
	copy(s, l.kept[:l.seen])
	slices.Sort(s)
	l.p95 = s[len(s)*95/100]
}

// most is the time within which 95 of 100 calls of so much work have ended; 0 while too few are known.
func (l *latency) most(work float64) time.Duration { return time.Duration(l.p95 * work) }
