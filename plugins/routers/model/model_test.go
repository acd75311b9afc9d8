package model_test

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func TestRouter(t *testing.T) {
	choicetest.Test(t, choicetest.Suite{New: func() router.Router { return model.New() }, RowIndependent: true, ReadsLogits: true})
}

// TestGolden compares ids exactly, in order, and weights to float32 rounding with what transformers' rules give in
// float64: both rules, renormalised or not, with ties and extreme rows.
func TestGolden(t *testing.T) {
	var golden struct {
		Gates struct {
			Cases []struct {
				Case, Strategy string
				Experts        int
				TopK           int `json:"top_k"`
				Params         struct {
					Norm bool `json:"norm_topk_prob"`
				}
				Rows []string
			}
		}
	}
	coretest.ReadJSON(t, coretest.Golden(t, "experts", "experts.json"), &golden)
	file, err := weights.Open(coretest.Golden(t, "experts", "gates.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	seen := map[string]int{}
	for _, c := range golden.Gates.Cases {
		if c.Strategy != string(router.SoftmaxTopK) && c.Strategy != string(router.TopKSoftmax) {
			continue // other architectures' rules
		}
		seen[c.Strategy]++
		t.Run(c.Case, func(t *testing.T) {
			rows := len(c.Rows)
			logits := tensor.MatrixOf(rows, c.Experts, words(t, file, c.Case+".logits", math.Float32frombits))
			ids := words(t, file, c.Case+".ids", func(b uint32) int32 { return int32(b) })
			want := words(t, file, c.Case+".weights", math.Float32frombits)
			got := choicetest.Route(t, configured(t, router.Spec{Layers: []int{0}, Experts: c.Experts, TopK: c.TopK,
				Rule: router.Rule{Score: router.Score(c.Strategy), Renormalise: c.Params.Norm}}), 0, c.TopK, logits)
			for r, kind := range c.Rows {
				from, to := r*c.TopK, (r+1)*c.TopK
				if !slices.Equal(got.IDs[from:to], ids[from:to]) {
					t.Errorf("row %d (%s): ids %v, want %v", r, kind, got.IDs[from:to], ids[from:to])
				}
				for i := from; i < to; i++ {
					if math.Abs(float64(got.Weights[i]-want[i])) > 1e-6 {
						t.Errorf("row %d (%s): weight %g, want %g", r, kind, got.Weights[i], want[i])
					}
				}
			}
		})
	}
	if seen[string(router.SoftmaxTopK)] < 4 || seen[string(router.TopKSoftmax)] < 2 {
		t.Errorf("cases by strategy: %v", seen)
	}
}

func words[T any](t *testing.T, f *weights.File, name string, from func(uint32) T) []T {
	t.Helper()
	v, ok := f.Tensor(name)
	if !ok || v.DType.Size() != 4 {
		t.Fatalf("no 32-bit tensor %s", name)
	}
	w := make([]T, v.Elems())
	for i := range w {
		w[i] = from(binary.LittleEndian.Uint32(v.Data[4*i:]))
	}
	return w
}

func configured(t *testing.T, spec router.Spec) router.Router {
	t.Helper()
	r := model.New()
	if err := r.Configure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	return r
}

// TestRule: the parts of a rule, on logits whose softmax is known: 1/2, 1/4, 1/8, 1/8.
func TestRule(t *testing.T) {
	ln2 := float32(math.Ln2)
	logits := tensor.MatrixOf(1, 4, []float32{-2 * ln2, -ln2, 0, -2 * ln2})
	for name, c := range map[string]struct {
		k       int
		rule    router.Rule
		ids     []int32
		weights []float32
	}{
		"softmax first":    {2, router.Rule{Score: router.SoftmaxTopK}, []int32{2, 1}, []float32{.5, .25}},
		"lower id first":   {3, router.Rule{Score: router.SoftmaxTopK}, []int32{2, 1, 0}, []float32{.5, .25, .125}},
		"renormalised":     {2, router.Rule{Score: router.SoftmaxTopK, Renormalise: true}, []int32{2, 1}, []float32{2. / 3, 1. / 3}},
		"top k first":      {2, router.Rule{Score: router.TopKSoftmax}, []int32{2, 1}, []float32{2. / 3, 1. / 3}},
		"scaled":           {2, router.Rule{Score: router.SoftmaxTopK, Scale: 2.5}, []int32{2, 1}, []float32{1.25, .625}},
		"scaled by one":    {1, router.Rule{Score: router.SoftmaxTopK, Scale: 1}, []int32{2}, []float32{.5}},
		"one, top k first": {1, router.Rule{Score: router.TopKSoftmax}, []int32{2}, []float32{1}},
		"all":              {4, router.Rule{Score: router.TopKSoftmax}, []int32{2, 1, 0, 3}, []float32{.5, .25, .125, .125}},
	} {
		got := choicetest.Route(t, configured(t, router.Spec{Layers: []int{0}, Experts: 4, TopK: c.k, Rule: c.rule}), 0, c.k, logits)
		if !slices.Equal(got.IDs, c.ids) {
			t.Errorf("%s: ids %v, want %v", name, got.IDs, c.ids)
		}
		for i, w := range got.Weights {
			if math.Abs(float64(w-c.weights[i])) > 1e-6 {
				t.Errorf("%s: weights %v, want %v", name, got.Weights, c.weights)
				break
			}
		}
	}
}

// TestRefusesUnknown: the model's router has no parameters.
func TestRefusesUnknown(t *testing.T) {
	err := model.New().Configure(t.Context(), router.Spec{Layers: []int{0}, Experts: 2, TopK: 1,
		Rule: router.Rule{Score: router.SoftmaxTopK}, Params: map[string]string{"seed": "1"}})
	if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), `"seed", known: none`) {
		t.Errorf("Configure: %v", err)
	}
}
