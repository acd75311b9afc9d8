package model

import (
	"slices"
	"strconv"
	"strings"

	"github.com/pimoe/pimoe/sdk/router"
)

// architecture is all that tells one model_type from another. A new one is a new row of architectures, and a golden
// checkpoint that proves it.
type architecture struct {
	modelType string

	experts      []string // the key with the number of experts, by its names over time; none = a dense model
	width        string   // key of an expert's inner width
	denseLayers  bool     // decoder_sparse_step and mlp_only_layers choose layers that stay dense
	shared       bool     // one shared expert beside the routed ones, behind a sigmoid gate
	score        router.Score
	renormalise  defaulted[bool]    // norm_topk_prob
	multipliers  bool               // granite's four scalar factors
	theta        defaulted[float64] // rope_theta
	eps          float64            // rms_norm_eps where the file says nothing
	kvHeads      bool               // num_key_value_heads may be absent: as many as heads
	qkNorm       norms
	clip         bool   // has clip_qkv
	qkvBias      string // key that gives q, k and v a bias
	qkvBiasUnset bool   // what it is where the file says nothing
	outBias      bool   // the key gives o_proj a bias too
	window       windows

	gate    string   // gate's tensor in a layer
	layouts []layout // how experts are stored: the first whose tensors are there
}

// defaulted is the value of a key that may be absent. Where shipped files and the class default of transformers
// disagree, there is none and the key must be there.
type defaulted[T any] struct {
	key     string // empty = the architecture fixes the value
	value   T
	missing bool // absent is refused
}

// norms says which norm q and k get.
type norms int

const (
	noNorm   norms = iota
	headNorm       // each head by itself
	fullNorm       // the whole projection, before it is split into heads
)

// windows says what sliding_window means.
type windows int

const (
	noWindow     windows = iota
	allLayers            // a number is in force in every layer
	lateLayers           // with use_sliding_window, in layers from max_window_layers on; layer_types wins
	listedLayers         // with use_sliding_window, in the layers that layer_types lists; versions disagree without it
	neverWindow          // use_sliding_window must be off: versions disagree on the layers
)

// layout is one way to store a layer's experts. {E} is the expert's number. gateUp is the fused form [E, 2I, H] with
// the gate's half first; then down is [E, H, I].
type layout struct {
	gate, up, gateUp, down string
}

const (
	mlpGate = "mlp.gate.weight"
	// Names around the layers, and in every layer.
	embedName = "model.embed_tokens.weight"
	normName  = "model.norm.weight"
	headName  = "lm_head.weight"
	layerName = "model.layers."
	attnNorm  = "input_layernorm.weight"
	ffnNorm   = "post_attention_layernorm.weight"
)

// perExpert is the Qwen form, which also names dense and shared FFNs; fusedMLP is the same in the fused form.
var (
	perExpert = layout{
		gate: "mlp.experts.{E}.gate_proj.weight", up: "mlp.experts.{E}.up_proj.weight", down: "mlp.experts.{E}.down_proj.weight",
	}
	fusedMLP  = layout{gateUp: "mlp.experts.gate_up_proj", down: "mlp.experts.down_proj"}
	denseFFN  = layout{gate: "mlp.gate_proj.weight", up: "mlp.up_proj.weight", down: "mlp.down_proj.weight"}
	sharedFFN = layout{
		gate: "mlp.shared_expert.gate_proj.weight", up: "mlp.shared_expert.up_proj.weight", down: "mlp.shared_expert.down_proj.weight",
	}
	sharedGate = "mlp.shared_expert_gate.weight"
)

var architectures = []architecture{
	{
		modelType: "qwen3_moe",
		experts:   []string{"num_experts", "num_local_experts"}, width: "moe_intermediate_size", denseLayers: true,
		score: router.SoftmaxTopK, renormalise: defaulted[bool]{key: "norm_topk_prob", missing: true},
		theta: defaulted[float64]{missing: true}, eps: 1e-6,
		qkNorm: headNorm, qkvBias: "attention_bias", outBias: true, window: neverWindow,
		gate: mlpGate, layouts: []layout{perExpert, fusedMLP},
	},
	{
		modelType: "qwen2_moe",
		experts:   []string{"num_experts", "num_local_experts"}, width: "moe_intermediate_size", denseLayers: true, shared: true,
		score: router.SoftmaxTopK, renormalise: defaulted[bool]{key: "norm_topk_prob"},
		theta: defaulted[float64]{missing: true}, eps: 1e-6,
		qkvBias: "qkv_bias", qkvBiasUnset: true, window: listedLayers,
		gate: mlpGate, layouts: []layout{perExpert, fusedMLP},
	},
	{
		modelType: "olmoe",
		experts:   []string{"num_experts", "num_local_experts"}, width: "intermediate_size",
		score: router.SoftmaxTopK, renormalise: defaulted[bool]{key: "norm_topk_prob"},
		theta: defaulted[float64]{value: 10000}, eps: 1e-5, kvHeads: true,
		qkNorm: fullNorm, clip: true, qkvBias: "attention_bias", outBias: true,
		gate: mlpGate, layouts: []layout{perExpert, fusedMLP},
	},
	{
		modelType: "mixtral",
		experts:   []string{"num_local_experts", "num_experts"}, width: "intermediate_size",
		score: router.SoftmaxTopK, renormalise: defaulted[bool]{value: true},
		theta: defaulted[float64]{value: 1e6}, eps: 1e-5, window: allLayers,
		gate: "block_sparse_moe.gate.weight",
		layouts: []layout{
			{
				gate: "block_sparse_moe.experts.{E}.w1.weight", up: "block_sparse_moe.experts.{E}.w3.weight",
				down: "block_sparse_moe.experts.{E}.w2.weight",
			},
			fusedMLP,
		},
	},
	{
		modelType: "granitemoe",
		experts:   []string{"num_local_experts"}, width: "intermediate_size",
		score: router.TopKSoftmax, multipliers: true,
		theta: defaulted[float64]{missing: true}, eps: 1e-6, kvHeads: true,
		qkvBias: "attention_bias", outBias: true,
		gate:    "block_sparse_moe.router.layer.weight",
		layouts: []layout{{gateUp: "block_sparse_moe.input_linear.weight", down: "block_sparse_moe.output_linear.weight"}},
	},
	{
		modelType: "llama", width: "intermediate_size", score: router.SoftmaxTopK,
		theta: defaulted[float64]{value: 10000}, eps: 1e-6, kvHeads: true,
		qkvBias: "attention_bias", outBias: true,
		layouts: []layout{denseFFN},
	},
	{
		modelType: "qwen3", width: "intermediate_size", score: router.SoftmaxTopK,
		theta: defaulted[float64]{missing: true}, eps: 1e-6,
		qkNorm: headNorm, qkvBias: "attention_bias", outBias: true, window: lateLayers,
		layouts: []layout{denseFFN},
	},
}

// dense reports whether the architecture has no router: its FFNs become one always chosen expert.
func (a *architecture) dense() bool { return len(a.experts) == 0 }

// find looks an architecture up by model_type.
func find(modelType string) *architecture {
	i := slices.IndexFunc(architectures, func(a architecture) bool { return a.modelType == modelType })
	if i < 0 {
		return nil
	}
	return &architectures[i]
}

// Supported lists the model_types, in alphabetical order.
func Supported() []string {
	names := make([]string, len(architectures))
	for i, a := range architectures {
		names[i] = a.modelType
	}
	slices.Sort(names)
	return names
}

// in is the full name of a layer's tensor.
func in(layer int, name string) string { return layerName + strconv.Itoa(layer) + "." + name }

// of fills in an expert's number.
func of(expert int, pattern string) string {
	return strings.ReplaceAll(pattern, "{E}", strconv.Itoa(expert))
}
