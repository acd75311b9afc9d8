package host

import (
	"slices"
	"time"

	"github.com/pimoe/pimoe/core/resilience"
)

// demand is how much a group is asked for. Its owner guards it.
type demand struct {
	calls  []int       // under way, by replica
	since  []time.Time // of a replica's first call under way
	busy   time.Duration
	looked time.Time // when busy was last taken

	slots   []int // calls that a replica computes at once; 0 while it has no process
	room    int   // their sum
	under   int   // calls under way
	waiting int   // calls that wait for a process
	queue   time.Time
}

func newDemand(replicas int, now time.Time) demand {
	return demand{calls: make([]int, replicas), since: make([]time.Time, replicas), slots: make([]int, replicas), looked: now}
}

// takes notes a replica's new process, nil when it has none any more.
func (d *demand) takes(r int, inc *incarnation) {
	d.room -= d.slots[r]
	d.slots[r] = 0
	if inc != nil {
		lanes, _ := inc.proc.Lanes()
		if d.slots[r] = lanes; lanes == 0 { // over gRPC
			d.slots[r] = maxLanes
		}
	}
	d.room += d.slots[r]
}

func (d *demand) begin(now time.Time, r int) {
	if d.calls[r]++; d.calls[r] == 1 {
		d.since[r] = now
	}
	d.under++
	d.note(now)
}

func (d *demand) end(now time.Time, r int) {
	if d.calls[r]--; d.calls[r] == 0 {
		d.busy += now.Sub(later(d.since[r], d.looked))
	}
	d.under--
	d.note(now)
}

// wait counts calls that begin (1) or end (-1) to wait for a process.
func (d *demand) wait(now time.Time, more int) {
	d.waiting += more
	d.note(now)
}

// note keeps since when there is a queue without a break.
func (d *demand) note(now time.Time) {
	switch {
	case d.under+d.waiting <= d.room:
		d.queue = time.Time{}
	case d.queue.IsZero():
		d.queue = now
	}
}

// take is how many replicas had a call, on average since it was last taken, and the age of the queue.
func (d *demand) take(now time.Time) (load float64, queue time.Duration) {
	for r, n := range d.calls {
		if n > 0 {
			d.busy += now.Sub(later(d.since[r], d.looked))
		}
	}
	if took := now.Sub(d.looked); took > 0 {
		load = float64(d.busy) / float64(took)
	}
	d.busy, d.looked = 0, now
	d.note(now) // a process may have come or gone
	if !d.queue.IsZero() {
		queue = now.Sub(d.queue)
	}
	return load, queue
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// wait counts calls that begin (1) or end (-1) to wait for a process.
func (g *group) wait(more int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.demand.wait(time.Now(), more)
}

// asked is what was asked of the group since the last look.
func (g *group) asked(now time.Time) (load float64, queue time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.demand.take(now)
}

// present is how many of its replicas get calls and how many are in quarantine, without those that stand by.
func (g *group) present() (ready, out int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for r := range g.spec.most() {
		switch st := g.set.State(r); {
		case g.replicas[r].parked.Load():
		case st == resilience.Ready || st == resilience.Suspect:
			ready++
		case st == resilience.Quarantined:
			out++
		}
	}
	return ready, out
}

// serving are the supervisors of all replicas that are not parked.
func (g *group) serving() []*supervisor {
	return slices.DeleteFunc(slices.Clone(g.replicas), func(s *supervisor) bool { return s.parked.Load() })
}

// size is how many replicas the group has, without those that stand by.
func (g *group) size() int {
	n := 0
	for _, s := range g.replicas[:g.spec.most()] {
		if !s.parked.Load() {
			n++
		}
	}
	return n
}
