package moe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// lost is a call that nobody could answer.
type lost struct {
	call int // its number
	err  error
}

// missing reports whether an error of a call means that all processes of its group have failed.
func missing(err error) bool {
	return errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, sdk.ErrInvalidOutput)
}

// rescue finds answers for the rows of calls that have failed, as the policies of their groups and the rows' owners allow.
// It allocates what it needs: while all experts answer it is not there.
type rescue struct {
	l    *Layer
	in   Input
	w    *work
	bad  []bool        // by dispatched row: it has no result
	down map[int]error // by group: the error of its call
	rows []*stricken
	asks []ask
}

// stricken is a row that lacks results.
type stricken struct {
	n       int     // its number in the work
	slots   []slot  // ascending by expert
	outcome Outcome // what becomes of it
}

// slot is one chosen expert of a stricken row.
type slot struct {
	chosen int // by the router
	expert int // that answers: another one after Substitute
	weight float32
	at     int32 // the result among the dispatched rows; nothing yet while asked for
	bad    bool  // the chosen expert did not answer
	kind   Kind  // what is done about that
	ask    int   // number of the ask that gives the result; -1 = none
}

// ask is a row that goes to another group, or to another expert.
type ask struct {
	row    int32 // of the input
	expert int
	group  int
	failed bool
	by     *Answer // nil where nobody traces
}

// rescue gives every row of the work's failed calls another result, or none. skip are rows, ascending, that other work
// answers. The results lie in the work as if the calls had not failed.
func (l *Layer) rescue(ctx context.Context, in Input, w *work, skip []int32) error {
	if len(w.lost) == 0 {
		return nil
	}
	if ctx.Err() != nil { // the time is up, whatever the policy
		return fmt.Errorf("layer %d: %w", in.Layer, w.lost[0].err)
	}
	r := &rescue{l: l, in: in, w: w, bad: make([]bool, len(w.plan.rows)), down: map[int]error{}}
	for _, x := range w.lost {
		c := w.plan.calls[x.call]
		if r.down[c.group] == nil {
			r.down[c.group] = x.err
		}
		for i := c.from; i < c.to; i++ {
			r.bad[i] = true
		}
	}
	r.strike(skip)
	for _, s := range r.rows {
		r.decide(s)
	}
	if err := r.dispatch(ctx); err != nil {
		return err
	}
	r.trace()
	for _, s := range r.rows {
		r.settle(s)
		in.Judge.Lost(int(w.of[s.n]), s.outcome)
	}
	r.tell()
	return nil
}

// strike lists the rows that lack results.
func (r *rescue) strike(skip []int32) {
	k, p := r.w.routes.K, &r.w.plan
	for n, row := range r.w.of {
		from, weights := p.from[n*k:(n+1)*k], p.weight[n*k:(n+1)*k]
		if !slices.ContainsFunc(from, func(at int32) bool { return r.bad[at] }) {
			continue
		}
		if _, other := slices.BinarySearch(skip, row); other {
			continue
		}
		s := &stricken{n: n}
		ids := slices.Sorted(slices.Values(r.w.routes.IDs[n*k : (n+1)*k])) // the plan's order
		for i, id := range ids {
			s.slots = append(s.slots, slot{chosen: int(id), expert: int(id), weight: weights[i], at: from[i], bad: r.bad[from[i]], ask: -1})
		}
		r.rows = append(r.rows, s)
	}
}

// decide chooses for each missing expert of a row what is done about it. A row that may not go on gets its error.
func (r *rescue) decide(s *stricken) {
	row := r.w.of[s.n]
	accept := r.in.Judge.Accept(int(row))
	for i := range s.slots {
		m := &s.slots[i]
		if !m.bad {
			continue
		}
		p := r.policy(m)
		if m.kind = p.Kind; accept == AcceptExact || accept == AcceptRepeatable && m.kind == Renormalise {
			m.kind = Strict
		}
		gone := m.kind == Renormalise || m.kind == Substitute
		switch {
		case gone && p.Critical[expert.Unit{Layer: r.in.Layer, Expert: m.chosen}]:
			r.refuse(s, m, "the part is critical")
			return
		case m.kind == Fallback:
			m.ask = r.ask(row, m.chosen, p.Fallback)
		case m.kind == Strict || m.kind == Substitute && !r.substitute(s, m, p.Substitutes):
			r.fail(s, m, r.cause(m))
			return
		}
		s.outcome.Kinds = s.outcome.Kinds.With(m.kind)
	}
	r.weigh(s)
}

// policy is that of the group which a slot's chosen expert is placed in.
func (r *rescue) policy(m *slot) *Policy { return &r.l.policies[r.group(m)] }

func (r *rescue) group(m *slot) int { return r.l.groupsOf(r.in)[m.chosen] }

// cause is why the chosen expert did not answer.
func (r *rescue) cause(m *slot) error {
	return fmt.Errorf("layer %d: %w", r.in.Layer, r.down[r.group(m)])
}

// ask notes that a row goes elsewhere, and returns the number of the ask.
func (r *rescue) ask(row int32, e, group int) int {
	r.asks = append(r.asks, ask{row: row, expert: e, group: group})
	return len(r.asks) - 1
}

// substitute puts another expert in a missing one's place; false if there is none that answers. Where the row has chosen
// that expert already, or another missing one has the same substitute, its result serves both.
func (r *rescue) substitute(s *stricken, m *slot, substitutes map[int]int) bool {
	other, ok := substitutes[m.chosen]
	if !ok {
		return false
	}
	for _, x := range s.slots {
		if x.expert == other && (!x.bad || x.kind == Substitute) {
			m.expert, m.at, m.ask = other, x.at, x.ask
			return true
		}
	}
	group := r.l.groupsOf(r.in)[other]
	if r.down[group] != nil {
		return false
	}
	m.expert, m.ask = other, r.ask(r.w.of[s.n], other, group)
	return true
}

// weigh gives the dropped weight to the survivors of Renormalise, within the limits. With S the sum of all the row's
// weights and T that of the survivors, in float64 and ascending by expert, each survivor's weight w becomes
// float32(w*S/T): the sum stays, also that of a model whose weights do not add up to one. The dropped share is (S-T)/S.
// Weights below zero have no mass that could be shared out; such a row is refused.
func (r *rescue) weigh(s *stricken) {
	var all, left, moved float64
	survivors, negative := 0, false
	var first *slot // that is dropped
	most, least := 1.0, 0
	for i := range s.slots {
		m := &s.slots[i]
		w := float64(m.weight)
		all += w
		negative = negative || w < 0
		if m.kind == Renormalise {
			if first == nil {
				first = m
			}
			p := r.policy(m)
			most, least = min(most, p.MaxDroppedMass), max(least, p.MinExperts)
			continue
		}
		left += w
		survivors++
		if m.kind == Substitute {
			moved += w
		}
	}
	if all > 0 && !negative {
		s.outcome.Dropped = (all - left + moved) / all
	}
	if first == nil {
		return
	}
	switch dropped := (all - left) / all; {
	case negative || all <= 0 || survivors > 0 && left <= 0:
		r.refuse(s, first, "the gate's weights have no mass to share out")
		return
	case dropped > most:
		r.refuse(s, first, fmt.Sprintf("the dropped gate mass %.2f is above the limit %.2f", dropped, most))
		return
	case survivors < least:
		r.refuse(s, first, fmt.Sprintf("%d experts are left, at least %d must be", survivors, least))
		return
	}
	for i := range s.slots {
		if m := &s.slots[i]; m.kind != Renormalise {
			m.weight = float32(float64(m.weight) * all / left)
		}
	}
}

// refuse ends a row for which the policy goes too far.
func (r *rescue) refuse(s *stricken, m *slot, reason string) {
	r.fail(s, m, &RefusedError{Kind: m.kind, Layer: r.in.Layer, Expert: m.chosen, Reason: reason, err: r.down[r.group(m)]})
}

// fail ends a row that can't do without a slot's expert.
func (r *rescue) fail(s *stricken, m *slot, err error) {
	wait, _ := r.l.groups[r.group(m)].(Availability)
	s.outcome = Outcome{Err: err, Wait: wait}
}

// dispatch sends the asks, as work of one expert a row, and puts the results behind those of the failed work. An ask that
// fails, too, leaves its row without an answer.
func (r *rescue) dispatch(ctx context.Context) error {
	if len(r.asks) == 0 {
		return nil
	}
	w := r.l.work()
	defer r.l.pool.Put(w)
	groups := slices.Clone(r.l.groupsOf(r.in))
	w.routes = resizeRoutes(w.routes, len(r.asks), 1)
	for i, a := range r.asks {
		w.of = append(w.of, a.row)
		w.routes.IDs[i], w.routes.Weights[i] = int32(a.expert), 1
		groups[a.expert] = a.group
	}
	r.l.send(ctx, r.in, w, groups)
	if err := r.l.receive(ctx, r.in, w); err != nil {
		return err
	}
	for _, x := range w.lost {
		for i := range r.asks {
			c := w.plan.calls[x.call]
			at := int(w.plan.from[i])
			r.asks[i].failed = r.asks[i].failed || at >= c.from && at < c.to
		}
	}
	base := int32(len(r.w.plan.rows))
	r.w.y = append(r.w.y[:int(base)*r.l.width], w.y...)
	for _, s := range r.rows {
		for i := range s.slots {
			if m := &s.slots[i]; m.ask >= 0 {
				m.at = base + w.plan.from[m.ask]
			}
		}
	}
	if w.hops != nil {
		for i := range r.asks {
			r.asks[i].by = w.answerOf(int(w.plan.from[i]))
		}
	}
	return nil
}

// trace notes what was computed in the place of missing experts.
func (r *rescue) trace() {
	if r.w.hops == nil {
		return
	}
	for _, s := range r.rows {
		for i := range s.slots {
			switch m := &s.slots[i]; {
			case m.bad && m.ask >= 0:
				r.w.hops.replaced(s.n, m.chosen, m.expert, r.asks[m.ask].by)
			case m.bad && m.kind == Substitute:
				r.w.hops.replaced(s.n, m.chosen, m.expert, nil)
			}
		}
	}
}

// settle writes a row's results and weights into the plan, ascending by expert; an expert that came twice adds its weights.
func (r *rescue) settle(s *stricken) {
	k := r.w.routes.K
	from, weights := r.w.plan.from[s.n*k:(s.n+1)*k], r.w.plan.weight[s.n*k:(s.n+1)*k]
	for i := range from {
		from[i], weights[i] = nowhere, 0
	}
	for i := range s.slots {
		if m := &s.slots[i]; s.outcome.Err == nil && m.ask >= 0 && r.asks[m.ask].failed {
			r.fail(s, m, r.cause(m))
		}
	}
	if s.outcome.Err != nil {
		return
	}
	slices.SortStableFunc(s.slots, func(a, b slot) int { return cmp.Compare(a.expert, b.expert) })
	n := 0
	for _, m := range s.slots {
		switch {
		case m.kind == Renormalise:
		case n > 0 && from[n-1] == m.at:
			weights[n-1] += m.weight
		default:
			from[n], weights[n] = m.at, m.weight
			n++
		}
	}
}
