package moe_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// written is a router whose answer is written down, and so is what is foreseen of it, if it is known.
type written struct {
	byToken
	answer, guess router.Routes
	known         bool
	guessed       int // times
	before        int // asked of the experts before the router's answer was waited for
	book          *book
}

func (w *written) Route(_ context.Context, _ router.Batch, out router.Routes) error {
	copy(out.IDs, w.answer.IDs)
	copy(out.Weights, w.answer.Weights)
	return w.err
}

func (w *written) Predict(_ context.Context, _ router.Batch, out router.Routes) bool {
	w.guessed++
	copy(out.IDs, w.guess.IDs)
	copy(out.Weights, w.guess.Weights)
	return w.known
}

func (w *written) Begin(ctx context.Context, in router.Batch, out router.Routes) expert.Pending {
	return pending(func() error {
		w.before = len(w.book.asked)
		return w.Route(ctx, in, out)
	})
}

// asked is a row for which an expert is asked.
type asked struct{ row, expert int }

// book keeps what the groups were asked for, and how often they were asked where the caller runs.
type book struct {
	mu    sync.Mutex
	asked map[asked]int
	here  int
}

type booked struct {
	moe.Group
	in *book
}

func (b *booked) Start(ctx context.Context, call *expert.Call) expert.Pending {
	b.in.mu.Lock()
	defer b.in.mu.Unlock()
	at := 0
	for _, s := range call.Segments {
		for range s.Rows {
			b.in.asked[asked{int(call.From[at]), s.Expert}]++
			at++
		}
	}
	return b.Group.Start(ctx, call)
}

func (b *booked) Here() int {
	b.in.here++
	return -1
}

// answers are routes in which each row has other weights.
func answers(tokens []int32) router.Routes {
	r := router.Routes{K: topK}
	for _, token := range tokens {
		for i := range topK {
			r.IDs = append(r.IDs, (token+int32(i))%experts)
			r.Weights = append(r.Weights, float32(len(r.IDs))/8)
		}
	}
	return r
}

// outputOf is what an expert makes of a row.
func outputOf(in moe.Input, r, e int) []float32 {
	y := slices.Clone(in.X.Row(r))
	for i, x := range y {
		y[i] = float32(x*float32(e+1)) + float32(in.Layer)
	}
	return y
}

// TestCallsOfAPrediction: what was foreseen is sent before the router has answered, and once. A row that the router answers
// otherwise is sent again, alone, and with the answer's weights. What can't be foreseen is sent after the answer, once. In any
// case the result is the answer's, each output that is combined is shown once, and the caller's own work is done once.
func TestCallsOfAPrediction(t *testing.T) {
	tokens := []int32{0, 1, 2, 3, 4, 5, 0}
	all := []int{0, 1, 2, 3, 4, 5, 6}
	for name, c := range map[string]struct {
		plain, dealt, unknown bool
		spoil                 func(ids []int32, weights []float32)
		again                 []int // rows; the others are as foreseen
		early                 bool
		plans                 int // that are made
	}{
		"not foreseen":      {plain: true, plans: 1},
		"dealt":             {dealt: true, spoil: func(ids []int32, _ []float32) { ids[0] = 5 }},
		"right":             {early: true, plans: 1},
		"another expert":    {early: true, spoil: func(ids []int32, _ []float32) { ids[4] = 0 }, again: []int{1}, plans: 2},
		"another weight":    {early: true, spoil: func(_ []int32, w []float32) { w[11] = 9 }, again: []int{3}, plans: 2},
		"the first row":     {early: true, spoil: func(_ []int32, w []float32) { w[0] = 9 }, again: []int{0}, plans: 2},
		"some rows":         {early: true, spoil: func(ids []int32, w []float32) { ids[3], w[9], w[16] = 4, 9, 9 }, again: []int{1, 3, 5}, plans: 2},
		"the last row":      {early: true, spoil: func(ids []int32, _ []float32) { ids[20] = 5 }, again: []int{6}, plans: 2},
		"all rows":          {early: true, spoil: func(_ []int32, w []float32) { clear(w) }, again: all, plans: 2},
		"not known":         {unknown: true, spoil: func(ids []int32, w []float32) { ids[0], w[0], ids[4], w[4] = 5, 9, 0, 9 }, plans: 1},
		"no valid routes":   {spoil: func(ids []int32, _ []float32) { ids[1] = experts }, plans: 1},
		"a repeated expert": {spoil: func(ids []int32, _ []float32) { ids[4], ids[5] = 0, 0 }, plans: 1},
	} {
		t.Run(name, func(t *testing.T) {
			groups, _ := newGroups(experts)
			b := &book{}
			for i := range groups {
				groups[i] = &booked{groups[i], b}
			}
			right := answers(tokens)
			w := &written{answer: right, guess: answers(tokens), known: !c.unknown, book: b}
			if c.spoil != nil {
				c.spoil(w.guess.IDs, w.guess.Weights)
			}
			var r router.Router = w
			if c.plain {
				r = struct{ router.Router }{w}
			}
			if c.dealt {
				groups = onBothCores(groups)
			}
			l := moe.New(r, topK, experts, placed(experts, 2), groups, width, threads(t, 2))
			if c.dealt {
				l.DealFrom(0)
			}
			var shown []string
			l.Watch(func(layer, e int, weight float32, y []float32) {
				shown = append(shown, fmt.Sprint(layer, e, weight, y))
			})
			for range 2 { // memory is used again
				b.asked, b.here, w.guessed, w.before, shown = map[asked]int{}, 0, 0, 0, nil
				in := input(2, tokens...)
				meanwhile := 0
				if !c.dealt {
					in.Meanwhile = func() { meanwhile++ }
				}
				y := tensor.NewMatrix(len(tokens), width)
				if err := l.Forward(t.Context(), in, y); err != nil {
					t.Fatal(err)
				}
				sent, show := map[asked]int{}, []string(nil)
				for row := range tokens {
					sum := make([]float32, width)
					for _, e := range slices.Sorted(slices.Values(right.IDs[row*topK : (row+1)*topK])) {
						weight := right.Weights[row*topK+slices.Index(right.IDs[row*topK:(row+1)*topK], e)]
						out := outputOf(in, row, int(e))
						for i, v := range out {
							sum[i] = float32(float64(weight)*float64(v) + float64(sum[i])) // the product is exact
						}
						show = append(show, fmt.Sprint(2, e, weight, out))
						if !c.early || slices.Contains(c.again, row) {
							sent[asked{row, int(e)}]++
						}
					}
					if !slices.Equal(y.Row(row), sum) {
						t.Errorf("row %d is %v, want %v", row, y.Row(row), sum)
					}
				}
				if c.early {
					for i, e := range w.guess.IDs {
						sent[asked{i / topK, int(e)}]++
					}
				}
				if !maps.Equal(b.asked, sent) {
					t.Errorf("the experts were asked for %v, want %v", b.asked, sent)
				}
				if c.early != (w.before > 0) || c.early && w.before != len(w.guess.IDs) {
					t.Errorf("%d rows were on their way before the router's answer, want all of them: %v", w.before, c.early)
				}
				if (w.guessed == 0) != (c.plain || c.dealt) {
					t.Errorf("the answer was guessed %d times", w.guessed)
				}
				if !c.dealt && (meanwhile != 1 || b.here != c.plans) {
					t.Errorf("%d times meanwhile, want 1; %d plans, want %d", meanwhile, b.here, c.plans)
				}
				slices.Sort(shown)
				slices.Sort(show)
				if !slices.Equal(shown, show) {
					t.Errorf("shown was %q, want %q", shown, show)
				}
			}
		})
	}
}

// TestErrorsOfAPrediction: a call that fails is told of, whether it was sent on the prediction or on the answer, and none is
// left behind.
func TestErrorsOfAPrediction(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct{ guess, answer int32 }{
		"both": {4, 4}, "foreseen only": {4, 1}, "answered only": {1, 4},
	} {
		groups, all := newGroups(experts)
		all[4].err = boom
		w := &written{known: true, book: &book{}}
		w.answer = router.Routes{K: 1, IDs: []int32{c.answer, 0}, Weights: []float32{1, 1}}
		w.guess = router.Routes{K: 1, IDs: []int32{c.guess, 0}, Weights: []float32{1, 1}}
		l := moe.New(w, 1, experts, placed(experts, 2), groups, width, threads(t, 1))
		if err := l.Forward(t.Context(), input(2, 0, 0), tensor.NewMatrix(2, width)); !errors.Is(err, boom) || !strings.Contains(err.Error(), "layer 2") {
			t.Errorf("%s: error %v, want %v of layer 2", name, err, boom)
		}
		if n := all[0].open.Load(); n != 0 {
			t.Errorf("%s: %d calls were left behind", name, n)
		}
	}
}

// drowsy is a group whose process sleeps until it is woken.
type drowsy struct {
	moe.Group
	name string
	log  *[]string
}

type drowsyCall struct {
	expert.Pending
	of *drowsy
}

func (d *drowsy) Start(ctx context.Context, call *expert.Call) expert.Pending {
	*d.log = append(*d.log, "start "+d.name)
	return &drowsyCall{d.Group.Start(ctx, call), d}
}

func (c *drowsyCall) Wake(all bool) {
	*c.of.log = append(*c.of.log, fmt.Sprintf("wake %s %v", c.of.name, all))
}

// TestWake: all calls are sent before anybody is woken, but for those that are large; then
// everybody is woken, those on the caller's core last.
func TestWake(t *testing.T) {
	const wide = 512 // a row is a quarter of what is woken for at once
	groups, _ := newGroups(3)
	var log []string
	groups[0], groups[1] = &drowsy{groups[0], "long", &log}, &drowsy{groups[1], "short", &log}
	l := moe.New(&byToken{}, 1, 3, moe.Placement{2: {0, 1, 2}}, groups, wide, threads(t, 1))
	in := moe.Input{Layer: 2, Tokens: []int32{0, 1, 0, 1, 0, 1, 0, 1, 0, 2}, Positions: make([]int32, 10)}
	in.X, in.Logits = tensor.NewMatrix(10, wide), tensor.NewMatrix(10, 3)
	if err := l.Forward(t.Context(), in, tensor.NewMatrix(10, wide)); err != nil {
		t.Fatal(err)
	}
	if want := []string{
		"start long", "wake long false", "start short",
		"wake long false", "wake short false", "wake long true", "wake short true",
	}; !slices.Equal(log, want) {
		t.Errorf("got %q, want %q", log, want)
	}
}

// hasty is a group that can do without waiting for a restart.
type hasty struct {
	moe.Group
	patient, now int
}

func (h *hasty) Start(ctx context.Context, call *expert.Call) expert.Pending {
	h.patient++
	return h.Group.Start(ctx, call)
}

func (h *hasty) StartNow(ctx context.Context, call *expert.Call) expert.Pending {
	h.now++
	return h.Group.Start(ctx, call)
}

// TestNobodyWaitsForARestart where a policy and a judge may do without an expert; else everybody does.
func TestNobodyWaitsForARestart(t *testing.T) {
	open := moe.Policy{Kind: moe.Renormalise, MaxDroppedMass: 1, MinExperts: 1}
	for name, c := range map[string]struct {
		policy moe.Policy
		judge  moe.Judge
		now    int
	}{
		"lenient":  {open, &judge{accept: moe.AcceptAny}, 1},
		"no judge": {open, nil, 0},
		"strict":   {moe.Policy{}, &judge{accept: moe.AcceptAny}, 0},
	} {
		groups, _ := newGroups(1)
		h := &hasty{Group: groups[0]}
		l := moe.New(&byToken{}, topK, experts, placed(1, 2), []moe.Group{h}, width, threads(t, 1))
		if err := l.Degrade([]moe.Policy{c.policy}); err != nil {
			t.Fatal(err)
		}
		in := input(2, 1)
		in.Judge = c.judge
		if err := l.Forward(t.Context(), in, tensor.NewMatrix(1, width)); err != nil {
			t.Fatal(err)
		}
		if h.now != c.now || h.patient != 1-c.now {
			t.Errorf("%s: %d calls wait for a restart and %d do not, want %d that do not", name, h.patient, h.now, c.now)
		}
	}
}

// changing places all experts in the group of the edition's number.
type changing struct{}

func (changing) Of(edition uint64) moe.Placement {
	p := moe.Placement{}
	for range experts {
		p[2] = append(p[2], int(edition))
	}
	return p
}

// ofEdition is a router, or a group, that holds what it is asked against an edition.
type ofEdition struct {
	byToken
	moe.Group
	t    *testing.T
	want uint64
}

func (o *ofEdition) Route(ctx context.Context, in router.Batch, out router.Routes) error {
	if in.Edition != o.want {
		o.t.Errorf("the router is asked about edition %d, want %d", in.Edition, o.want)
	}
	return o.byToken.Route(ctx, in, out)
}

func (o *ofEdition) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if call.Edition != o.want {
		o.t.Errorf("the experts of edition %d are asked, want %d", call.Edition, o.want)
	}
	return o.Group.Start(ctx, call)
}

// TestAt: the layer at an edition asks the router about that edition, and those groups which serve it, whatever the input says.
func TestAt(t *testing.T) {
	groups, all := newGroups(3)
	for g := range groups {
		groups[g] = &ofEdition{Group: groups[g], t: t, want: 2}
	}
	all[0].err, all[1].err = errGone, errGone
	l := moe.New(&ofEdition{t: t, want: 2}, topK, experts, changing{}, groups, width, threads(t, 1))
	in, y := input(2, 1, 4), tensor.NewMatrix(2, width)
	in.Edition = 1
	if err := l.At(2).Forward(t.Context(), in, y); err != nil {
		t.Fatal(err)
	}
	checkRows(t, "edition 2", in, y)
}

// follower is told of layers and keeps what it is told.
type follower []string

func (f *follower) Layer(layer, rows int) spans.Layer {
	*f = append(*f, fmt.Sprintf("layer %d of %d rows", layer, rows))
	return f
}
func (f *follower) Call(spans.Call) spans.Span { return nil }
func (f *follower) End(err error)              { *f = append(*f, fmt.Sprint("end: ", err)) }

// within is a group whose calls must be known to a follower.
type within struct {
	moe.Group
	t  *testing.T
	of spans.Layer
}

func (w *within) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if spans.LayerOf(ctx) != w.of {
		w.t.Errorf("the call is known to %v, want %v", spans.LayerOf(ctx), w.of)
	}
	return w.Group.Start(ctx, call)
}

// TestFollowed: who follows a step is told of each layer that has something to do, of its calls, and how it ends.
func TestFollowed(t *testing.T) {
	groups, all := newGroups(1)
	f := &follower{}
	l := moe.New(&byToken{}, topK, experts, placed(1, 2), []moe.Group{&within{groups[0], t, f}}, width, threads(t, 1))
	ctx := spans.WithStep(t.Context(), f)
	if err := l.Forward(ctx, input(2, 1, 4), tensor.NewMatrix(2, width)); err != nil {
		t.Fatal(err)
	}
	if err := l.Forward(ctx, input(2), tensor.NewMatrix(0, width)); err != nil {
		t.Fatal(err)
	}
	all[0].err = errGone
	err := l.Forward(ctx, input(2, 3), tensor.NewMatrix(1, width))
	if want := []string{"layer 2 of 2 rows", "end: <nil>", "layer 2 of 1 rows", "end: " + fmt.Sprint(err)}; err == nil || !slices.Equal(*f, want) {
		t.Errorf("told was %q, want %q", *f, want)
	}
}

// forgetful is a router that answers for the first row only.
type forgetful struct{ byToken }

func (f *forgetful) Route(ctx context.Context, in router.Batch, out router.Routes) error {
	in.Tokens = in.Tokens[:1]
	return f.byToken.Route(ctx, in, out)
}

// TestForgottenRow: a row that the router leaves out is named, also when the memory held an answer before.
func TestForgottenRow(t *testing.T) {
	groups, _ := newGroups(1)
	l := moe.New(&forgetful{}, topK, experts, placed(1, 2), groups, width, threads(t, 1))
	for range 2 {
		err := l.Forward(t.Context(), input(2, 1, 4), tensor.NewMatrix(2, width))
		if want := "layer 2 row 1: expert -1 of 6"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// TestNothingToDo: nobody is asked about no rows.
func TestNothingToDo(t *testing.T) {
	groups, all := newGroups(1)
	l := moe.New(&byToken{err: errors.New("asked about nothing")}, topK, experts, placed(1, 2), groups, width, threads(t, 1))
	if err := l.Forward(t.Context(), input(2), tensor.NewMatrix(0, width)); err != nil || all[0].waited.Load() != 0 {
		t.Errorf("error %v, %d calls", err, all[0].waited.Load())
	}
}
