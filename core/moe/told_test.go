package moe_test

import (
	"maps"
	"testing"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestTold: each row and expert that did not answer is told of once, with what was done about it, and nothing is while all answer.
func TestTold(t *testing.T) {
	type news struct {
		group   int
		how     moe.Kind
		refused bool
	}
	groups, all := newGroups(experts)
	l := moe.New(&byToken{}, topK, experts, placed(experts, 2), groups, width, threads(t, 2))
	policies := make([]moe.Policy, experts)
	policies[2] = moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}
	policies[4] = moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{4: 1}}
	if err := l.Degrade(policies); err != nil {
		t.Fatal(err)
	}
	got := map[news]int{}
	l.Tell(func(group int, how moe.Kind, refused bool) { got[news{group, how, refused}]++ })
	in := input(2, 0, 1, 2, 3, 4, 5) // of these rows 0, 1, 2 go to expert 2, and 2, 3, 4 to expert 4
	in.Judge = &judge{accept: moe.AcceptAny, exact: []int{1, 2}}
	y := tensor.NewMatrix(6, width)
	if err := l.Forward(t.Context(), in, y); err != nil || len(got) > 0 {
		t.Fatalf("with all experts: %v, %v", got, err)
	}
	all[2].err, all[4].err = errGone, errGone
	if err := l.Forward(t.Context(), in, y); err != nil {
		t.Fatal(err)
	}
	// Row 2 lacks both. Its owner refuses at the first, so nothing was decided about the second.
	want := map[news]int{{2, moe.Renormalise, false}: 1, {2, moe.Strict, true}: 2, {4, moe.Strict, true}: 1, {4, moe.Substitute, false}: 2}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
