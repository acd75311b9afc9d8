package model_test

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// goldenFile is golden.json with the tensors beside it.
type goldenFile struct {
	t         testing.TB
	file      *weights.File
	Tolerance struct {
		Logits  float64 `json:"logits_abs"`
		Hidden  float64 `json:"hidden_abs"`
		Gate    float64 `json:"router_logits_abs"`
		Weights float64 `json:"topk_weights_abs"`
		NLL     float64 `json:"mean_nll_abs"`
	} `json:"tolerance"`
	Sequences []struct {
		Length int      `json:"length"`
		NLL    *float64 `json:"mean_nll"`
	} `json:"sequences"`
}

func openGolden(t testing.TB, dir string) *goldenFile {
	t.Helper()
	g := &goldenFile{t: t}
	coretest.ReadJSON(t, filepath.Join(dir, "golden.json"), g)
	if g.Tolerance.Logits == 0 || g.Tolerance.Weights == 0 || len(g.Sequences) != 4 {
		t.Fatalf("%s: unexpected golden.json", dir)
	}
	var err error
	if g.file, err = weights.Open(filepath.Join(dir, "golden.safetensors")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.file.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func (g *goldenFile) floats(name string) []float32 {
	g.t.Helper()
	v, ok := g.file.Tensor(name)
	if !ok {
		g.t.Fatalf("no golden tensor %s", name)
	}
	return floatsOf(g.t, v)
}

func (g *goldenFile) ints(name string) []int32 {
	g.t.Helper()
	v, ok := g.file.Tensor(name)
	if !ok {
		g.t.Fatalf("no golden tensor %s", name)
	}
	return intsOf(g.t, v)
}

// recorder keeps what passes a Block, by layer.
type recorder struct {
	moe.Block
	gate, out map[int]tensor.Matrix
}

func (r *recorder) Forward(ctx context.Context, in moe.Input, y tensor.Matrix) error {
	r.gate[in.Layer] = copyOf(in.Logits)
	err := r.Block.Forward(ctx, in, y)
	r.out[in.Layer] = copyOf(y)
	return err
}

// near fails if two lists differ by more than the tolerance, and returns the largest distance.
func near(t testing.TB, what string, got, want []float32, tolerance float64) float64 {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
	}
	worst := 0.0
	for i := range got {
		d := math.Abs(float64(got[i]) - float64(want[i]))
		if !(d <= tolerance) {
			t.Fatalf("%s[%d] = %g, want %g within %g", what, i, got[i], want[i], tolerance)
		}
		worst = max(worst, d)
	}
	return worst
}

// TestGolden: every checkpoint gives transformers' logits, gate logits, routes, greedy tokens and likelihoods.
func TestGolden(t *testing.T) {
	root := coretest.Golden(t, "models")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) < 14 {
		t.Fatalf("only %d golden models", len(entries))
	}
	for _, e := range entries {
		t.Run(e.Name(), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(root, e.Name())
			g := openGolden(t, dir)
			rec := &recorder{gate: map[int]tensor.Matrix{}, out: map[int]tensor.Matrix{}}
			r := newRig(t, dir, rigOptions{wrap: func(b moe.Block) moe.Block { rec.Block = b; return rec }})
			worst := 0.0
			for _, s := range g.Sequences {
				worst = max(worst, g.sequence(r, rec, fmt.Sprintf("seq%d.", s.Length), s.NLL))
			}
			t.Logf("largest distance of a logit %.2g, tolerance %.2g", worst, g.Tolerance.Logits)
		})
	}
}

// sequence checks one golden sequence and returns the largest distance of a logit.
func (g *goldenFile) sequence(r *rig, rec *recorder, prefix string, nll *float64) float64 {
	t := g.t
	ids := g.ints(prefix + "input_ids")
	k := r.cfg.TopK
	routeIDs, routeWeights := map[int][]int32{}, map[int][]float32{}
	span := model.Span{
		Pages: r.sequence(len(ids)), Tokens: ids, AllLogits: true,
		Route: func(layer, position int, ids []int32, weights []float32) {
			if position*k != len(routeIDs[layer]) || len(ids) != k {
				t.Fatalf("layer %d: route of position %d came out of order", layer, position)
			}
			routeIDs[layer] = append(routeIDs[layer], ids...)
			routeWeights[layer] = append(routeWeights[layer], weights...)
		},
	}
	logits := r.forward(span)[0]
	worst := 0.0
	if len(ids) <= 33 {
		worst = near(t, prefix+"logits", logits.Data, g.floats(prefix+"logits"), g.Tolerance.Logits)
	} else {
		worst = near(t, prefix+"logits_last", logits.Row(len(ids)-1), g.floats(prefix+"logits_last"), g.Tolerance.Logits)
	}
	for i, want := range g.ints(prefix + "argmax") {
		if got := best(logits.Row(i)); got != want {
			t.Errorf("%sargmax[%d] = %d, want %d", prefix, i, got, want)
		}
	}
	if nll != nil {
		sum := 0.0
		for i := 1; i < len(ids); i++ {
			sum -= sampler.LogSoftmax(logits.Row(i-1), ids[i])
		}
		if mean := sum / float64(len(ids)-1); math.Abs(mean-*nll) > g.Tolerance.NLL {
			t.Errorf("%s mean nll %.6f, want %.6f", prefix, mean, *nll)
		}
	}
	for _, l := range r.cfg.SparseLayers() {
		at := fmt.Sprintf("%slayer%d.", prefix, l)
		if !r.cfg.Dense() {
			near(t, at+"router_logits", rec.gate[l].Data, g.floats(at+"router_logits"), g.Tolerance.Gate)
			g.routes(at, k, routeIDs[l], routeWeights[l])
		}
		if prefix == "seq7." && r.cfg.ModelType != "qwen2_moe" { // its shared expert is added outside the block
			near(t, at+"mlp_out", rec.out[l].Data, g.floats(at+"mlp_out"), g.Tolerance.Hidden)
		}
	}
	if got, want := r.greedy(ids, 32), g.ints(prefix+"greedy_ids"); !slices.Equal(got, want) {
		t.Errorf("%sgreedy_ids = %v, want %v", prefix, got, want)
	}
	return worst
}

// routes compares a layer's routes row by row, as sets of pairs.
func (g *goldenFile) routes(at string, k int, ids []int32, ws []float32) {
	t := g.t
	wantIDs, wantWeights := g.ints(at+"topk_ids"), g.floats(at+"topk_weights")
	if len(ids) != len(wantIDs) {
		t.Fatalf("%s: %d routes, want %d", at, len(ids), len(wantIDs))
	}
	for row := 0; row < len(ids); row += k {
		for i, id := range wantIDs[row : row+k] {
			j := slices.Index(ids[row:row+k], id)
			if j < 0 {
				t.Fatalf("%s row %d: experts %v, want %v", at, row/k, ids[row:row+k], wantIDs[row:row+k])
			}
			if d := math.Abs(float64(ws[row+j]) - float64(wantWeights[row+i])); !(d <= g.Tolerance.Weights) {
				t.Fatalf("%s row %d: weight %g of expert %d, want %g", at, row/k, ws[row+j], id, wantWeights[row+i])
			}
		}
	}
}
