package cost

import (
	"cmp"
	"slices"
	"time"
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

// units are the accounts of units. What a group has used waits until units are looked at, about once a second, and is shared by
// those that have ended calls in between: CPU time and energy by what they have done times the size of their weights, bytes by
// what they have read. What a group uses while nothing is computed is nobody's. So the accounts of a group add up to what it
// has used.
type units struct {
	read     func() []Work // each group's together; only lent until the next call
	accounts map[Unit]*unitAccount
	seen     map[place]*counted
	groups   map[string]*groupAccount
	shared   time.Time // when they were last looked at
}

// unitsEvery is the time between two looks at units: there are thousands of them in a large model, and whose work it was does
// not change within a second.
const unitsEvery = time.Second

// place is a unit wherever it is served.
type place struct{ layer, expert int }

// counted are the counters of a unit when they were last shared by.
type counted struct{ rows, done, bytes int64 }

type unitAccount struct {
	Unit
	rows int64
	used Used
}

// groupAccount is what a group has used that is no unit's.
type groupAccount struct{ idle, waiting Used }

func newUnits(read func() []Work, now time.Time) *units {
	us := &units{read: read, accounts: map[Unit]*unitAccount{}, seen: map[place]*counted{}, groups: map[string]*groupAccount{}, shared: now}
	for _, w := range read() {
		us.since(&w)
	}
	return us
}

// since is what a unit had done when it was last looked at. One that was never seen counts from now on.
func (us *units) since(w *Work) *counted {
	at := place{w.Layer, w.Expert}
	c := us.seen[at]
	if c == nil {
		c = &counted{w.Rows, w.Done, w.Bytes}
		us.seen[at] = c
	}
	return c
}

// charge takes a look at what parts have used. idle says that nothing was computed.
func (us *units) charge(used map[string]Used, idle bool, now time.Time) {
	for name, u := range used {
		if name == hostPart || name == routerPart {
			continue // no unit is theirs
		}
		g := us.groups[name]
		if g == nil {
			g = &groupAccount{}
			us.groups[name] = g
		}
		if idle {
			g.idle.add(u)
		} else {
			g.waiting.add(u)
		}
	}
	if now.Sub(us.shared) >= unitsEvery {
		us.share(now)
	}
}

// share gives the units what waits for them.
func (us *units) share(now time.Time) {
	us.shared = now
	work := us.read()
	for len(work) > 0 {
		n := 1
		for n < len(work) && work[n].Group == work[0].Group {
			n++
		}
		if g := us.groups[work[0].Group]; g != nil { // else it has no process here, and nothing waits
			us.among(work[:n], g)
		}
		work = work[n:]
	}
}

// among shares what waits in a group.
func (us *units) among(work []Work, g *groupAccount) {
	var busy []*Work
	var done, read []int64
	for i := range work {
		w := &work[i]
		c := us.since(w)
		if w.Done == c.done {
			continue
		}
		busy, done, read = append(busy, w), append(done, (w.Done-c.done)*w.Size), append(read, w.Bytes-c.bytes)
	}
	cpu, bytes, energy := share(g.waiting.CPU, done), share(g.waiting.Bytes, read), share(g.waiting.Energy, done)
	for i, w := range busy {
		a, c := us.accounts[w.Unit], us.since(w)
		if a == nil {
			a = &unitAccount{Unit: w.Unit}
			us.accounts[w.Unit] = a
		}
		used := Used{cpu[i], bytes[i], energy[i]}
		a.used.add(used)
		g.waiting.add(Used{-used.CPU, -used.Bytes, -used.Energy})
		a.rows += w.Rows - c.rows
		*c = counted{w.Rows, w.Done, w.Bytes}
	}
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
