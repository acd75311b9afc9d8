package hierarchical_test

import (
	"cmp"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/plugins/routers/hierarchical"
	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var suite = choicetest.Suite{New: func() router.Router { return hierarchical.New() }, RowIndependent: true, ReadsLogits: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

func spec(experts, k int, params map[string]string) router.Spec {
	return router.Spec{Layers: []int{0}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK}, Params: params}
}

// naive is the definition, in float64 and by sorting.
func naive(logits []float32, groups, top, k int) []int32 {
	size, each := len(logits)/groups, (k+top-1)/top
	scores := make([]float64, groups)
	order := make([]int, groups)
	for g := range groups {
		order[g] = g
		own := slices.Clone(logits[g*size : (g+1)*size])
		slices.SortFunc(own, func(a, b float32) int { return cmp.Compare(b, a) })
		for _, v := range own[:min(each, size)] {
			scores[g] += math.Exp(float64(v - own[0]))
		}
		scores[g] = float64(own[0]) + math.Log(scores[g]) // of the sum of e^logit, which alone may underflow
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(scores[b], scores[a]) })
	var ids []int32
	for e := range logits {
		if slices.Contains(order[:top], e/size) {
			ids = append(ids, int32(e))
		}
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return cmp.Compare(logits[b], logits[a]) })
	return ids[:k]
}

// TestAgainstNaive: the choice is the definition's, over shapes and parameters.
func TestAgainstNaive(t *testing.T) {
	for _, c := range []struct {
		experts, k, groups, top int
		params                  map[string]string
	}{
		{8, 2, 2, 1, nil},
		{16, 4, 4, 2, nil},
		{128, 8, 8, 4, nil},
		{13, 5, 1, 1, nil},
		{8, 3, 4, 2, map[string]string{"groups": "4"}},
		{12, 3, 6, 2, map[string]string{"groups": "6", "top_groups": "2"}},
		{12, 5, 3, 2, map[string]string{"groups": "3", "top_groups": "2"}},
	} {
		r := suite.Configured(t, spec(c.experts, c.k, c.params))
		b := choicetest.Batch(5, 0, 60, c.experts)
		got, err := choicetest.Do(r, b, c.k)
		if err != nil {
			t.Fatal(err)
		}
		for row := range b.Logits.Rows {
			if ids, want := got.IDs[row*c.k:(row+1)*c.k], naive(b.Logits.Row(row), c.groups, c.top, c.k); !slices.Equal(ids, want) {
				t.Errorf("%d of %d experts, %d of %d groups, row %d: ids %v, want %v", c.k, c.experts, c.top, c.groups, row, ids, want)
			}
		}
	}
}

// TestByHand: a group of two good experts beats one with the best expert and a bad one, and the lower group is first
// among equals; the weights are shares of all experts.
func TestByHand(t *testing.T) {
	ln2 := float32(math.Ln2)
	r := suite.Configured(t, spec(6, 2, map[string]string{"groups": "3", "top_groups": "1"}))
	got := choicetest.Route(t, r, 0, 2, tensor.MatrixOf(2, 6, []float32{
		2 * ln2, -9 * ln2, ln2, 1.8 * ln2, 1.8 * ln2, ln2,
		0, 0, 0, 0, 0, 0,
	}))
	if want := []int32{3, 2, 0, 1}; !slices.Equal(got.IDs, want) {
		t.Errorf("ids %v, want %v", got.IDs, want)
	}
	if w := got.Weights[2]; math.Abs(float64(w)-1./6) > 1e-6 {
		t.Errorf("an expert like the five others has weight %g, want a sixth", w)
	}
}

// TestFarApart: groups are told apart where all but one have no probability that float32 can hold.
func TestFarApart(t *testing.T) {
	r := suite.Configured(t, spec(6, 2, map[string]string{"groups": "3", "top_groups": "2"}))
	got := choicetest.Route(t, r, 0, 2, tensor.MatrixOf(1, 6, []float32{-900, -900, 1000, 0, -800, -850}))
	if want := []int32{2, 3}; !slices.Equal(got.IDs, want) {
		t.Errorf("ids %v, want %v", got.IDs, want)
	}
	r = suite.Configured(t, spec(6, 3, map[string]string{"groups": "3", "top_groups": "2"}))
	got = choicetest.Route(t, r, 0, 3, tensor.MatrixOf(1, 6, []float32{-900, -900, 1000, -1000, -800, -850}))
	if want := []int32{2, 4, 5}; !slices.Equal(got.IDs, want) {
		t.Errorf("ids %v, want %v", got.IDs, want)
	}
}

// TestAllGroups: without a limit it is the model's own rule, to the bit.
func TestAllGroups(t *testing.T) {
	for _, s := range choicetest.Specs() {
		plain := model.New()
		s.Rule = model.AnyChoice(s.Rule)
		if err := plain.Configure(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		s.Params = map[string]string{"groups": "1"}
		b := choicetest.Batch(9, 3, 20, s.Experts)
		want, err := choicetest.Do(plain, b, s.TopK)
		if err != nil {
			t.Fatal(err)
		}
		got, err := choicetest.Do(suite.Configured(t, s), b, s.TopK)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.IDs, want.IDs) || !slices.Equal(got.Weights, want.Weights) {
			t.Errorf("%d of %d experts: ids %v, want %v", s.TopK, s.Experts, got.IDs, want.IDs)
		}
	}
}

func TestRefusesParams(t *testing.T) {
	for says, params := range map[string]map[string]string{
		`params: groups "0": must be a whole number from 1 to 12`: {"groups": "0"},
		`params: groups "x"`:                                                   {"groups": "x"},
		`params: groups 5: must divide the 12 experts`:                         {"groups": "5"},
		`params: top_groups "4": must be a whole number from 1 to 3`:           {"groups": "3", "top_groups": "4"},
		`params: top_groups 1: groups of 2 experts can't hold the top 3, want`: {"groups": "6", "top_groups": "1"},
	} {
		err := hierarchical.New().Configure(t.Context(), spec(12, 3, params))
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v: %v, want %q", params, err, says)
		}
	}
}
