package cost

import (
	"cmp"
	"slices"
)

// Unit is an expert of a layer, and the group that serves it.
type Unit struct {
	Group  string
	Layer  int
	Expert int
}

// Work is what a unit has had to do; what is counted only grows.
type Work struct {
	Unit
	Size  int64 // bytes of its weights
	Rows  int64 // that it has computed
	Done  int64 // rows, and for each call as many as reading the weights is worth
	Bytes int64 // of weights that its calls have read
}

// units are the accounts of units. What a group has used between two looks is shared by the units that have ended calls in
// between: CPU time and energy by what they have done times the size of their weights, bytes by what they have read. Before a call
// has ended, it waits; while nothing is computed it is nobody's. So the accounts of a group add up to what it has used.
type units struct {
	accounts map[Unit]*unitAccount
	order    []*unitAccount // as in the last look
	seen     map[place]*Work
	groups   map[string]*groupAccount

	done, read []int64 // the weights of a group's units, at a look
}

// place is a unit wherever it is served.
type place struct{ layer, expert int }

type unitAccount struct {
	Unit
	seen *Work // its counters at the last look that shared something; another group's account of the unit has the same
	rows int64
	used Used
}

// groupAccount is what a group has used that is no unit's.
type groupAccount struct{ idle, waiting Used }

func newUnits(work []Work) *units {
	us := &units{accounts: map[Unit]*unitAccount{}, seen: map[place]*Work{}, groups: map[string]*groupAccount{}}
	for i := range work {
		us.account(i, &work[i])
	}
	return us
}

// account is that of a unit, which is at i in this look. One that was never seen counts from now on.
func (us *units) account(i int, w *Work) *unitAccount {
	if i < len(us.order) && us.order[i].Unit == w.Unit {
		return us.order[i]
	}
	a := us.accounts[w.Unit]
	if a == nil {
		at := place{w.Layer, w.Expert}
		if us.seen[at] == nil {
			now := *w
			us.seen[at] = &now
		}
		a = &unitAccount{Unit: w.Unit, seen: us.seen[at]}
		us.accounts[w.Unit] = a
	}
	us.order = append(us.order[:min(i, len(us.order))], a)
	return a
}

// charge takes a look: what parts have used, and what the units had done by then, group by group. idle says that nothing was
// computed.
func (us *units) charge(used map[string]Used, work []Work, idle bool) {
	for i := range work {
		us.account(i, &work[i])
	}
	for from := 0; from < len(work); {
		to := from + 1
		for to < len(work) && work[to].Group == work[from].Group {
			to++
		}
		if u, running := used[work[from].Group]; running { // else its counters wait with it
			us.group(u, work[from:to], from, idle)
		}
		from = to
	}
}

// group takes a group's part of a look; its units are at from and behind.
func (us *units) group(u Used, work []Work, from int, idle bool) {
	g := us.groups[work[0].Group]
	if g == nil {
		g = &groupAccount{}
		us.groups[work[0].Group] = g
	}
	g.waiting.add(u)
	us.done, us.read = us.done[:0], us.read[:0]
	sum := int64(0)
	for i := range work {
		w, a := &work[i], us.order[from+i]
		done := (w.Done - a.seen.Done) * w.Size
		us.done, us.read = append(us.done, done), append(us.read, w.Bytes-a.seen.Bytes)
		sum += done
	}
	switch {
	case sum > 0:
		cpu, bytes, energy := share(g.waiting.CPU, us.done), share(g.waiting.Bytes, us.read), share(g.waiting.Energy, us.done)
		for i := range work {
			a := us.order[from+i]
			a.used.add(Used{cpu[i], bytes[i], energy[i]})
			a.rows += work[i].Rows - a.seen.Rows
			*a.seen = work[i]
		}
		g.waiting = Used{Bytes: g.waiting.Bytes - total(bytes)}
	case idle:
		g.idle.add(g.waiting)
		g.waiting = Used{}
	}
}

func total(parts []int64) (sum int64) {
	for _, p := range parts {
		sum += p
	}
	return sum
}

// UnitCost is what a unit has cost, or of a group several together.
type UnitCost struct {
	Group  string `json:"group"`
	Layer  *int   `json:"layer"`
	Expert *int   `json:"expert"`
	Rest   string `json:"rest,omitempty"` // without layer and expert: (other), or (idle) for what no unit has used
	Rows   int64  `json:"rows"`           // that it has computed
	Figures
	Per1000 *Figures `json:"per_1000_tokens"` // of all tokens; nil without tokens
}

// costs are so many units, most CPU time first, then for each group the others together and what no unit has used.
func (us *units) costs(most int, tokens int64, measured bool) []UnitCost {
	cost := func(group, rest string, rows int64, u Used) UnitCost {
		return UnitCost{Group: group, Rest: rest, Rows: rows, Figures: u.figures(measured), Per1000: u.per1000(tokens, measured)}
	}
	all := make([]*unitAccount, 0, len(us.accounts))
	for _, a := range us.accounts {
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b *unitAccount) int {
		return cmp.Or(cmp.Compare(b.used.CPU, a.used.CPU), cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Expert, b.Expert), cmp.Compare(a.Group, b.Group))
	})
	out := []UnitCost{}
	others := map[string]*unitAccount{}
	for i, a := range all {
		if i < most {
			c := cost(a.Group, "", a.rows, a.used)
			c.Layer, c.Expert = new(a.Layer), new(a.Expert)
			out = append(out, c)
			continue
		}
		o := others[a.Group]
		if o == nil {
			o = &unitAccount{}
			others[a.Group] = o
		}
		o.used.add(a.used)
		o.rows += a.rows
	}
	for _, group := range inOrder(others) {
		out = append(out, cost(group, Other, others[group].rows, others[group].used))
	}
	for _, group := range inOrder(us.groups) {
		u := us.groups[group].idle
		u.add(us.groups[group].waiting)
		out = append(out, cost(group, Idle, 0, u))
	}
	return out
}
