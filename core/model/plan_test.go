package model_test

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// derived opens a copy of a golden checkpoint whose tensors and config keys were edited.
func derived(t testing.TB, name string, edits object, change func([]weights.NamedView) []weights.NamedView) (*model.Config, *weights.Checkpoint) {
	t.Helper()
	from, err := weights.OpenCheckpoint(coretest.Golden(t, "models", name))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := from.Close(); err != nil {
			t.Error(err)
		}
	}()
	var tensors []weights.NamedView
	for _, n := range from.Names() {
		v, _ := from.Tensor(n)
		tensors = append(tensors, weights.NamedView{Name: n, View: v})
	}
	if change != nil {
		tensors = change(tensors)
	}
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(weights.Write(f, tensors, nil), f.Close()); err != nil {
		t.Fatal(err)
	}
	ck, err := weights.OpenCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := model.ParseConfig(edited(t, name, edits), nil)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, ck
}

func named(name string, dtype tensor.DType, shape ...int) weights.NamedView {
	v := tensor.View{DType: dtype, Shape: shape}
	v.Data = make([]byte, v.Elems()*dtype.Size())
	return weights.NamedView{Name: name, View: v}
}

func dropping(name string) func([]weights.NamedView) []weights.NamedView {
	return func(all []weights.NamedView) []weights.NamedView {
		return slices.DeleteFunc(all, func(v weights.NamedView) bool { return v.Name == name })
	}
}

func adding(more ...weights.NamedView) func([]weights.NamedView) []weights.NamedView {
	return func(all []weights.NamedView) []weights.NamedView { return append(all, more...) }
}

func replacing(with weights.NamedView) func([]weights.NamedView) []weights.NamedView {
	return func(all []weights.NamedView) []weights.NamedView { return append(dropping(with.Name)(all), with) }
}

func TestPlanRefuses(t *testing.T) {
	unsupported, invalid := sdk.ErrUnsupported, sdk.ErrInvalid
	for _, c := range []struct {
		model  string
		edits  object
		change func([]weights.NamedView) []weights.NamedView
		class  error
		says   string
	}{
		{"qwen3_moe", nil, dropping("model.norm.weight"), invalid, "model.norm.weight [64] is missing"},
		{"qwen3_moe", nil, dropping("lm_head.weight"), invalid, "lm_head.weight"},
		{"qwen3_moe", nil, dropping("model.layers.2.mlp.gate.weight"), invalid, "model.layers.2.mlp.gate.weight"},
		{"qwen3_moe", nil, dropping("model.layers.1.mlp.experts.7.up_proj.weight"), invalid, "model.layers.1.mlp.experts.7.up_proj.weight"},
		{"qwen3_moe", nil, dropping("model.layers.1.self_attn.k_norm.weight"), invalid, "k_norm"},
		{"qwen2_moe", nil, dropping("model.layers.1.self_attn.v_proj.bias"), invalid, "v_proj.bias"},
		{"qwen2_moe", nil, dropping("model.layers.0.mlp.shared_expert_gate.weight"), invalid, "shared_expert_gate"},
		{"granitemoe", nil, dropping("model.layers.0.block_sparse_moe.output_linear.weight"), invalid, "output_linear"},
		{"llama", nil, dropping("model.layers.0.mlp.down_proj.weight"), invalid, "model.layers.0.mlp.down_proj.weight"},
		{"qwen3_moe", nil, replacing(named("model.layers.0.mlp.experts.3.down_proj.weight", tensor.F32, 40, 64)), invalid, "shape [40 64], want [64 40]"},
		{"granitemoe", nil, replacing(named("model.layers.0.block_sparse_moe.input_linear.weight", tensor.BF16, 8, 64, 96)), invalid, "shape [8 64 96], want [8 96 64]"},
		{"qwen3_moe", nil, replacing(named("model.norm.weight", tensor.F64, 64)), unsupported, "F64"},
		{"qwen3_moe", nil, replacing(named("lm_head.weight", tensor.F8E4M3, 512, 64)), unsupported, "F8_E4M3"},
		{"qwen3_moe", nil, adding(named("model.layers.0.self_attn.sinks", tensor.F32, 4)), unsupported, "model.layers.0.self_attn.sinks [4]"},
		{"qwen3_moe", nil, adding(named("model.layers.0.self_attn.q_proj.bias", tensor.F32, 128)), unsupported, "q_proj.bias"},
		{"qwen3_moe", nil, adding(named("score.weight", tensor.F32, 2, 64)), unsupported, "score.weight"},
		{"qwen3_moe", object{"num_hidden_layers": 2}, nil, unsupported, "model.layers.2."},
		{"qwen3_moe", object{"num_hidden_layers": 4}, nil, invalid, "model.layers.3."},
		{"qwen3_moe", object{"num_experts": 7}, nil, unsupported, "experts.7"},
		{"qwen3_moe", object{"vocab_size": 513}, nil, invalid, "[513 64]"},
		{"qwen3_moe", object{"tie_word_embeddings": true}, nil, invalid, "tie_word_embeddings"},
	} {
		cfg, ck := derived(t, c.model, c.edits, c.change)
		_, err := cfg.Plan(ck)
		if !errors.Is(err, c.class) || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s, want %q: error %v", c.model, c.says, err)
		}
	}
}

// TestPlanLeavesOut: what old files, extra prediction layers and redundant heads add is known and not planned.
func TestPlanLeavesOut(t *testing.T) {
	var head weights.NamedView
	for _, c := range []struct {
		model  string
		change func([]weights.NamedView) []weights.NamedView
	}{
		{"llama", adding(named("model.layers.0.self_attn.rotary_emb.inv_freq", tensor.F32, 8), named("model.rotary_emb.inv_freq", tensor.F32, 8))},
		{"qwen3_moe", adding(named("model.layers.3.eh_proj.weight", tensor.F32, 64, 128), named("model.layers.3.enorm.weight", tensor.F32, 64))},
		{"qwen3", func(all []weights.NamedView) []weights.NamedView {
			i := slices.IndexFunc(all, func(v weights.NamedView) bool { return v.Name == "model.embed_tokens.weight" })
			head = all[i]
			head.Name = "lm_head.weight"
			return append(all, head)
		}},
	} {
		plain, plainCk := derived(t, c.model, nil, nil)
		want, err := plain.Plan(plainCk)
		if err != nil {
			t.Fatal(err)
		}
		cfg, ck := derived(t, c.model, nil, c.change)
		got, err := cfg.Plan(ck)
		if err != nil {
			t.Errorf("%s: %v", c.model, err)
		} else if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: the plan changed", c.model)
		}
	}
}

// TestPlanCovers: trunk and expert pieces are the whole checkpoint, each element once.
func TestPlanCovers(t *testing.T) {
	root := coretest.Golden(t, "models")
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		cfg, ck := derived(t, e.Name(), nil, nil)
		plan, err := cfg.Plan(ck)
		if err != nil {
			t.Fatal(err)
		}
		if len(plan.Experts) != cfg.Experts || plan.ModelType != cfg.ModelType {
			t.Errorf("%s: %d experts, type %q", e.Name(), len(plan.Experts), plan.ModelType)
		}
		taken := map[string][]bool{}
		for _, n := range ck.Names() {
			v, _ := ck.Tensor(n)
			taken[n] = make([]bool, v.Elems())
		}
		for _, p := range slices.Concat(append(plan.Experts, plan.Trunk)...) {
			n := 1
			for _, d := range p.Shape {
				n *= d
			}
			for i := range n {
				if taken[p.Source][p.Offset+i] {
					t.Fatalf("%s: element %d of %s is in two pieces", e.Name(), p.Offset+i, p.Source)
				}
				taken[p.Source][p.Offset+i] = true
			}
		}
		for n, t1 := range taken {
			if slices.Contains(t1, false) {
				t.Errorf("%s: a part of %s is in no piece", e.Name(), n)
			}
		}
	}
}

// TestFusedLayout: the same experts stored as [E, 2I, H] and [E, H, I] give the same bits.
func TestFusedLayout(t *testing.T) {
	cfg, ck := derived(t, "qwen3_moe", nil, func(all []weights.NamedView) []weights.NamedView {
		bytesOf := map[string][]byte{}
		for _, v := range all {
			bytesOf[v.Name] = v.Data
		}
		kept := slices.DeleteFunc(all, func(v weights.NamedView) bool { return strings.Contains(v.Name, ".experts.") })
		for l := range 3 {
			at := fmt.Sprintf("model.layers.%d.mlp.experts.", l)
			var gateUp, down []byte
			for e := range 8 {
				gateUp = append(gateUp, bytesOf[fmt.Sprintf("%s%d.gate_proj.weight", at, e)]...)
				gateUp = append(gateUp, bytesOf[fmt.Sprintf("%s%d.up_proj.weight", at, e)]...)
				down = append(down, bytesOf[fmt.Sprintf("%s%d.down_proj.weight", at, e)]...)
			}
			kept = append(kept,
				weights.NamedView{Name: at + "gate_up_proj", View: tensor.View{DType: tensor.F32, Shape: []int{8, 80, 64}, Data: gateUp}},
				weights.NamedView{Name: at + "down_proj", View: tensor.View{DType: tensor.F32, Shape: []int{8, 64, 40}, Data: down}})
		}
		return kept
	})
	ids := []int32{1, 2, 3, 500}
	fused := rigOf(t, cfg, ck, rigOptions{})
	plain := newRig(t, coretest.Golden(t, "models", "qwen3_moe"), rigOptions{})
	sameBits(t, "fused", chunks(fused, ids, fused.sequence(4), 4), chunks(plain, ids, plain.sequence(4), 4))
}

// oneLayer keeps layer 0 alone.
func oneLayer(all []weights.NamedView) []weights.NamedView {
	return slices.DeleteFunc(all, func(v weights.NamedView) bool {
		return strings.HasPrefix(v.Name, "model.layers.") && !strings.HasPrefix(v.Name, "model.layers.0.")
	})
}

// TestSlidingWindow: in a model of one layer, a token that sees W keys computes what it does at the end of a sequence
// of just these W tokens, because rotation is relative. One key more or less shows.
func TestSlidingWindow(t *testing.T) {
	const window = 9
	cfg, ck := derived(t, "mixtral", object{"num_hidden_layers": 1, "sliding_window": window}, oneLayer)
	full, fullCk := derived(t, "mixtral", object{"num_hidden_layers": 1}, oneLayer)
	r := rigOf(t, cfg, ck, rigOptions{})
	f := rigOf(t, full, fullCk, rigOptions{})
	ids := make([]int32, 40)
	for i := range ids {
		ids[i] = int32(i*37%512 + 1)
	}
	slide := chunks(r, ids, r.sequence(40), 17, 1)
	sameBits(t, "chunked", chunks(r, ids, r.sequence(40), 40), slide)
	sameBits(t, "before the window is full", slide.Slice(0, window), chunks(f, ids, f.sequence(40), 40).Slice(0, window))
	distance := func(at, keys int) float64 {
		part := ids[at+1-keys : at+1]
		m := chunks(f, part, f.sequence(keys), keys)
		worst := 0.0
		for i, v := range m.Row(keys - 1) {
			worst = max(worst, math.Abs(float64(v-slide.Row(at)[i])))
		}
		return worst
	}
	for at := window; at < 40; at++ {
		f.pages = 0 // the pages may be used again
		if d := distance(at, window); d > 1e-4 {
			t.Errorf("position %d differs by %g from a sequence of the window's tokens", at, d)
		}
		if d := distance(at, window+1); d < 1e-3 {
			t.Errorf("position %d does not notice the key before the window (%g)", at, d)
		}
	}
}

// TestLoadRefuses: a trunk file that does not fit is refused by the tensor's name.
func TestLoadRefuses(t *testing.T) {
	cfg, ck := derived(t, "qwen3_moe", nil, nil)
	plan, err := cfg.Plan(ck)
	if err != nil {
		t.Fatal(err)
	}
	plan.Trunk = plan.Trunk[1:]
	if _, err := model.Load(cfg, trunkFile(t, ck, plan), nil, ""); !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "model.embed_tokens.weight") {
		t.Errorf("error %v", err)
	}
}
