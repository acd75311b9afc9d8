package jobs

import (
	"cmp"
	"time"
)

// index is what the scheduler and the limits need of the jobs, in memory. It follows the database: who changes a record
// there changes it here afterwards.
type index struct {
	tenants map[string]*tenant
	bytes   int64 // of all
	turn    int64 // how often a job was started
}

// tenant is one tenant's part.
type tenant struct {
	jobs   map[place]entry
	bytes  int64
	active int   // running ones
	turn   int64 // of the index when one was started last
}

// entry is what is known of a job.
type entry struct {
	state     State // empty = not yet written
	created   time.Time
	finished  time.Time
	notBefore time.Time
	bytes     int64
}

func newIndex() index { return index{tenants: map[string]*tenant{}} }

// put adds a job or replaces what is known of it.
func (x *index) put(at place, j Job) {
	t := x.tenants[at.tenant]
	if t == nil {
		t = &tenant{jobs: map[place]entry{}}
		x.tenants[at.tenant] = t
	}
	t.change(x, at, entry{j.State, j.Created, j.Finished, j.NotBefore, j.Bytes()})
}

func (x *index) remove(at place) {
	t := x.tenants[at.tenant]
	if t == nil {
		return
	}
	t.change(x, at, entry{})
	delete(t.jobs, at)
	if len(t.jobs) == 0 {
		delete(x.tenants, at.tenant)
	}
}

// change keeps the sums.
func (t *tenant) change(x *index, at place, e entry) {
	old := t.jobs[at]
	t.bytes += e.bytes - old.bytes
	x.bytes += e.bytes - old.bytes
	if old.state == Running {
		t.active--
	}
	if e.state == Running {
		t.active++
	}
	t.jobs[at] = e
}

func (x *index) use(tenant string) (count int, bytes int64) {
	if t := x.tenants[tenant]; t != nil {
		return len(t.jobs), t.bytes
	}
	return 0, 0
}

// next is the job to start: of the tenant with the fewest running ones, then of the one whose last start is longest ago, so
// that many jobs of one tenant do not keep the others waiting; of its jobs the oldest. wait is how long until one that is
// put off may start, 0 if there is none.
func (x *index) next(now time.Time) (at place, ok bool, wait time.Duration) {
	var best *tenant
	for _, t := range x.tenants {
		if best != nil && cmp.Or(cmp.Compare(t.active, best.active), cmp.Compare(t.turn, best.turn)) >= 0 {
			continue
		}
		p, found, until := t.oldest(now)
		if until > 0 && (wait == 0 || until < wait) {
			wait = until
		}
		if found {
			best, at, ok = t, p, true
		}
	}
	if ok {
		x.turn++
		best.turn = x.turn
	}
	return at, ok, wait
}

// oldest is the tenant's queued job that was made first and may start.
func (t *tenant) oldest(now time.Time) (at place, ok bool, wait time.Duration) {
	for p, e := range t.jobs {
		if e.state != Queued {
			continue
		}
		if until := e.notBefore.Sub(now); until > 0 {
			if wait == 0 || until < wait {
				wait = until
			}
			continue
		}
		if !ok || string(p.id[:]) < string(at.id[:]) {
			at, ok = p, true
		}
	}
	return at, ok, wait
}

// outlived are the jobs whose time is up: those that are over, and those that never got their turn.
func (x *index) outlived(now time.Time, retention time.Duration) (over, waiting []place) {
	for _, t := range x.tenants {
		for p, e := range t.jobs {
			switch {
			case e.state.Over() && now.Sub(e.finished) >= retention:
				over = append(over, p)
			case e.state == Queued && now.Sub(e.created) >= retention:
				waiting = append(waiting, p)
			}
		}
	}
	return over, waiting
}

// count is how many jobs are in a state.
func (x *index) count(s State) (n int) {
	for _, t := range x.tenants {
		for _, e := range t.jobs {
			if e.state == s {
				n++
			}
		}
	}
	return n
}

// Count is how many jobs a tenant, or all, have in each state.
func (j *Jobs) Count(tenant string, all bool) map[State]int {
	out := map[State]int{}
	for _, s := range States {
		out[s] = 0
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for name, t := range j.index.tenants {
		if name != tenant && !all {
			continue
		}
		for _, e := range t.jobs {
			if e.state != "" {
				out[e.state]++
			}
		}
	}
	return out
}
