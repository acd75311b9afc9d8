package moe_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// errGone is what calls of a dead group end with.
var errGone = fmt.Errorf("its process was killed: %w", sdk.ErrUnavailable)

// judge accepts the same of each row, but for those in exact, and keeps what it is told.
type judge struct {
	accept   moe.Accept
	exact    []int
	outcomes map[int]moe.Outcome
}

func (j *judge) Accept(row int) moe.Accept {
	if slices.Contains(j.exact, row) {
		return moe.AcceptExact
	}
	return j.accept
}

func (j *judge) Lost(row int, o moe.Outcome) {
	if j.outcomes == nil {
		j.outcomes = map[int]moe.Outcome{}
	}
	j.outcomes[row] = o
}

// mending is a group that knows whether it is back.
type mending struct {
	moe.Group
	hopeless error
}

func (*mending) Available() error  { return errGone }
func (m *mending) Hopeless() error { return m.hopeless }

// mixed is the oracle: the weighted sum of experts in float64, a row at a time. replace says what the policy does about a
// dead expert: -1 = it is left out, and the others share its weight.
func mixed(in moe.Input, r int, dead []int, replace func(e int) int) []float64 {
	var all, left float64
	for i := range topK {
		w := 1 / float64(i+1)
		all += w
		e := (int(in.Tokens[r]) + i) % experts
		if !slices.Contains(dead, e) || replace(e) >= 0 {
			left += w
		}
	}
	y := make([]float64, width)
	for i := range topK {
		e := (int(in.Tokens[r]) + i) % experts
		w := 1 / float64(i+1) * all / left
		if slices.Contains(dead, e) {
			e = replace(e)
		}
		if e < 0 {
			continue
		}
		for c, x := range in.X.Row(r) {
			y[c] += w * (float64(x)*float64(e+1) + float64(in.Layer))
		}
	}
	return y
}

// TestRescue holds every policy against the oracle, with one and with two dead experts, one group for each expert. The
// rows of nobody's dead experts keep their bits.
func TestRescue(t *testing.T) {
	nowhere := func(int) int { return -1 }
	same := func(e int) int { return e }
	for name, c := range map[string]struct {
		policy  moe.Policy
		dead    []int
		replace func(int) int
		kind    moe.Kind
	}{
		"renormalise":            {moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}, []int{2}, nowhere, moe.Renormalise},
		"renormalise, two gone":  {moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}, []int{2, 3}, nowhere, moe.Renormalise},
		"substitute":             {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 5}}, []int{2}, func(int) int { return 5 }, moe.Substitute},
		"substitute, chosen too": {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 3}}, []int{2}, func(int) int { return 3 }, moe.Substitute},
		"substitute, one of two": {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 0, 3: 0}}, []int{2, 3}, func(int) int { return 0 }, moe.Substitute},
		"fallback":               {moe.Policy{Kind: moe.Fallback, Fallback: experts}, []int{2, 4}, same, moe.Fallback},
	} {
		t.Run(name, func(t *testing.T) {
			groups, all := newGroups(experts + 1) // the last one stands by
			place := placed(experts, 2)
			for _, l := range []*moe.Layer{
				moe.New(&byToken{}, topK, experts, place, groups, width, threads(t, 2)),
				moe.New(&foreseen{wrong: []int32{0, 3}}, topK, experts, place, groups, width, threads(t, 2)),
				moe.New(&byToken{}, topK, experts, place, onBothCores(groups), width, threads(t, 2)).DealFrom(0),
			} {
				policies := make([]moe.Policy, experts+1)
				for _, d := range c.dead {
					policies[d] = c.policy
					all[d].err = errGone
				}
				if err := l.Degrade(policies); err != nil {
					t.Fatal(err)
				}
				in := input(2, 0, 1, 2, 3, 4, 5, 2, 0)
				j := &judge{accept: moe.AcceptAny}
				in.Judge = j
				y := tensor.NewMatrix(len(in.Tokens), width)
				if err := l.Forward(t.Context(), in, y); err != nil {
					t.Fatal(err)
				}
				checkRescued(t, in, y, j, c.dead, c.replace, c.kind)
				if n := all[0].open.Load(); n != 0 {
					t.Errorf("%d calls were never waited for", n)
				}
			}
		})
	}
}

func checkRescued(t *testing.T, in moe.Input, y tensor.Matrix, j *judge, dead []int, replace func(int) int, kind moe.Kind) {
	t.Helper()
	for r := range y.Rows {
		var mass, all float64
		for i := range topK {
			all += float64(1 / float32(i+1))
			if slices.Contains(dead, (int(in.Tokens[r])+i)%experts) {
				mass += float64(1 / float32(i+1))
			}
		}
		o, told := j.outcomes[r]
		if mass == 0 {
			if told {
				t.Errorf("row %d has all its experts, yet %+v", r, o)
			}
			if w := want(in, r); !slices.Equal(y.Row(r), w) {
				t.Errorf("row %d has other bits: %v, want %v", r, y.Row(r), w)
			}
			continue
		}
		if kind == moe.Fallback {
			mass = 0
		}
		if o.Err != nil || o.Kinds != moe.Kinds(0).With(kind) || math.Abs(o.Dropped-mass/all) > 1e-9 {
			t.Errorf("row %d: %+v, want %v and a dropped share of %g", r, o, kind, mass/all)
		}
		for c, v := range mixed(in, r, dead, replace) {
			if d := math.Abs(float64(y.Row(r)[c]) - v); d > 1e-5*(1+math.Abs(v)) {
				t.Errorf("row %d: %v, want %v", r, y.Row(r), mixed(in, r, dead, replace))
				break
			}
		}
	}
}

// TestRescueRefuses: what a row may not lose ends this row alone. Its output is zero, and the others keep their bits.
func TestRescueRefuses(t *testing.T) {
	open := moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}
	tight, many, critical := open, open, open
	tight.MaxDroppedMass = 0.25 // of weights 1, 1/2, 1/3 only the last may go
	many.MinExperts = 3
	critical.Critical = map[expert.Unit]bool{{Layer: 2, Expert: 2}: true}
	for name, c := range map[string]struct {
		policy moe.Policy
		accept moe.Accept
		exact  []int
		bad    []int  // rows, of tokens 0 to 5, that have no answer
		reason string // of a refusal; empty = the group's own error
	}{
		"exact rows":         {open, moe.AcceptAny, []int{1}, []int{1}, ""},
		"all exact":          {open, moe.AcceptExact, nil, []int{0, 1, 2}, ""},
		"seeded":             {open, moe.AcceptRepeatable, nil, []int{0, 1, 2}, ""},
		"mass":               {tight, moe.AcceptAny, nil, []int{1, 2}, "gate mass"},
		"survivors":          {many, moe.AcceptAny, nil, []int{0, 1, 2}, "experts are left"},
		"critical":           {critical, moe.AcceptAny, nil, []int{0, 1, 2}, "critical"},
		"strict":             {moe.Policy{}, moe.AcceptAny, nil, []int{0, 1, 2}, ""},
		"no substitute":      {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{1: 0}}, moe.AcceptAny, nil, []int{0, 1, 2}, ""},
		"dead substitute":    {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 5}}, moe.AcceptAny, nil, []int{0, 1, 2, 4}, ""},
		"critical, replaced": {moe.Policy{Kind: moe.Substitute, Substitutes: map[int]int{2: 0}, Critical: critical.Critical}, moe.AcceptAny, nil, []int{0, 1, 2}, "critical"},
		"dead fallback":      {moe.Policy{Kind: moe.Fallback, Fallback: 5}, moe.AcceptAny, nil, []int{0, 1, 2, 4}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			groups, all := newGroups(experts)
			waits := &mending{Group: groups[2]}
			groups[2] = waits
			all[2].err = errGone
			l := moe.New(&byToken{}, topK, experts, placed(experts, 2), groups, width, threads(t, 2))
			policies := make([]moe.Policy, experts)
			policies[2] = c.policy
			if policies[0].Kind == c.policy.Kind { // one must be lenient, or nothing is judged
				policies[1] = open
			}
			dead := []int32{2}
			if strings.HasPrefix(name, "dead") {
				all[5].err = errGone
				policies[5] = moe.Policy{}
				dead = append(dead, 5)
			}
			if err := l.Degrade(policies); err != nil {
				t.Fatal(err)
			}
			in := input(2, 0, 1, 2, 3, 4, 5)
			if len(dead) == 2 {
				in = input(2, 0, 1, 2, 0, 4, 0)
			}
			j := &judge{accept: c.accept, exact: c.exact}
			in.Judge = j
			y := tensor.NewMatrix(6, width)
			if err := l.Forward(t.Context(), in, y); err != nil {
				t.Fatal(err)
			}
			for r := range y.Rows {
				bad := slices.Contains(c.bad, int(in.Tokens[r]))
				o := j.outcomes[r]
				if bad != (o.Err != nil) {
					t.Errorf("row %d: %+v, want an error: %v", r, o, bad)
					continue
				}
				if !bad {
					if len(j.outcomes) > 0 && o.Kinds == 0 && !slices.Equal(y.Row(r), want(in, r)) {
						t.Errorf("row %d has other bits", r)
					}
					continue
				}
				if !slices.Equal(y.Row(r), make([]float32, width)) {
					t.Errorf("row %d has no answer, yet %v", r, y.Row(r))
				}
				var refused *moe.RefusedError
				if !errors.Is(o.Err, sdk.ErrUnavailable) || errors.As(o.Err, &refused) != (c.reason != "") || !strings.Contains(o.Err.Error(), c.reason) {
					t.Errorf("row %d: error %v", r, o.Err)
				}
				if refused != nil && (strings.Contains(refused.Public(), "expert 2") || !strings.Contains(refused.Error(), "expert 2")) {
					t.Errorf("for operators %q, for clients %q", refused.Error(), refused.Public())
				}
				if r < 3 && o.Wait != waits {
					t.Errorf("row %d waits for %v", r, o.Wait)
				}
			}
		})
	}
}

// TestStrictStays: without a lenient policy a judge changes nothing, and a failing call ends the Forward.
func TestStrictStays(t *testing.T) {
	groups, all := newGroups(experts)
	l := moe.New(&byToken{}, topK, experts, placed(experts, 2), groups, width, threads(t, 2))
	if err := l.Degrade(make([]moe.Policy, experts)); err != nil || l.Lenient() {
		t.Fatalf("lenient %v, error %v", l.Lenient(), err)
	}
	all[2].err = errGone
	in := input(2, 0, 1)
	j := &judge{accept: moe.AcceptAny}
	in.Judge = j
	if err := l.Forward(t.Context(), in, tensor.NewMatrix(2, width)); !errors.Is(err, errGone) || j.outcomes != nil {
		t.Errorf("error %v, outcomes %v", err, j.outcomes)
	}
}

// TestRescueEndsWithTheTime: a passed deadline is no reason to answer without an expert, whatever was foreseen.
func TestRescueEndsWithTheTime(t *testing.T) {
	for name, r := range map[string]router.Router{
		"not foreseen": &byToken{}, "right": &foreseen{}, "wrong": &foreseen{wrong: []int32{1}}, // which goes to 4, 2, 3 first, then to 1, 2, 3
	} {
		groups, all := newGroups(experts)
		all[1].err = errGone
		l := moe.New(r, topK, experts, placed(experts, 2), groups, width, threads(t, 2))
		policies := make([]moe.Policy, experts)
		policies[1] = moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}
		if err := l.Degrade(policies); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		in := input(2, 1)
		in.Judge = &judge{accept: moe.AcceptAny}
		if err := l.Forward(ctx, in, tensor.NewMatrix(1, width)); !errors.Is(err, errGone) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestDegradeRefuses(t *testing.T) {
	groups, _ := newGroups(2)
	for name, policies := range map[string][]moe.Policy{
		"too few":         {{}},
		"its own standby": {{}, {Kind: moe.Fallback, Fallback: 1}},
		"no such standby": {{Kind: moe.Fallback, Fallback: 2}, {}},
		"no such expert":  {{Kind: moe.Substitute, Substitutes: map[int]int{0: experts}}, {}},
		"itself":          {{Kind: moe.Substitute, Substitutes: map[int]int{1: 1}}, {}},
	} {
		l := moe.New(&byToken{}, topK, experts, placed(2, 2), groups, width, threads(t, 1))
		if err := l.Degrade(policies); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestRescueAtRandom drops random experts of random rows and compares with the oracle.
func TestRescueAtRandom(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		groups, all := newGroups(experts)
		l := moe.New(&byToken{}, topK, experts, placed(experts, 2), groups, width, threads(t, 1))
		policies := make([]moe.Policy, experts)
		var dead []int
		for e := range experts {
			policies[e] = moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}
			if len(dead) < topK-1 && rng.IntN(3) == 0 {
				dead = append(dead, e)
				all[e].err = errGone
			}
		}
		if err := l.Degrade(policies); err != nil {
			t.Fatal(err)
		}
		tokens := make([]int32, 1+rng.IntN(20))
		for i := range tokens {
			tokens[i] = int32(rng.IntN(experts))
		}
		in := input(2, tokens...)
		j := &judge{accept: moe.AcceptAny}
		in.Judge = j
		y := tensor.NewMatrix(len(tokens), width)
		if err := l.Forward(t.Context(), in, y); err != nil {
			t.Fatal(err)
		}
		checkRescued(t, in, y, j, dead, func(int) int { return -1 }, moe.Renormalise)
	}
}
