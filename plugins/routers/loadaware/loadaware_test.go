package loadaware_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/loadaware"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var suite = choicetest.Suite{New: func() router.Router { return loadaware.New() }, ReadsLogits: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

func route(t *testing.T, r router.Router, b router.Batch, k int) router.Routes {
	t.Helper()
	routes, err := choicetest.Do(r, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// TestBegins: before there is any load, and for ever at rate 0, the answers are the model's own.
func TestBegins(t *testing.T) {
	for _, spec := range choicetest.Specs() {
		plain := model.New()
		if err := plain.Configure(t.Context(), spec); err != nil {
			t.Fatal(err)
		}
		fresh := suite.Configured(t, spec)
		spec.Params = map[string]string{"rate": "0"}
		still := suite.Configured(t, spec)
		for i := range 5 {
			b := choicetest.Batch(uint64(i), 3, 8, spec.Experts)
			want := route(t, plain, b, spec.TopK)
			same(t, "rate 0", route(t, still, b, spec.TopK), want)
			if i == 0 {
				same(t, "first batch", route(t, fresh, b, spec.TopK), want)
			}
		}
	}
}

func same(t *testing.T, what string, got, want router.Routes) {
	t.Helper()
	if !slices.Equal(got.IDs, want.IDs) {
		t.Errorf("%s: ids %v, want %v", what, got.IDs, want.IDs)
	}
	for i, w := range want.Weights {
		if math.Abs(float64(got.Weights[i]-w)) > 1e-6 {
			t.Errorf("%s: weight %d is %g, want %g", what, i, got.Weights[i], w)
		}
	}
}

// TestStep follows three experts by hand, k = 1, rate 1: logits 2, 1, 0 at every batch of one row. The mean load is a
// third of a row, so the chosen expert's bias grows by one and the others' fall by one.
func TestStep(t *testing.T) {
	r := suite.Configured(t, router.Spec{Layers: []int{0}, Experts: 3, TopK: 1, Rule: router.Rule{Score: router.SoftmaxTopK},
		Params: map[string]string{"rate": "1"}})
	p := []float64{math.Exp(2), math.E, 1}
	sum := p[0] + p[1] + p[2]
	// Biases before each batch: 0 0 0; 1 -1 -1; 0 0 -2; 1 -1 -3 (scores 1 2 3), then 0 -2 -2 (2 3 2).
	// The second batch has scores 1 2 1, the third 2 1 2, a tie that the lower id wins.
	for i, want := range []int32{0, 1, 0, 2, 1} {
		b := router.Batch{Logits: tensor.MatrixOf(1, 3, []float32{2, 1, 0}), Tokens: []int32{5}, Positions: []int32{0}}
		got := route(t, r, b, 1)
		if got.IDs[0] != want {
			t.Fatalf("batch %d: expert %d, want %d", i, got.IDs[0], want)
		}
		if w := p[want] / sum; math.Abs(float64(got.Weights[0])-w) > 1e-6 {
			t.Errorf("batch %d: weight %g, want %g: the bias must not count", i, got.Weights[0], w)
		}
	}
}

// TestBalances: where the model's own rule sends nearly everything to two experts, the load evens out, in each layer by
// itself.
func TestBalances(t *testing.T) {
	const experts, k, rows, batches = 8, 2, 16, 800
	r := suite.Configured(t, router.Spec{Layers: []int{0, 3}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK, Renormalise: true}})
	share := func(ids []int32) float64 { // of the busiest expert
		var n [experts]int
		for _, id := range ids {
			n[id]++
		}
		return float64(slices.Max(n[:])) / float64(len(ids))
	}
	var first, last []int32
	for i := range batches {
		b := choicetest.Batch(uint64(i), 3, rows, experts)
		for row := range rows {
			b.Logits.Row(row)[2] += 5
			b.Logits.Row(row)[6] += 4
		}
		ids := route(t, r, b, k).IDs
		if i < 50 {
			first = append(first, ids...)
		}
		if i >= batches-50 {
			last = append(last, ids...)
		}
	}
	if before, after := share(first), share(last); before < 0.35 || after > 0.2 {
		t.Errorf("the busiest of %d experts had %.2f of the rows at first and %.2f at last, want at least 0.35 and at most 0.20", experts, before, after)
	}
	fresh := suite.Configured(t, router.Spec{Layers: []int{0, 3}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK, Renormalise: true}})
	b := choicetest.Batch(1, 0, rows, experts)
	if !slices.Equal(route(t, r, b, k).IDs, route(t, fresh, b, k).IDs) {
		t.Error("the load of layer 3 counts in layer 0")
	}
}

// TestFarBelow: renormalised weights stay finite when the bias picks experts whose probability underflows.
func TestFarBelow(t *testing.T) {
	r := suite.Configured(t, router.Spec{Layers: []int{0}, Experts: 4, TopK: 2, Rule: router.Rule{Score: router.SoftmaxTopK, Renormalise: true},
		Params: map[string]string{"rate": "1000"}})
	for range 10 {
		b := router.Batch{Logits: tensor.MatrixOf(1, 4, []float32{900, 500, 0, 1}), Tokens: []int32{1}, Positions: []int32{0}}
		got := route(t, r, b, 2)
		if sum := got.Weights[0] + got.Weights[1]; !(math.Abs(float64(sum)-1) < 1e-6) {
			t.Errorf("experts %v have weights %v", got.IDs, got.Weights)
		}
	}
}

func TestRefusesRate(t *testing.T) {
	for _, rate := range []string{"", "-0.1", "NaN", "Inf", "1e999", "fast"} {
		err := loadaware.New().Configure(t.Context(), router.Spec{Layers: []int{0}, Experts: 2, TopK: 1, Rule: router.Rule{Score: router.SoftmaxTopK},
			Params: map[string]string{"rate": rate}})
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "params: rate") {
			t.Errorf("rate %q: %v", rate, err)
		}
	}
}
