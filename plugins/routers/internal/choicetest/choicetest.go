// Package choicetest holds the routers of this tree to what they share: k distinct experts in range, finite weights,
// the same answer for the same input, independence of rows where it is claimed, and refusals that name the field.
//
// Their tests call Test. What a strategy itself promises is tested beside it; the contract that strangers' plugins must
// meet is package sdk/sdktest's. The package refuses to be linked into a program.
package choicetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Suite says what to test.
type Suite struct {
	New            func() router.Router
	Even           bool // every weight is 1/k, whatever the rule
	RowIndependent bool
	ReadsLogits    bool // so that logits which are not finite are refused
}

// Test runs all checks.
func Test(t *testing.T, s Suite) {
	t.Run("routes", s.routes)
	t.Run("deterministic", s.deterministic)
	if s.RowIndependent {
		t.Run("row independent", s.rowIndependent)
	}
	t.Run("concurrent", s.concurrent)
	t.Run("refuses spec", s.refusesSpec)
	t.Run("refuses batch", s.refusesBatch)
	t.Run("before configure", s.beforeConfigure)
	if info := s.New().Info(); info.Kind != sdk.KindRouter || info.Name == "" || info.Has(sdk.CapLoadDependent) == s.RowIndependent {
		t.Errorf("info %+v", info)
	}
}

// Specs are shapes of real models and of awkward ones, under each rule.
func Specs() []router.Spec {
	var specs []router.Spec
	for _, rule := range []router.Rule{{Score: router.SoftmaxTopK}, {Score: router.SoftmaxTopK, Renormalise: true, Scale: 2.5},
		{Score: router.TopKSoftmax}} {
		for _, n := range [][2]int{{1, 1}, {2, 2}, {8, 2}, {13, 5}, {128, 8}} {
			specs = append(specs, router.Spec{Layers: []int{0, 3, 4}, Experts: n[0], TopK: n[1], Rule: rule})
		}
	}
	return specs
}

// Hidden is the width of the hidden states of a Batch.
const Hidden = 6

// Batch makes rows of logits that differ by seed, half of them tokens. Every seventh row is all ties, every eleventh
// has one logit far above the others. All have hidden states, which only a router.HiddenRouter looks at.
func Batch(seed uint64, layer, rows, experts int) router.Batch {
	b := router.Batch{
		Layer: layer, Logits: tensor.NewMatrix(rows, experts), Tokens: make([]int32, rows), Positions: make([]int32, rows),
		Hidden: tensor.NewMatrix(rows, Hidden),
	}
	next := func() uint64 { // splitmix64
		seed += 0x9E3779B97F4A7C15
		z := (seed ^ seed>>30) * 0xBF58476D1CE4E5B9
		z = (z ^ z>>27) * 0x94D049BB133111EB
		return z ^ z>>31
	}
	for r := range rows {
		for e := range experts {
			b.Logits.Row(r)[e] = float32(int64(next()>>40)-1<<23) / (1 << 21)
			if r%7 == 6 {
				b.Logits.Row(r)[e] = 0.25
			}
		}
		if r%11 == 10 {
			b.Logits.Row(r)[experts/2] = 1e30
		}
		b.Tokens[r], b.Positions[r] = int32(next()%1000), int32(next()%4096)
		if r%2 == 1 {
			b.Tokens[r] = -1
		}
		for i := range Hidden {
			b.Hidden.Row(r)[i] = float32(int64(next()>>40)-1<<23) / (1 << 23)
		}
	}
	return b
}

// Slice is rows [from, to) of a batch.
func Slice(b router.Batch, from, to int) router.Batch {
	b.Logits, b.Tokens, b.Positions = b.Logits.Slice(from, to), b.Tokens[from:to], b.Positions[from:to]
	b.Hidden = b.Hidden.Slice(from, to)
	return b
}

// Do routes a batch into fresh routes, poisoned before the call.
func Do(r router.Router, b router.Batch, k int) (router.Routes, error) {
	routes := router.Routes{K: k, IDs: make([]int32, len(b.Tokens)*k), Weights: make([]float32, len(b.Tokens)*k)}
	for i := range routes.IDs {
		routes.IDs[i], routes.Weights[i] = -7, float32(math.NaN())
	}
	return routes, r.Route(context.Background(), b, routes)
}

// Route routes plain logits as tokens 0 at position 0 with a configured router.
func Route(t *testing.T, r router.Router, layer, k int, logits tensor.Matrix) router.Routes {
	t.Helper()
	return must(t, r, router.Batch{Layer: layer, Logits: logits, Tokens: make([]int32, logits.Rows), Positions: make([]int32, logits.Rows)}, k)
}

// Configured is a router with a spec.
func (s Suite) Configured(t *testing.T, spec router.Spec) router.Router {
	t.Helper()
	r := s.New()
	if err := r.Configure(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func must(t *testing.T, r router.Router, b router.Batch, k int) router.Routes {
	t.Helper()
	routes, err := Do(r, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

// routes checks ids and weights of random batches.
func (s Suite) routes(t *testing.T) {
	for i, spec := range Specs() {
		r := s.Configured(t, spec)
		for _, rows := range []int{0, 1, 40} {
			routes := must(t, r, Batch(uint64(i), 3, rows, spec.Experts), spec.TopK)
			for row := range rows {
				ids, weights := routes.IDs[row*spec.TopK:(row+1)*spec.TopK], routes.Weights[row*spec.TopK:(row+1)*spec.TopK]
				if err := s.check(spec, ids, weights); err != nil {
					t.Fatalf("%d of %d experts, rule %+v, row %d: ids %v, weights %v: %v", spec.TopK, spec.Experts, spec.Rule, row, ids, weights, err)
				}
			}
		}
	}
}

func (s Suite) check(spec router.Spec, ids []int32, weights []float32) error {
	sum := 0.0
	for i, id := range ids {
		if id < 0 || int(id) >= spec.Experts || slices.Contains(ids[:i], id) {
			return fmt.Errorf("expert %d is out of range or repeated", id)
		}
		if w := weights[i]; !(w >= 0) || math.IsInf(float64(w), 0) {
			return fmt.Errorf("weight %g", w)
		}
		sum += float64(weights[i])
	}
	scale := 1.0
	if spec.Rule.Scale != 0 && !s.Even {
		scale = float64(spec.Rule.Scale)
	}
	whole := s.Even || spec.Rule.Renormalise || spec.Rule.Score == router.TopKSoftmax || spec.TopK == spec.Experts
	if sum > scale*(1+1e-5) || whole && sum < scale*(1-1e-5) {
		return fmt.Errorf("weights sum to %g, scale is %g", sum, scale)
	}
	return nil
}

// deterministic: two routers agree on the same sequence of batches, layers in any order.
func (s Suite) deterministic(t *testing.T) {
	for _, spec := range Specs() {
		a, b := s.Configured(t, spec), s.Configured(t, spec)
		for i, layer := range []int{0, 3, 0, 4, 4, 3} {
			batch := Batch(uint64(i), layer, 9, spec.Experts)
			if !equal(must(t, a, batch, spec.TopK), must(t, b, batch, spec.TopK)) {
				t.Fatalf("batch %d differs", i)
			}
		}
	}
}

func equal(a, b router.Routes) bool {
	return slices.Equal(a.IDs, b.IDs) && slices.Equal(a.Weights, b.Weights)
}

// rowIndependent: each row alone, after whatever came before, is as in the batch.
func (s Suite) rowIndependent(t *testing.T) {
	for _, spec := range Specs() {
		r, k := s.Configured(t, spec), spec.TopK
		batch := Batch(1, 4, 30, spec.Experts)
		all := must(t, r, batch, k)
		for row := 29; row >= 0; row-- {
			one := must(t, r, Slice(batch, row, row+1), k)
			if !slices.Equal(one.IDs, all.IDs[row*k:(row+1)*k]) || !slices.Equal(one.Weights, all.Weights[row*k:(row+1)*k]) {
				t.Fatalf("row %d alone: %v, in the batch: %v", row, one.IDs, all.IDs[row*k:(row+1)*k])
			}
		}
	}
}

// concurrent: several goroutines route at once; a router without state answers each as it would alone.
func (s Suite) concurrent(t *testing.T) {
	spec := Specs()[3]
	r := s.Configured(t, spec)
	var wg sync.WaitGroup
	for g := range 4 {
		batch := Batch(uint64(g), spec.Layers[g%3], 20, spec.Experts)
		want := must(t, s.Configured(t, spec), batch, spec.TopK)
		wg.Go(func() {
			for range 20 {
				routes, err := Do(r, batch, spec.TopK)
				if err != nil {
					t.Error(err)
				}
				if s.RowIndependent && !equal(routes, want) {
					t.Error("another answer than alone")
				}
			}
		})
	}
	wg.Wait()
}

func (s Suite) refusesSpec(t *testing.T) {
	for name, c := range map[string]struct {
		change func(s *router.Spec)
		says   string
		class  error
	}{
		"no experts":       {func(s *router.Spec) { s.Experts = 0 }, "experts 0", sdk.ErrInvalid},
		"no top k":         {func(s *router.Spec) { s.TopK = 0 }, "top_k 0", sdk.ErrInvalid},
		"top k too large":  {func(s *router.Spec) { s.TopK = 9 }, "top_k 9", sdk.ErrInvalid},
		"no layers":        {func(s *router.Spec) { s.Layers = nil }, "layers", sdk.ErrInvalid},
		"negative layer":   {func(s *router.Spec) { s.Layers = []int{-1, 2} }, "layers: -1", sdk.ErrInvalid},
		"layer twice":      {func(s *router.Spec) { s.Layers = []int{2, 2} }, "layers: 2 follows 2", sdk.ErrInvalid},
		"layers descend":   {func(s *router.Spec) { s.Layers = []int{1, 3, 2} }, "layers: 2 follows 3", sdk.ErrInvalid},
		"unknown score":    {func(s *router.Spec) { s.Rule.Score = "sigmoid" }, `score "sigmoid"`, sdk.ErrUnsupported},
		"no score":         {func(s *router.Spec) { s.Rule.Score = "" }, `score ""`, sdk.ErrUnsupported},
		"scale NaN":        {func(s *router.Spec) { s.Rule.Scale = float32(math.NaN()) }, "scale NaN", sdk.ErrInvalid},
		"scale infinite":   {func(s *router.Spec) { s.Rule.Scale = float32(math.Inf(1)) }, "scale +Inf", sdk.ErrInvalid},
		"scale negative":   {func(s *router.Spec) { s.Rule.Scale = -1 }, "scale -1", sdk.ErrInvalid},
		"unknown param":    {func(s *router.Spec) { s.Params = map[string]string{"colour": "red"} }, `unknown parameter "colour"`, sdk.ErrInvalid},
		"first of unknown": {func(s *router.Spec) { s.Params = map[string]string{"b": "", "a": ""} }, `unknown parameter "a"`, sdk.ErrInvalid},
	} {
		spec := router.Spec{Layers: []int{0, 1}, Experts: 8, TopK: 2, Rule: router.Rule{Score: router.SoftmaxTopK}}
		c.change(&spec)
		r := s.New()
		if err := r.Configure(t.Context(), spec); !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.says) ||
			!strings.Contains(err.Error(), "router "+r.Info().Name) {
			t.Errorf("%s: %v, want %v saying %q", name, err, c.class, c.says)
		}
		if err := r.Close(); err != nil {
			t.Errorf("%s: Close after a failed Configure: %v", name, err)
		}
	}
}

func (s Suite) refusesBatch(t *testing.T) {
	const experts, k = 8, 2
	for name, c := range map[string]struct {
		change func(b *router.Batch, r *router.Routes)
		says   string
	}{
		"layer":           {func(b *router.Batch, _ *router.Routes) { b.Layer = 1 }, "layer 1 has no experts"},
		"columns":         {func(b *router.Batch, _ *router.Routes) { b.Logits = tensor.NewMatrix(3, experts+1) }, "logits are 3x9"},
		"short logits":    {func(b *router.Batch, _ *router.Routes) { b.Logits.Data = b.Logits.Data[1:] }, "23 values"},
		"stride":          {func(b *router.Batch, _ *router.Routes) { b.Logits.Stride = 3 }, "stride 3"},
		"tokens":          {func(b *router.Batch, _ *router.Routes) { b.Tokens = b.Tokens[1:] }, "2 tokens"},
		"positions":       {func(b *router.Batch, _ *router.Routes) { b.Positions = nil }, "0 positions"},
		"k":               {func(_ *router.Batch, r *router.Routes) { r.K = 3 }, "3 a row"},
		"room for ids":    {func(_ *router.Batch, r *router.Routes) { r.IDs = r.IDs[1:] }, "5 ids"},
		"room for weight": {func(_ *router.Batch, r *router.Routes) { r.Weights = r.Weights[1:] }, "5 weights"},
		"NaN":             {func(b *router.Batch, _ *router.Routes) { b.Logits.Row(2)[5] = float32(math.NaN()) }, "row 2: the logit of expert 5 is NaN"},
		"infinity":        {func(b *router.Batch, _ *router.Routes) { b.Logits.Row(1)[0] = float32(math.Inf(-1)) }, "row 1: the logit of expert 0 is -Inf"},
	} {
		r := s.Configured(t, router.Spec{Layers: []int{0, 2}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK}})
		b := Batch(1, 2, 3, experts)
		routes := router.Routes{K: k, IDs: make([]int32, 3*k), Weights: make([]float32, 3*k)}
		c.change(&b, &routes)
		err := r.Route(t.Context(), b, routes)
		if (name == "NaN" || name == "infinity") && !s.ReadsLogits {
			if err != nil {
				t.Errorf("%s: %v, though the router does not read logits of tokens", name, err)
			}
			continue
		}
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want sdk.ErrInvalid saying %q", name, err, c.says)
		}
	}
}

func (s Suite) beforeConfigure(t *testing.T) {
	if _, err := Do(s.New(), Batch(1, 0, 1, 4), 2); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("Route before Configure: %v", err)
	}
}
