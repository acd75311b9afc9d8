package attention_test

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/plugins/routers/attention"
	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var suite = choicetest.Suite{New: func() router.Router { return attention.New() }, ReadsLogits: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

const experts, k = 5, 2

func spec(params map[string]string) router.Spec {
	return router.Spec{Layers: []int{0, 3}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK, Renormalise: true}, Params: params}
}

func route(t *testing.T, r router.Router, b router.Batch) router.Routes {
	t.Helper()
	routes, err := choicetest.Do(r, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// naive is the definition in float64, with means over all rows: for as long as the window is not full.
type naive struct {
	gate, sharpness float64
	all             [][]float64
	of              [experts][][]float64
}

func unit(h []float32) []float64 {
	v, square := make([]float64, len(h)), 0.
	for _, x := range h {
		square += float64(x) * float64(x)
	}
	for i, x := range h {
		v[i] = float64(x) / math.Sqrt(square)
	}
	return v
}

func mean(rows [][]float64, width int) []float64 {
	m := make([]float64, width)
	for _, r := range rows {
		for i, x := range r {
			m[i] += x / float64(len(rows))
		}
	}
	return m
}

func cosine(a, b, m []float64) float64 {
	var ab, aa, bb float64
	for i := range a {
		x, y := a[i]-m[i], b[i]-m[i]
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}

// route gives the ids of a batch, and the least distance between a chosen score and one that is not, before it takes
// the batch in.
func (n *naive) route(b router.Batch) (ids [][]int32, margins []float64) {
	m := mean(n.all, b.Hidden.Cols)
	for row := range b.Logits.Rows {
		scores := make([]float64, experts)
		for e := range scores {
			scores[e] = float64(b.Logits.Row(row)[e])
			if len(n.all) >= 16*experts {
				cos := 0.
				if len(n.of[e]) > 0 {
					cos = cosine(unit(b.Hidden.Row(row)), mean(n.of[e], b.Hidden.Cols), m)
				}
				scores[e] = (1-n.gate)*n.sharpness*cos + n.gate*scores[e]
			}
		}
		order := []int32{0, 1, 2, 3, 4}
		slices.SortStableFunc(order, func(x, y int32) int { return cmp.Compare(scores[y], scores[x]) })
		ids = append(ids, order[:k])
		margins = append(margins, min(scores[order[0]]-scores[order[1]], scores[order[1]]-scores[order[2]]))
	}
	for row := range b.Logits.Rows {
		n.all = append(n.all, unit(b.Hidden.Row(row)))
		own := make([]int32, k)
		model.Choose(own, b.Logits.Row(row))
		for _, e := range own {
			n.of[e] = append(n.of[e], unit(b.Hidden.Row(row)))
		}
	}
	return ids, margins
}

// TestAgainstNaive: the routes are the definition's, first the checkpoint's own and then by centroids, alone and with the
// gate.
func TestAgainstNaive(t *testing.T) {
	for _, c := range []struct {
		gate   float64
		params map[string]string
	}{
		{.5, nil}, {0, map[string]string{"gate": "0"}}, {.25, map[string]string{"gate": "0.25", "sharpness": "3"}}, {1, map[string]string{"gate": "1"}},
	} {
		n := &naive{gate: c.gate, sharpness: 8}
		if c.params["sharpness"] != "" {
			n.sharpness = 3
		}
		r := suite.Configured(t, spec(c.params))
		other := 0 // routes that are not the checkpoint's own
		for i := range 30 {
			b := choicetest.Batch(uint64(i), 3, 13, experts)
			got := route(t, r, b)
			want, margins := n.route(b)
			for row := range want {
				ids := got.IDs[row*k : (row+1)*k]
				if margins[row] > 1e-4 && !slices.Equal(ids, want[row]) {
					t.Fatalf("gate %g, batch %d, row %d: ids %v, want %v", c.gate, i, row, ids, want[row])
				}
				own := make([]int32, k)
				model.Choose(own, b.Logits.Row(row))
				if !slices.Equal(own, ids) {
					other++
				}
			}
		}
		if c.gate < 1 && other < 100 || c.gate == 1 && other > 0 {
			t.Errorf("gate %g: %d of 390 rows are not routed by the checkpoint's rule", c.gate, other)
		}
	}
}

// clustered is a batch whose logits say expert 0 for hidden states near one axis and expert 1 near another, or nothing
// at all.
func clustered(rows int, telling bool) router.Batch {
	b := choicetest.Batch(77, 0, rows, experts)
	for row := range rows {
		clear(b.Logits.Row(row))
		for i, v := range b.Hidden.Row(row) {
			b.Hidden.Row(row)[i] = v / 10
		}
		b.Hidden.Row(row)[row%2]++
		if telling {
			b.Logits.Row(row)[row%2], b.Logits.Row(row)[2+row%2] = 5, 4
		}
	}
	return b
}

// TestContent: what a gate has taught is known by content when the gate says nothing any more, in that layer alone.
func TestContent(t *testing.T) {
	r := suite.Configured(t, spec(map[string]string{"gate": "0"}))
	route(t, r, clustered(200, true))
	got := route(t, r, clustered(50, false))
	for row := range 50 {
		ids := slices.Sorted(slices.Values(got.IDs[row*k : (row+1)*k]))
		if want := []int32{int32(row % 2), int32(2 + row%2)}; !slices.Equal(ids, want) {
			t.Errorf("row %d: experts %v, want %v", row, ids, want)
		}
	}
	b := clustered(2, false)
	b.Layer = 3
	if got := route(t, r, b); !slices.Equal(got.IDs, []int32{0, 1, 0, 1}) {
		t.Errorf("layer 3 knows what layer 0 was taught: %v", got.IDs)
	}
}

// TestWindow: a small window forgets; a large one does not.
func TestWindow(t *testing.T) {
	for window, want := range map[string][]int32{"20": {1, 0}, "100000": {0, 1}} {
		r := suite.Configured(t, router.Spec{Layers: []int{0}, Experts: 2, TopK: 1, Rule: router.Rule{Score: router.TopKSoftmax}, Params: map[string]string{"window": window, "gate": "0"}})
		teach := func(rows int, swap int) router.Routes {
			b := clustered(rows, false)
			b.Logits = tensor.NewMatrix(rows, 2)
			for row := range rows {
				b.Logits.Row(row)[(row+swap)%2] = 1
			}
			routes, err := choicetest.Do(r, b, 1)
			if err != nil {
				t.Fatal(err)
			}
			return routes
		}
		teach(400, 0)
		teach(60, 1)
		if got := teach(2, 1); !slices.Equal(got.IDs, want) {
			t.Errorf("window %s: rows of two kinds go to %v, want %v", window, got.IDs, want)
		}
	}
}

func TestRefusesHidden(t *testing.T) {
	r := suite.Configured(t, spec(nil))
	route(t, r, choicetest.Batch(1, 0, 3, experts))
	for says, change := range map[string]func(b *router.Batch){
		"hidden states are 0x0":      func(b *router.Batch) { b.Hidden = tensor.Matrix{} },
		"hidden states are 2x6":      func(b *router.Batch) { b.Hidden = b.Hidden.Slice(0, 2) },
		"have 4 values, had 6":       func(b *router.Batch) { b.Hidden = tensor.NewMatrix(3, 4) },
		"row 1: the hidden state ha": func(b *router.Batch) { b.Hidden.Row(1)[2] = float32(math.Inf(1)) },
	} {
		b := choicetest.Batch(1, 0, 3, experts)
		change(&b)
		if _, err := choicetest.Do(r, b, k); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}

func TestRefusesParams(t *testing.T) {
	for says, params := range map[string]map[string]string{
		`params: gate "1.5": must be a finite number from 0 to 1`: {"gate": "1.5"},
		`params: gate "NaN"`:                            {"gate": "NaN"},
		`params: sharpness "-1"`:                        {"sharpness": "-1"},
		`params: window "0": must be a whole number fr`: {"window": "0"},
	} {
		if err := attention.New().Configure(t.Context(), spec(params)); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
}
