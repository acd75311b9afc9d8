package moe_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// on is a group that runs on some cores. It holds the lanes of its calls against them and keeps how many were under way at
// once on each core.
type on struct {
	moe.Group
	cores []int
	now   []atomic.Int32 // by core, of all groups
	peak  []atomic.Int32
}

func (o *on) Cores() []int { return o.cores }

func (o *on) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if call.Lane < 1 || call.Lane > len(o.cores) {
		return pending(func() error { return fmt.Errorf("lane %d of %d", call.Lane, len(o.cores)) })
	}
	core := o.cores[call.Lane-1]
	n := o.now[core].Add(1)
	for most := o.peak[core].Load(); n > most && !o.peak[core].CompareAndSwap(most, n); most = o.peak[core].Load() {
	}
	return &onCall{o.Group.Start(ctx, call), &o.now[core]}
}

type onCall struct {
	expert.Pending
	now *atomic.Int32
}

func (c *onCall) Wait() error {
	defer c.now.Add(-1)
	return c.Pending.Wait()
}

// Note implements moe.Attributable.
func (c *onCall) Note(to *moe.Answer) {
	if a, ok := c.Pending.(moe.Attributable); ok {
		a.Note(to)
	}
}

func onCores(groups []moe.Group, cores int, of func(group int) []int) []moe.Group {
	now, peak := make([]atomic.Int32, cores), make([]atomic.Int32, cores)
	out := make([]moe.Group, len(groups))
	for i, g := range groups {
		out[i] = &on{g, of(i), now, peak}
	}
	return out
}

func onBothCores(groups []moe.Group) []moe.Group {
	return onCores(groups, 2, func(int) []int { return []int{0, 1} })
}

// TestDeal: dealt rows have the bits of others, on any number of cores, also where groups run on some of them only; and no core
// has more than two calls under way.
func TestDeal(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for cores := 2; cores <= 4; cores++ {
		for n := 1; n <= experts; n++ {
			groups, all := newGroups(n)
			groups = onCores(groups, cores, func(int) []int { return rng.Perm(cores)[:1+rng.IntN(cores)] })
			l := moe.New(&byToken{}, topK, experts, placed(n, 2, 7), groups, width, threads(t, cores)).DealFrom(0)
			for _, rows := range []int{1, 2, 7, 100, 1000} {
				tokens := make([]int32, rows)
				for r := range tokens {
					tokens[r] = rng.Int32N(experts)
				}
				in := input(7, tokens...)
				y := tensor.NewMatrix(rows, width)
				if err := l.Forward(t.Context(), in, y); err != nil {
					t.Fatal(err)
				}
				checkRows(t, fmt.Sprintf("%d groups, %d cores, %d rows", n, cores, rows), in, y)
			}
			if all[0].open.Load() != 0 {
				t.Errorf("%d calls were never waited for", all[0].open.Load())
			}
			o := groups[0].(*on)
			for c := range cores {
				if most := o.peak[c].Load(); most > 2 {
					t.Errorf("%d calls were under way on one core", most)
				}
			}
		}
	}
}

// TestDealsMuch: a long prompt's rows are dealt by themselves, a decode step's are sent at once, and so are those of groups
// that do not say where they run.
func TestDealsMuch(t *testing.T) {
	const wide = 4096
	for name, c := range map[string]struct {
		rows  int
		bound bool
		dealt bool
	}{"prompt": {256, true, true}, "step": {32, true, false}, "anywhere": {256, false, false}} {
		groups, all := newGroups(experts)
		if c.bound {
			groups = onBothCores(groups)
		}
		l := moe.New(&byToken{}, topK, experts, placed(experts, 2), groups, wide, threads(t, 2))
		in := moe.Input{
			Layer: 2, X: tensor.NewMatrix(c.rows, wide), Logits: tensor.NewMatrix(c.rows, experts), Tokens: make([]int32, c.rows), Positions: make([]int32, c.rows),
		}
		for r := range in.Tokens {
			in.Tokens[r] = int32(r % experts)
		}
		if err := l.Forward(t.Context(), in, tensor.NewMatrix(c.rows, wide)); err != nil {
			t.Fatal(err)
		}
		if most := all[0].peak.Load(); (most <= 4) != c.dealt {
			t.Errorf("%s: %d calls were under way at once", name, most)
		}
	}
}

// TestDealtErrors: all calls are made and waited for, and the same error is told whichever came first.
func TestDealtErrors(t *testing.T) {
	groups, all := newGroups(experts)
	errs := make([]error, experts)
	for i := range all {
		errs[i] = fmt.Errorf("group %d", i)
		if i > 0 {
			all[i].err = errs[i]
		}
	}
	l := moe.New(&byToken{}, topK, experts, placed(experts, 2), onBothCores(groups), width, threads(t, 2)).DealFrom(0)
	tokens := make([]int32, 200)
	for r := range tokens {
		tokens[r] = int32(r % 3)
	}
	var told []string
	for range 20 {
		in := input(2, tokens...)
		err := l.Forward(t.Context(), in, tensor.NewMatrix(len(tokens), width))
		if err == nil || !slices.ContainsFunc(errs[1:], func(e error) bool { return errors.Is(err, e) }) || !strings.Contains(err.Error(), "layer 2") {
			t.Fatalf("got %v", err)
		}
		told = append(told, err.Error())
	}
	if len(slices.Compact(told)) != 1 {
		t.Errorf("the error depends on who is first: %v", told)
	}
	if all[0].open.Load() != 0 {
		t.Errorf("%d calls were never waited for", all[0].open.Load())
	}
}
