// Package shapes writes checkpoint folders of chosen shapes with random weights, so that speed can be measured on
// shapes for which nobody has to load a model. The commands bench and serve use it. The models it writes say nothing
// sensible; it refuses to pretend otherwise.
package shapes

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/sdk"
)

// Shape is the size of a model. In a file it is YAML or JSON with the keys of the tags.
type Shape struct {
	Type         string `yaml:"type" json:"type"` // qwen3_moe (default) or olmoe
	Hidden       int    `yaml:"hidden" json:"hidden"`
	Layers       int    `yaml:"layers" json:"layers"`
	Experts      int    `yaml:"experts" json:"experts"`
	TopK         int    `yaml:"top_k" json:"top_k"`
	Intermediate int    `yaml:"intermediate" json:"intermediate"` // inner width of an expert
	Heads        int    `yaml:"heads" json:"heads"`
	KVHeads      int    `yaml:"kv_heads" json:"kv_heads"`   // 0 = heads
	HeadDim      int    `yaml:"head_dim" json:"head_dim"`   // 0 = hidden / heads
	Vocab        int    `yaml:"vocab" json:"vocab"`         // at least 258: the bytes and two special tokens
	Positions    int    `yaml:"positions" json:"positions"` // longest sequence; 0 = 4096
}

// The architectures.
const (
	qwen3 = "qwen3_moe"
	olmoe = "olmoe"
)

// named are the shapes by name.
var named = map[string]Shape{
	// A whole small model: 8 experts on hidden 512.
	"small": {Type: qwen3, Hidden: 512, Layers: 8, Experts: 8, TopK: 2, Intermediate: 1024, Heads: 8, KVHeads: 4, HeadDim: 64, Vocab: 8192},
	// OLMoE-1B-7B with 4 of its 16 layers: larger than any cache.
	"olmoe-4l": {Type: olmoe, Hidden: 2048, Layers: 4, Experts: 64, TopK: 8, Intermediate: 1024, Heads: 16, Vocab: 50304},
	// One MoE layer of 8 experts of 3 x 512 x 1366: the cost of a single hop.
	"layer512": {Type: qwen3, Hidden: 512, Layers: 1, Experts: 8, TopK: 2, Intermediate: 1366, Heads: 8, KVHeads: 4, HeadDim: 64, Vocab: 8192},
	// Small enough for tests.
	"tiny": {Type: qwen3, Hidden: 32, Layers: 2, Experts: 4, TopK: 2, Intermediate: 48, Heads: 2, KVHeads: 1, HeadDim: 16, Vocab: 320, Positions: 2048},
}

// Names are the known shapes.
func Names() []string { return slices.Sorted(maps.Keys(named)) }

// Find is a shape by its name or, where text has a separator or an extension, from that file. name is short and fit
// for a model's name.
func Find(text string) (name string, s Shape, err error) {
	s, ok := named[text]
	if ok {
		return text, s.filled(), nil
	}
	if filepath.Base(text) == text && filepath.Ext(text) == "" {
		return "", s, fmt.Errorf("shape %q: want one of %s or a file: %w", text, strings.Join(Names(), ", "), sdk.ErrInvalid)
	}
	b, err := os.ReadFile(text)
	if errors.Is(err, fs.ErrNotExist) {
		return "", s, fmt.Errorf("shape %q: no such file: %w", text, sdk.ErrNotFound)
	}
	if err != nil {
		return "", s, fmt.Errorf("read shape: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(b)) // JSON is YAML
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil {
		return "", s, fmt.Errorf("shape %s: %w: %w", text, err, sdk.ErrInvalid)
	}
	s = s.filled()
	if err := s.check(); err != nil {
		return "", s, fmt.Errorf("shape %s: %w", text, err)
	}
	return clean(strings.TrimSuffix(filepath.Base(text), filepath.Ext(text))), s, nil
}

// clean leaves what a model's name may have.
func clean(name string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name)), "-")
}

// filled has the defaults in the place of zeros.
func (s Shape) filled() Shape {
	if s.Type == "" {
		s.Type = qwen3
	}
	if s.KVHeads == 0 {
		s.KVHeads = s.Heads
	}
	if s.HeadDim == 0 && s.Heads > 0 {
		s.HeadDim = s.Hidden / s.Heads
	}
	if s.Positions == 0 {
		s.Positions = 4096
	}
	return s
}

// most bounds every size, so that no product overflows; it is beyond every published model.
const most = 1 << 20

func (s Shape) check() error {
	var wrong []string
	for name, n := range map[string]int{"hidden": s.Hidden, "layers": s.Layers, "experts": s.Experts, "top_k": s.TopK, "intermediate": s.Intermediate,
		"heads": s.Heads, "kv_heads": s.KVHeads, "head_dim": s.HeadDim, "vocab": s.Vocab, "positions": s.Positions} {
		if n < 1 || n > most {
			wrong = append(wrong, fmt.Sprintf("%s is %d, want 1 to %d", name, n, most))
		}
	}
	slices.Sort(wrong)
	switch {
	case len(wrong) > 0:
		return fmt.Errorf("%s: %w", strings.Join(wrong, ", "), sdk.ErrInvalid)
	case s.Type != qwen3 && s.Type != olmoe:
		return fmt.Errorf("type %q: want %s or %s: %w", s.Type, qwen3, olmoe, sdk.ErrInvalid)
	case s.TopK > s.Experts || s.Heads%s.KVHeads != 0 || s.HeadDim%2 != 0:
		return fmt.Errorf("top_k %d of %d experts, %d heads on %d, head_dim %d: want no more than there are, a whole quotient, an even number: %w",
			s.TopK, s.Experts, s.Heads, s.KVHeads, s.HeadDim, sdk.ErrInvalid)
	case s.Type == olmoe && s.HeadDim*s.Heads != s.Hidden:
		return fmt.Errorf("%d heads of %d are not the hidden width of %d, which olmoe wants: %w", s.Heads, s.HeadDim, s.Hidden, sdk.ErrInvalid)
	case s.Vocab < special+256:
		return fmt.Errorf("vocab %d: want at least %d: %w", s.Vocab, special+256, sdk.ErrInvalid)
	}
	return nil
}

// ModelName is the name in the store of the model of a shape and a seed: equal names mean equal weights.
func (s Shape) ModelName(name string, seed uint64) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic("shapes: numbers do not become JSON")
	}
	sum := sha256.Sum256(fmt.Appendf(b, " %d generation %d", seed, generation))
	return "shape-" + name + "-" + hex.EncodeToString(sum[:4])
}

// generation counts the changes of what Write draws.
const generation = 1

// config is the checkpoint's config.json.
func (s Shape) config() map[string]any {
	c := map[string]any{
		"architectures": []string{"Qwen3MoeForCausalLM"}, "model_type": s.Type, "torch_dtype": "bfloat16",
		"hidden_size": s.Hidden, "num_hidden_layers": s.Layers, "num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads,
		"num_experts": s.Experts, "num_experts_per_tok": s.TopK, "intermediate_size": s.Intermediate,
		"hidden_act": "silu", "rope_theta": 10000.0, "rope_scaling": nil, "attention_bias": false,
		"max_position_embeddings": s.Positions, "vocab_size": s.Vocab, "tie_word_embeddings": false, "eos_token_id": s.eos(),
		"bos_token_id": nil,
	}
	more := map[string]any{
		"head_dim": s.HeadDim, "moe_intermediate_size": s.Intermediate, "decoder_sparse_step": 1, "mlp_only_layers": []int{},
		"norm_topk_prob": true, "rms_norm_eps": 1e-6, "sliding_window": nil, "use_sliding_window": false,
	}
	if s.Type == olmoe {
		more = map[string]any{"architectures": []string{"OlmoeForCausalLM"}, "norm_topk_prob": false, "rms_norm_eps": 1e-5, "clip_qkv": nil}
	}
	maps.Copy(c, more)
	return c
}
