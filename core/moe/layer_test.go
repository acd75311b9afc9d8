package moe_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// byToken is a router whose answer is written in the token ids: token t of a row goes to experts t, t+1, ... with
// weights 1, 1/2, ...
type byToken struct {
	err    error
	hidden bool
	saw    tensor.Matrix
	spoil  func(router.Routes)
}

func (*byToken) Info() sdk.Info                               { return sdk.Info{Name: "by-token", Kind: sdk.KindRouter} }
func (*byToken) Configure(context.Context, router.Spec) error { return nil }
func (*byToken) Close() error                                 { return nil }
func (b *byToken) WantsHidden() bool                          { return b.hidden }
func (b *byToken) Route(_ context.Context, in router.Batch, out router.Routes) error {
	if b.hidden {
		b.saw = in.Hidden
	} else if in.Hidden.Rows != 0 {
		return errors.New("hidden states for a router that did not ask")
	}
	for r, t := range in.Tokens {
		for i := range out.K {
			out.IDs[r*out.K+i] = (t + int32(i)) % int32(in.Logits.Cols)
			out.Weights[r*out.K+i] = 1 / float32(i+1)
		}
	}
	if b.spoil != nil {
		b.spoil(out)
	}
	return b.err
}

// scaling is an expert group: expert e of layer l multiplies by (e+1) and adds l. It counts what is open.
type scaling struct {
	err    error
	open   *atomic.Int32 // calls sent and not yet waited for, over all groups
	peak   *atomic.Int32
	waited *atomic.Int32
}

type pending func() error

func (p pending) Wait() error { return p() }

func (s *scaling) Start(ctx context.Context, call *expert.Call) expert.Pending {
	s.peak.Store(max(s.peak.Load(), s.open.Add(1)))
	done := make(chan error, 1)
	go func() {
		at := 0
		for _, seg := range call.Segments {
			for range seg.Rows {
				x, y := call.X.Row(int(call.From[at])), call.Y.Row(at)
				for i := range x {
					y[i] = float32(x[i]*float32(seg.Expert+1)) + float32(call.Layer)
				}
				at++
			}
		}
		done <- s.err
	}()
	return pending(func() error {
		err := <-done
		s.open.Add(-1)
		s.waited.Add(1)
		return err
	})
}

func newGroups(n int) ([]moe.Group, []*scaling) {
	open, peak, waited := new(atomic.Int32), new(atomic.Int32), new(atomic.Int32)
	groups, all := make([]moe.Group, n), make([]*scaling, n)
	for i := range groups {
		all[i] = &scaling{open: open, peak: peak, waited: waited}
		groups[i] = all[i]
	}
	return groups, all
}

const width, experts, topK = 5, 6, 3

func placed(groups int, layers ...int) moe.Placement {
	p := moe.Placement{}
	for _, l := range layers {
		for e := range experts {
			p[l] = append(p[l], e%groups)
		}
	}
	return p
}

func input(layer int, tokens ...int32) moe.Input {
	in := moe.Input{
		Layer: layer, X: tensor.NewMatrix(len(tokens), width), Logits: tensor.NewMatrix(len(tokens), experts),
		Tokens: tokens, Positions: make([]int32, len(tokens)),
	}
	rng := rand.New(rand.NewPCG(uint64(len(tokens)), uint64(layer)))
	for i := range in.X.Data {
		in.X.Data[i] = rng.Float32() - 0.5
	}
	return in
}

// want is the definition: the experts of a row in ascending order.
func want(in moe.Input, r int) []float32 {
	y := make([]float32, width)
	ids := make([]int, topK)
	for i := range ids {
		ids[i] = (int(in.Tokens[r]) + i) % experts
	}
	sorted := slices.Sorted(slices.Values(ids))
	for _, e := range sorted {
		w := 1 / float32(slices.Index(ids, e)+1)
		for i, x := range in.X.Row(r) {
			out := float32(x*float32(e+1)) + float32(in.Layer)
			y[i] = float32(float64(w)*float64(out) + float64(y[i])) // the product is exact
		}
	}
	return y
}

func checkRows(t *testing.T, what string, in moe.Input, y tensor.Matrix) {
	t.Helper()
	for r := range y.Rows {
		for i, v := range want(in, r) {
			if math.Float32bits(y.Row(r)[i]) != math.Float32bits(v) {
				t.Fatalf("%s: row %d is %v, want %v", what, r, y.Row(r), want(in, r))
			}
		}
	}
}

// TestForward: the result is the weighted sum in expert-id order, whatever the groups and the rows.
func TestForward(t *testing.T) {
	for _, n := range []int{1, 2, 4, 6} {
		groups, all := newGroups(n)
		l := moe.New(&byToken{}, topK, experts, placed(n, 2, 7), groups, width, threads(t, 2))
		for _, tokens := range [][]int32{{4}, {0, 1, 2, 3, 4, 5}, {5, 5, 5}, {2, 0, 4, 4, 1, 3, 3, 5, 0, 1}, nil, {1}} {
			for _, layer := range []int{2, 7} {
				in := input(layer, tokens...)
				y := tensor.NewMatrix(len(tokens), width)
				for i := range y.Data {
					y.Data[i] = 99
				}
				if err := l.Forward(t.Context(), in, y); err != nil {
					t.Fatal(err)
				}
				checkRows(t, fmt.Sprintf("%d groups, layer %d, tokens %v", n, layer, tokens), in, y)
			}
		}
		if all[0].open.Load() != 0 {
			t.Errorf("%d calls were never waited for", all[0].open.Load())
		}
		if got := int(all[0].peak.Load()); got < n {
			t.Errorf("at most %d calls were open at once, want one for each of %d groups before the first wait", got, n)
		}
	}
}

// TestForwardStrided: rows need not be contiguous.
func TestForwardStrided(t *testing.T) {
	groups, _ := newGroups(2)
	l := moe.New(&byToken{}, topK, experts, placed(2, 2), groups, width, threads(t, 1))
	in := input(2, 3, 1, 4)
	wide := tensor.NewMatrix(3, width+4)
	for r := range 3 {
		copy(wide.Row(r), in.X.Row(r))
	}
	plain := in
	in.X = tensor.Matrix{Rows: 3, Cols: width, Stride: width + 4, Data: wide.Data}
	out := tensor.NewMatrix(3, width+2)
	for i := range out.Data {
		out.Data[i] = 7
	}
	y := tensor.Matrix{Rows: 3, Cols: width, Stride: width + 2, Data: out.Data}
	if err := l.Forward(t.Context(), in, y); err != nil {
		t.Fatal(err)
	}
	checkRows(t, "strided", plain, y)
	for r := range 3 {
		if g := out.Row(r)[width:]; g[0] != 7 || g[1] != 7 {
			t.Errorf("row %d wrote into the gap: %v", r, g)
		}
	}
}

func TestObserve(t *testing.T) {
	groups, _ := newGroups(1)
	b := &byToken{hidden: true}
	l := moe.New(b, topK, experts, placed(1, 2), groups, width, threads(t, 1))
	in := input(2, 4, 0)
	var seen []string
	in.Observe = func(layer, row, k int, ids []int32, weights []float32) {
		seen = append(seen, fmt.Sprint(layer, row, k, ids, weights))
	}
	if err := l.Forward(t.Context(), in, tensor.NewMatrix(2, width)); err != nil {
		t.Fatal(err)
	}
	if want := []string{"2 0 3 [4 5 0] [1 0.5 0.33333334]", "2 1 3 [0 1 2] [1 0.5 0.33333334]"}; !slices.Equal(seen, want) {
		t.Errorf("observed %q, want %q", seen, want)
	}
	if b.saw.Rows != 2 || &b.saw.Data[0] != &in.X.Data[0] {
		t.Error("the router that asked for hidden states did not get them")
	}
}

// TestForwardErrors: the first failing call is named; every call that was sent is waited for.
func TestForwardErrors(t *testing.T) {
	groups, all := newGroups(6)
	boom, late := errors.New("boom"), errors.New("late")
	all[2].err, all[4].err = boom, late
	l := moe.New(&byToken{}, topK, experts, placed(6, 2), groups, width, threads(t, 1))
	err := l.Forward(t.Context(), input(2, 0, 1, 2, 3, 4, 5), tensor.NewMatrix(6, width))
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "layer 2") {
		t.Errorf("error %v", err)
	}
	if all[0].waited.Load() != 6 || all[0].open.Load() != 0 {
		t.Errorf("%d of 6 calls were waited for", all[0].waited.Load())
	}
	all[2].err, all[4].err = nil, nil
	in, y := input(2, 1, 2), tensor.NewMatrix(2, width)
	if err := l.Forward(t.Context(), in, y); err != nil {
		t.Fatal(err)
	}
	checkRows(t, "after an error", in, y)
}

func TestForwardRefuses(t *testing.T) {
	groups, all := newGroups(2)
	good := placed(2, 2)
	short, far := placed(2, 2), placed(2, 2)
	short[2] = short[2][:5]
	far[2][3] = 2
	failed := errors.New("router is gone")
	wide := input(2, 1)
	wide.X = tensor.NewMatrix(1, width+1)
	noTokens := input(2, 1)
	noTokens.Tokens = nil
	fewLogits := input(2, 1)
	fewLogits.Logits = tensor.NewMatrix(1, experts-1)
	manyLogits := input(2, 1)
	manyLogits.Logits = tensor.NewMatrix(2, experts)
	onePosition := input(2, 1, 2)
	onePosition.Positions = onePosition.Positions[:1]
	y1, y2, narrow := tensor.NewMatrix(1, width), tensor.NewMatrix(2, width), tensor.NewMatrix(1, width-1)
	for name, c := range map[string]struct {
		router *byToken
		place  moe.Placement
		in     moe.Input
		y      tensor.Matrix
		class  error
	}{
		"no such layer":          {&byToken{}, good, input(3, 1), y1, sdk.ErrInvalid},
		"half a layer":           {&byToken{}, short, input(2, 1), y1, sdk.ErrInvalid},
		"no such group":          {&byToken{}, far, input(2, 1), y1, sdk.ErrInvalid},
		"wrong width":            {&byToken{}, good, wide, y1, sdk.ErrInvalid},
		"no tokens":              {&byToken{}, good, noTokens, y1, sdk.ErrInvalid},
		"logits of few experts":  {&byToken{}, good, fewLogits, y1, sdk.ErrInvalid},
		"logits of many rows":    {&byToken{}, good, manyLogits, y1, sdk.ErrInvalid},
		"few positions":          {&byToken{}, good, onePosition, y2, sdk.ErrInvalid},
		"narrow y":               {&byToken{}, good, input(2, 1), narrow, sdk.ErrInvalid},
		"wrong y":                {&byToken{}, good, input(2, 1), y2, sdk.ErrInvalid},
		"router fails":           {&byToken{err: failed}, good, input(2, 1), y1, failed},
		"router answers nothing": {&byToken{spoil: func(r router.Routes) { r.IDs[0] = -1 }}, good, input(2, 1), y1, sdk.ErrInvalidOutput},
		"router answers NaN":     {&byToken{spoil: func(r router.Routes) { r.Weights[1] = float32(math.NaN()) }}, good, input(2, 1), y1, sdk.ErrInvalidOutput},
		"router repeats":         {&byToken{spoil: func(r router.Routes) { r.IDs[1] = r.IDs[0] }}, good, input(2, 1), y1, sdk.ErrInvalidOutput},
	} {
		l := moe.New(c.router, topK, experts, c.place, groups, width, threads(t, 1))
		if err := l.Forward(t.Context(), c.in, c.y); !errors.Is(err, c.class) {
			t.Errorf("%s: error %v, want %v", name, err, c.class)
		}
	}
	if all[0].waited.Load() != 0 {
		t.Errorf("%d calls were sent all the same", all[0].waited.Load())
	}
}

// TestConcurrent: Forwards at the same time do not share memory.
func TestConcurrent(t *testing.T) {
	groups, _ := newGroups(3)
	l := moe.New(&byToken{}, topK, experts, placed(3, 1, 2), groups, width, threads(t, 2))
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(g), 3))
			for range 100 {
				tokens := make([]int32, 1+rng.IntN(9))
				for i := range tokens {
					tokens[i] = int32(rng.IntN(experts))
				}
				in, y := input(1+rng.IntN(2), tokens...), tensor.NewMatrix(len(tokens), width)
				if err := l.Forward(context.Background(), in, y); err != nil {
					t.Error(err)
					return
				}
				for r := range y.Rows {
					if !slices.Equal(y.Row(r), want(in, r)) {
						t.Errorf("row %d is %v, want %v", r, y.Row(r), want(in, r))
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// foreseen is a router that is predicted: wrongly for the rows whose token is in wrong, and not at all if blind.
type foreseen struct {
	byToken
	wrong []int32
	blind bool
}

func (f *foreseen) Predict(_ context.Context, in router.Batch, out router.Routes) bool {
	f.Route(context.Background(), in, out)
	for r, t := range in.Tokens {
		if slices.Contains(f.wrong, t) {
			ids := out.IDs[r*out.K : (r+1)*out.K]
			switch {
			case t%2 == 0: // another order, with other weights
				slices.Reverse(ids)
			default:
				ids[0] = (ids[out.K-1] + 1) % int32(in.Logits.Cols)
			}
		}
	}
	return !f.blind
}

func (f *foreseen) Begin(ctx context.Context, in router.Batch, out router.Routes) expert.Pending {
	return pending(func() error { return f.Route(ctx, in, out) })
}

// TestPredicted: whatever was predicted, the router's own answer counts, is what is observed, and gives the same bits.
func TestPredicted(t *testing.T) {
	for name, r := range map[string]*foreseen{
		"right": {}, "blind": {blind: true}, "a row": {wrong: []int32{3}}, "the order": {wrong: []int32{2}}, "all": {wrong: []int32{0, 1, 2, 3, 4, 5}},
	} {
		groups, all := newGroups(3)
		l := moe.New(r, topK, experts, placed(3, 2), groups, width, threads(t, 2))
		for range 3 { // memory is used again
			in := input(2, 0, 1, 2, 3, 3, 4, 5)
			seen, between := 0, 0
			in.Observe = func(_, row, _ int, ids []int32, _ []float32) {
				seen++
				if ids[0] != in.Tokens[row] {
					t.Errorf("%s: row %d was observed as %v", name, row, ids)
				}
			}
			in.Meanwhile = func() {
				between++
				if all[0].open.Load() == 0 {
					t.Errorf("%s: nothing was on its way meanwhile", name)
				}
			}
			y := tensor.NewMatrix(7, width)
			if err := l.Forward(t.Context(), in, y); err != nil {
				t.Fatal(err)
			}
			checkRows(t, name, in, y)
			if seen != 7 || between != 1 || all[0].open.Load() != 0 {
				t.Errorf("%s: %d rows observed, %d times meanwhile, %d calls left", name, seen, between, all[0].open.Load())
			}
		}
		r.err = errors.New("boom")
		if err := l.Forward(t.Context(), input(2, 0, 3), tensor.NewMatrix(2, width)); !errors.Is(err, r.err) {
			t.Errorf("%s: error %v", name, err)
		}
		if all[0].open.Load() != 0 {
			t.Errorf("%s: %d calls were left behind", name, all[0].open.Load())
		}
	}
}

// threads is a team that ends with the test.
func threads(t testing.TB, n int) team.Team {
	p := team.NewPool(n, team.Options{})
	t.Cleanup(p.Close)
	return p.Team()
}
