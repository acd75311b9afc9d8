// Package shapes writes checkpoint folders of chosen shapes with random weights, so that speed can be measured on
// shapes for which nobody has to load a model. The bench command uses it. The models it writes say nothing sensible;
// it refuses to pretend otherwise and has no sizes that take minutes.
package shapes

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Shape is the size of a qwen3_moe model.
type Shape struct {
	Hidden, Layers, Experts, TopK, Intermediate int
	Heads, KVHeads, HeadDim                     int
	Vocab, Positions                            int
}

// named are the shapes by name.
var named = map[string]Shape{
	// A whole small model: 120 M parameters in 64 experts' units, 8 processes.
	"small": {Hidden: 512, Layers: 8, Experts: 8, TopK: 2, Intermediate: 1024, Heads: 8, KVHeads: 2, HeadDim: 64, Vocab: 8192, Positions: 4096},
	// One layer of 8 experts of width 512: the overhead of a single hop.
	"layer512": {Hidden: 512, Layers: 1, Experts: 8, TopK: 2, Intermediate: 2048, Heads: 8, KVHeads: 2, HeadDim: 64, Vocab: 8192, Positions: 4096},
	// Small enough for tests.
	"tiny": {Hidden: 32, Layers: 2, Experts: 4, TopK: 2, Intermediate: 48, Heads: 2, KVHeads: 1, HeadDim: 16, Vocab: 320, Positions: 2048},
}

// Names are the known shapes.
func Names() []string { return slices.Sorted(maps.Keys(named)) }

// ByName finds a shape.
func ByName(name string) (Shape, error) {
	s, ok := named[name]
	if !ok {
		return Shape{}, fmt.Errorf("shape %q: want one of %s: %w", name, strings.Join(Names(), ", "), sdk.ErrInvalid)
	}
	return s, nil
}

// Write fills dir with a checkpoint of the shape in bf16: config.json, model.safetensors and a byte-level tokenizer.
// Equal seeds give equal files.
func Write(dir string, s Shape, seed uint64) error {
	for name, v := range map[string]any{
		"config.json": s.config(), "generation_config.json": map[string]any{"do_sample": false, "eos_token_id": eos},
		"tokenizer.json": byteTokenizer(), "tokenizer_config.json": map[string]any{"eos_token": eosText},
	} {
		b, err := json.MarshalIndent(v, "", " ")
		if err != nil {
			return fmt.Errorf("write shape: %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return fmt.Errorf("write shape: %w", err)
		}
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return fmt.Errorf("write shape: %w", err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := weights.Write(w, s.tensors(seed), map[string]string{"format": "pt"}); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write shape: %w", err)
	}
	return f.Close()
}

func (s Shape) config() map[string]any {
	return map[string]any{
		"architectures": []string{"Qwen3MoeForCausalLM"}, "model_type": "qwen3_moe", "torch_dtype": "bfloat16",
		"hidden_size": s.Hidden, "num_hidden_layers": s.Layers, "num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads,
		"head_dim": s.HeadDim, "num_experts": s.Experts, "num_experts_per_tok": s.TopK, "moe_intermediate_size": s.Intermediate,
		"intermediate_size": 4 * s.Hidden, "decoder_sparse_step": 1, "mlp_only_layers": []int{}, "norm_topk_prob": true,
		"hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "rope_scaling": nil, "attention_bias": false,
		"max_position_embeddings": s.Positions, "vocab_size": s.Vocab, "tie_word_embeddings": true, "eos_token_id": eos,
		"bos_token_id": nil, "sliding_window": nil, "use_sliding_window": false,
	}
}

// tensors draws all weights. Matrices have the usual scale of an initialised model, so that activations stay finite;
// norms are ones.
func (s Shape) tensors(seed uint64) []weights.NamedView {
	rng := rand.New(rand.NewPCG(seed, 0))
	var out []weights.NamedView
	add := func(name string, shape ...int) {
		n := 1
		for _, d := range shape {
			n *= d
		}
		data := make([]byte, 2*n)
		for i := range n {
			v := float32(1)
			if len(shape) == 2 { // uniform with standard deviation 0.02
				v = (rng.Float32()*2 - 1) * 0.02 * math.Sqrt2 * 1.2247449
			}
			binary.LittleEndian.PutUint16(data[2*i:], uint16(math.Float32bits(v)>>16))
		}
		out = append(out, weights.NamedView{Name: name, View: tensor.View{DType: tensor.BF16, Shape: shape, Data: data}})
	}
	add("model.embed_tokens.weight", s.Vocab, s.Hidden)
	for l := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		add(p+"input_layernorm.weight", s.Hidden)
		add(p+"self_attn.q_proj.weight", s.Heads*s.HeadDim, s.Hidden)
		add(p+"self_attn.k_proj.weight", s.KVHeads*s.HeadDim, s.Hidden)
		add(p+"self_attn.v_proj.weight", s.KVHeads*s.HeadDim, s.Hidden)
		add(p+"self_attn.o_proj.weight", s.Hidden, s.Heads*s.HeadDim)
		add(p+"self_attn.q_norm.weight", s.HeadDim)
		add(p+"self_attn.k_norm.weight", s.HeadDim)
		add(p+"post_attention_layernorm.weight", s.Hidden)
		add(p+"mlp.gate.weight", s.Experts, s.Hidden)
		for e := range s.Experts {
			q := fmt.Sprintf("%smlp.experts.%d.", p, e)
			add(q+"gate_proj.weight", s.Intermediate, s.Hidden)
			add(q+"up_proj.weight", s.Intermediate, s.Hidden)
			add(q+"down_proj.weight", s.Hidden, s.Intermediate)
		}
	}
	add("model.norm.weight", s.Hidden)
	return out
}

// eos is the id behind the 256 bytes.
const (
	eos     = 256
	eosText = "<|endoftext|>"
)

// byteTokenizer has one token for each byte, written in the alphabet of byte-level BPE (Radford et al. 2019): printable
// bytes stand for themselves, the others for the code points from 256 on.
func byteTokenizer() map[string]any {
	vocab := map[string]int{}
	next := rune(256)
	for b := range rune(256) {
		r := b
		if b < '!' || b == 0x7f || b >= 0x80 && b <= 0xa0 || b == 0xad {
			r, next = next, next+1
		}
		vocab[string(r)] = int(b)
	}
	byteLevel := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	return map[string]any{
		"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil, "post_processor": nil,
		"added_tokens": []any{map[string]any{"id": eos, "content": eosText, "single_word": false, "lstrip": false, "rstrip": false,
			"normalized": false, "special": true}},
		"pre_tokenizer": byteLevel, "decoder": byteLevel,
		"model": map[string]any{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": "", "end_of_word_suffix": "",
			"fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": []any{}},
	}
}
