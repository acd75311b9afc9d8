package metrics

import (
	"cmp"
	"slices"
	"sync"
)

// Top counts by a name that comes from outside, with a bound on the names that have counts of their own: those with most to count
// of late. All others are counted together, as the rest.
//
// A count never goes back. What a name has had before it got counts of its own stays with the rest; a name that loses its place
// keeps its counts, unseen, and goes on with them when it comes back. Only a name that has been away while many others came is
// forgotten, and begins again from zero, as a counter does that is restarted.
type Top struct {
	n      int
	fields int

	mu    sync.Mutex        // guards what follows
	names map[string]*count // that have a place, and candidates for one
	taken int               // places
	rest  []float64
}

// count is what is known of one name.
type count struct {
	placed bool
	weight float64 // of late: halved at each Turn
	values []float64
}

const (
	// candidates are remembered for each place, beside those that have one. With fewer, names that come once would drive out
	// those that come again; each costs about a hundred bytes.
	candidates = 4
	// lead is how much more than the least of those that have a place a candidate must have to get it: equals do not change
	// places back and forth.
	lead = 1.5
)

// NewTop makes a Top with n places, for names with so many counts each.
func NewTop(n, fields int) *Top {
	return &Top{n: n, fields: fields, names: map[string]*count{}, rest: make([]float64, fields)}
}

// Add counts. The first value also says how active the name is.
func (t *Top) Add(name string, values ...float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.names[name]
	if c == nil {
		c = t.enter(name)
	}
	to := t.rest
	if c != nil {
		c.weight += values[0]
		if c.placed {
			to = c.values
		}
	}
	for i, v := range values {
		to[i] += v
	}
}

// enter makes a new name known: it gets a place while there is one, else it becomes a candidate. Nil if neither can be.
func (t *Top) enter(name string) *count {
	c := &count{}
	switch {
	case t.taken < t.n:
		t.taken++
		c.placed, c.values = true, make([]float64, t.fields)
	case len(t.names) >= t.n*(1+candidates):
		return nil
	}
	t.names[name] = c
	return c
}

// Turn gives places to candidates that are more active than those that have them, and forgets candidates that hardly are. It is
// called at intervals, such as a minute.
func (t *Top) Turn() {
	t.mu.Lock()
	defer t.mu.Unlock()
	var in, out []*count
	for _, c := range t.names {
		if c.placed {
			out = append(out, c)
		} else {
			in = append(in, c)
		}
	}
	byWeight := func(a, b *count) int { return cmp.Compare(a.weight, b.weight) }
	slices.SortFunc(out, byWeight)
	slices.SortFunc(in, func(a, b *count) int { return byWeight(b, a) })
	for i := range min(len(in), len(out)) {
		if in[i].weight <= lead*out[i].weight {
			break
		}
		out[i].placed, in[i].placed = false, true
		if in[i].values == nil {
			in[i].values = make([]float64, t.fields)
		}
	}
	for name, c := range t.names {
		if c.weight /= 2; !c.placed && c.weight < 1 {
			delete(t.names, name)
		}
	}
}

// Each calls f for every name that has a place, by name, and for the rest, whose name is other, if anything was counted there.
// The values are only lent.
func (t *Top) Each(other string, f func(name string, values []float64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for name, c := range t.names {
		if c.placed {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		f(name, t.names[name].values)
	}
	if slices.ContainsFunc(t.rest, func(v float64) bool { return v > 0 }) {
		f(other, t.rest)
	}
}

// Of are the counts of a name, if it has a place. The slice is a copy.
func (t *Top) Of(name string) (values []float64, placed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.names[name]
	if c == nil || !c.placed {
		return nil, false
	}
	return slices.Clone(c.values), true
}
