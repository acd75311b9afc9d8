package moe_test

import (
	"context"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// named is a group that says who has answered.
type named struct {
	moe.Group
	name string
}

func (n *named) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return &namedCall{Pending: n.Group.Start(ctx, call), name: n.name}
}

type namedCall struct {
	expert.Pending
	name string
	to   *moe.Answer
}

func (c *namedCall) Note(to *moe.Answer) { c.to = to }

func (c *namedCall) Wait() error {
	err := c.Pending.Wait()
	if err == nil && c.to != nil {
		*c.to = moe.Answer{Group: c.name, Attempts: 1}
	}
	return err
}

// hopsOf traces some rows.
type hopsOf struct {
	rows []int
	seen map[int]moe.Hop
}

func (h *hopsOf) Traces(row int) bool { return slices.Contains(h.rows, row) }

func (h *hopsOf) Hop(row int, hop *moe.Hop) {
	c := *hop
	c.Experts = slices.Clone(c.Experts)
	if _, twice := h.seen[row]; twice {
		c.Layer = -1 // shows as an error
	}
	h.seen[row] = c
}

func groupName(g int) string { return string(rune('a' + g)) }

// The rows that are traced, and no others, are told of once, with the router's experts and the groups that computed them,
// whatever was predicted.
func TestTrace(t *testing.T) {
	groups, _ := newGroups(experts)
	for i := range groups {
		groups[i] = &named{groups[i], groupName(i)}
	}
	for name, l := range map[string]*moe.Layer{
		"asked":    moe.New(&byToken{}, topK, experts, placed(experts, 2), groups, width, threads(t, 2)),
		"foreseen": moe.New(&foreseen{}, topK, experts, placed(experts, 2), groups, width, threads(t, 2)),
		"wrong":    moe.New(&foreseen{wrong: []int32{0, 3}}, topK, experts, placed(experts, 2), groups, width, threads(t, 2)),
		"blind":    moe.New(&foreseen{blind: true}, topK, experts, placed(experts, 2), groups, width, threads(t, 2)),
		"dealt":    moe.New(&foreseen{}, topK, experts, placed(experts, 2), onBothCores(groups), width, threads(t, 2)).DealFrom(0),
	} {
		in := input(2, 0, 1, 2, 3, 4, 5)
		h := &hopsOf{rows: []int{0, 2, 3}, seen: map[int]moe.Hop{}}
		in.Trace = h
		y := tensor.NewMatrix(len(in.Tokens), width)
		if err := l.Forward(t.Context(), in, y); err != nil {
			t.Fatal(err)
		}
		checkRows(t, name, in, y)
		if len(h.seen) != 3 {
			t.Errorf("%s: %d rows were traced", name, len(h.seen))
		}
		for _, row := range h.rows {
			hop := h.seen[row]
			if hop.Layer != 2 || len(hop.Experts) != topK {
				t.Fatalf("%s row %d: %+v", name, row, hop)
			}
			last := -1
			for _, e := range hop.Experts {
				i := (e.Expert - int(in.Tokens[row]) + experts) % experts
				if e.Expert <= last || i >= topK || e.Weight != 1/float32(i+1) || e.Other != e.Expert || e.By == nil || e.By.Group != groupName(e.Expert) {
					t.Errorf("%s row %d: %+v", name, row, e)
				}
				last = e.Expert
			}
		}
	}
}

// Where an expert is missing the trace says what was done: nobody computed it, another group did, or another expert.
func TestTraceOfARescue(t *testing.T) {
	for name, c := range map[string]struct {
		policy moe.Policy
		by     string // empty = nobody
		other  int
	}{
		"renormalise":            {moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}, "", 2},
		"fallback":               {moe.Policy{Kind: moe.Fallback, Fallback: experts}, groupName(experts), 2},
		"substitute":             {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 5}}, groupName(5), 5},
		"substitute, chosen too": {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 3}}, groupName(3), 3},
	} {
		groups, all := newGroups(experts + 1)
		for i := range groups {
			groups[i] = &named{groups[i], groupName(i)}
		}
		l := moe.New(&foreseen{wrong: []int32{1}}, topK, experts, placed(experts, 2), groups, width, threads(t, 2))
		policies := make([]moe.Policy, experts+1)
		policies[2] = c.policy
		all[2].err = errGone
		if err := l.Degrade(policies); err != nil {
			t.Fatal(err)
		}
		in := input(2, 1, 2, 4)
		h := &hopsOf{rows: []int{0, 1, 2}, seen: map[int]moe.Hop{}}
		in.Judge, in.Trace = &judge{accept: moe.AcceptAny}, h
		if err := l.Forward(t.Context(), in, tensor.NewMatrix(len(in.Tokens), width)); err != nil {
			t.Fatal(err)
		}
		for row := range 3 {
			for _, e := range h.seen[row].Experts {
				by := ""
				if e.By != nil {
					by = e.By.Group
				}
				wantBy, wantOther := groupName(e.Expert), e.Expert
				if e.Expert == 2 {
					wantBy, wantOther = c.by, c.other
				}
				if by != wantBy || e.Other != wantOther {
					t.Errorf("%s row %d: expert %d by %q as %d, want %q as %d", name, row, e.Expert, by, e.Other, wantBy, wantOther)
				}
			}
		}
	}
}
