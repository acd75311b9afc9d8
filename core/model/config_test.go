package model_test

import (
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

type object = map[string]any

// edited is a golden model's config.json with keys changed; a value of absent removes the key.
func edited(t testing.TB, name string, edits object) []byte {
	t.Helper()
	var o object
	coretest.ReadJSON(t, coretest.Golden(t, "models", name, "config.json"), &o)
	for k, v := range edits {
		if v == absent {
			delete(o, k)
		} else {
			o[k] = v
		}
	}
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const absent = "<absent>"

// TestConfigRefuses: what is not understood is refused by key and value.
func TestConfigRefuses(t *testing.T) {
	unsupported, invalid := sdk.ErrUnsupported, sdk.ErrInvalid
	yarn := func(edits object) object {
		o := object{"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
		maps.Copy(o, edits)
		return object{"rope_scaling": o}
	}
	llama3 := func(edits object) object {
		o := object{
			"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
			"original_max_position_embeddings": 64,
		}
		for k, v := range edits {
			if o[k] = v; v == absent {
				delete(o, k)
			}
		}
		return object{"rope_scaling": o}
	}
	for _, c := range []struct {
		model string
		edits object
		class error
		says  []string
	}{
		{"qwen3_moe", object{"model_type": "gpt_oss"}, unsupported, []string{"gpt_oss", "granitemoe", "llama", "mixtral", "olmoe", "qwen2_moe", "qwen3", "qwen3_moe"}},
		{"qwen3_moe", object{"model_type": absent}, unsupported, []string{"model_type"}},
		{"qwen3_moe", object{"model_type": 3}, unsupported, []string{"model_type"}},
		{"qwen3_moe", object{"quantization_config": object{"quant_method": "mxfp4"}}, unsupported, []string{"quantization_config", "mxfp4"}},
		{"llama", object{"quantization_config": object{"bits": 4}}, unsupported, []string{"quantization_config"}},
		{"qwen3_moe", object{"num_speculators": 3}, unsupported, []string{"num_speculators = 3"}},
		{"qwen3_moe", object{"text_config": object{"a": strings.Repeat("b", 200)}}, unsupported, []string{"text_config = {", "..."}},
		{"mixtral", object{"moe_intermediate_size": 40}, unsupported, []string{"moe_intermediate_size = 40"}},
		{"qwen3_moe", object{"clip_qkv": 8.0}, unsupported, []string{"clip_qkv = 8"}},
		{"llama", object{"mlp_bias": true}, unsupported, []string{"mlp_bias = true"}},
		{"llama", object{"pretraining_tp": 2}, unsupported, []string{"pretraining_tp = 2"}},
		{"smollm", object{"rope_interleaved": true}, unsupported, []string{"rope_interleaved = true"}},
		{"llama", object{"partial_rotary_factor": 0.5}, unsupported, []string{"partial_rotary_factor = 0.5"}},
		{"llama", object{"sliding_window": 8}, unsupported, []string{"sliding_window = 8"}},
		{"mixtral", object{"attention_bias": true}, unsupported, []string{"attention_bias = true"}},
		{"qwen3_moe", object{"hidden_act": "relu"}, unsupported, []string{`hidden_act = "relu"`}},
		{"qwen3_moe", object{"hidden_act": "gelu"}, unsupported, []string{`hidden_act = "gelu"`}},
		{"qwen3_moe", object{"torch_dtype": "float8_e4m3fn"}, unsupported, []string{`torch_dtype = "float8_e4m3fn"`}},

		{"qwen3_moe", object{"norm_topk_prob": absent}, invalid, []string{"norm_topk_prob", "missing"}},
		{"qwen3_moe", object{"rope_theta": absent}, invalid, []string{"rope_theta", "missing"}},
		{"qwen3_moe", object{"num_experts": absent}, invalid, []string{"num_experts", "missing"}},
		{"qwen3_moe", object{"num_local_experts": 9}, invalid, []string{"differs"}},
		{"qwen3_moe", object{"num_key_value_heads": absent}, invalid, []string{"num_key_value_heads", "missing"}},
		{"granitemoe", object{"logits_scaling": absent}, invalid, []string{"logits_scaling", "missing"}},
		{"qwen2_moe", object{"shared_expert_intermediate_size": absent}, invalid, []string{"shared_expert_intermediate_size"}},
		{"qwen3_moe_mixed", object{"intermediate_size": absent}, invalid, []string{"intermediate_size", "missing"}},
		{"llama", object{"max_position_embeddings": absent}, invalid, []string{"max_position_embeddings"}},

		{"qwen3_moe", object{"vocab_size": 0}, invalid, []string{"vocab_size"}},
		{"qwen3_moe", object{"vocab_size": 1 << 40}, invalid, []string{"vocab_size"}},
		{"qwen3_moe", object{"vocab_size": "512"}, invalid, []string{"vocab_size"}},
		{"qwen3_moe", object{"hidden_size": -64}, invalid, []string{"hidden_size"}},
		{"qwen3_moe", object{"hidden_size": 64.5}, invalid, []string{"hidden_size"}},
		{"qwen3_moe", object{"num_hidden_layers": 1 << 30}, invalid, []string{"num_hidden_layers"}},
		{"qwen3_moe", object{"head_dim": 33}, invalid, []string{"head_dim", "odd"}},
		{"olmoe", object{"hidden_size": 66}, invalid, []string{"66"}},
		{"qwen3_moe", object{"num_key_value_heads": 3}, invalid, []string{"num_key_value_heads"}},
		{"qwen3_moe", object{"num_experts_per_tok": 9}, invalid, []string{"num_experts_per_tok", "9 of 8"}},
		{"qwen3_moe", object{"num_hidden_layers": 1024, "num_experts": 4096}, invalid, []string{"num_hidden_layers", "units"}},
		{"qwen3_moe", object{"decoder_sparse_step": 0}, invalid, []string{"decoder_sparse_step"}},
		{"qwen3_moe", object{"mlp_only_layers": []int{0, 1, 2}}, invalid, []string{"mlp_only_layers", "no layer"}},
		{"qwen3_moe", object{"rms_norm_eps": 0}, invalid, []string{"rms_norm_eps"}},
		{"qwen3_moe", object{"eos_token_id": -2}, invalid, []string{"eos_token_id"}},
		{"qwen3_moe", object{"eos_token_id": "</s>"}, invalid, []string{"eos_token_id"}},
		{"qwen3_moe", object{"norm_topk_prob": "yes"}, invalid, []string{"norm_topk_prob"}},

		{"qwen3_moe", object{"rope_scaling": object{"rope_type": "dynamic", "factor": 2.0}}, unsupported, []string{`rope_scaling.rope_type = "dynamic"`}},
		{"qwen3_moe", object{"rope_scaling": object{"type": "longrope", "factor": 2.0}}, unsupported, []string{`rope_scaling.type = "longrope"`}},
		{"qwen3_moe", object{"rope_scaling": object{"factor": 2.0}}, invalid, []string{"rope_type", "missing"}},
		{"qwen3_moe", object{"rope_scaling": object{"rope_type": "linear"}}, invalid, []string{"rope_scaling.factor", "missing"}},
		{"qwen3_moe", object{"rope_scaling": object{"rope_type": "linear", "factor": 0}}, invalid, []string{"rope_scaling.factor"}},
		{"qwen3_moe", object{"rope_scaling": object{"rope_type": "linear", "factor": 2, "alpha": 3}}, unsupported, []string{"rope_scaling.alpha = 3"}},
		{"qwen3_moe", object{"rope_scaling": object{"rope_type": "linear", "type": "yarn", "factor": 2}}, invalid, []string{"rope_scaling.type"}},
		{"qwen3_moe", yarn(object{"beta_fast": "x"}), invalid, []string{"rope_scaling.beta_fast"}},
		{"qwen3_moe", yarn(object{"short_factor": []int{1}}), unsupported, []string{"rope_scaling.short_factor = [1]"}},
		{"llama", llama3(object{"low_freq_factor": absent}), invalid, []string{"rope_scaling.low_freq_factor"}},
		{"llama", llama3(object{"high_freq_factor": 0.5}), invalid, []string{"rope_scaling.high_freq_factor"}},
		{"qwen3_moe", object{"rope_parameters": object{"rope_type": "default", "rope_theta": 5.0}}, invalid, []string{"rope_theta"}},
		{"qwen3_moe", object{"rope_parameters": object{"rope_type": "default", "rope_theta": 1e6}, "rope_scaling": object{"type": "default"}}, unsupported, []string{"rope_scaling"}},
		{"qwen3_moe_tf5", object{"rope_parameters": object{"full_attention": object{}, "rope_type": "default", "rope_theta": 1e6}}, unsupported, []string{"full_attention"}},
		{"qwen3_moe", object{"rope_scaling": 4}, invalid, []string{"rope_scaling"}},

		{"qwen3_moe", object{"use_sliding_window": true, "sliding_window": 16}, unsupported, []string{"use_sliding_window = true"}},
		{"qwen2_moe", object{"use_sliding_window": true, "sliding_window": 16}, unsupported, []string{"use_sliding_window = true"}},
		{"qwen3", object{"layer_types": []string{"full_attention"}}, invalid, []string{"layer_types", "1 entries for 3"}},
		{"qwen3", object{"layer_types": []string{"full_attention", "linear_attention", "full_attention"}}, unsupported, []string{"layer_types", "linear_attention"}},
		{"llama", object{"layer_types": []string{"full_attention", "sliding_attention", "full_attention"}}, unsupported, []string{"layer_types"}},
		{"qwen3", object{"layer_types": []string{"full_attention", "sliding_attention", "full_attention"}}, unsupported, []string{"layer_types"}},
		{"mixtral", object{"sliding_window": 0}, invalid, []string{"sliding_window"}},
	} {
		_, err := model.ParseConfig(edited(t, c.model, c.edits), nil)
		if !errors.Is(err, c.class) {
			t.Errorf("%s %v: error %v, want %v", c.model, c.edits, err, c.class)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("%s %v: error %q does not say %q", c.model, c.edits, err, s)
			}
		}
	}
}

// TestConfigReportsAll: one reading names every problem.
func TestConfigReportsAll(t *testing.T) {
	_, err := model.ParseConfig(edited(t, "qwen3_moe", object{"vocab_size": 0, "foo": 1, "hidden_act": "relu"}), nil)
	for _, s := range []string{"vocab_size", "foo = 1", "hidden_act"} {
		if err == nil || !strings.Contains(err.Error(), s) {
			t.Errorf("error %v does not say %q", err, s)
		}
	}
}

// TestConfigAccepts: harmless and neutral keys, absent keys with a single default, and the different spellings.
func TestConfigAccepts(t *testing.T) {
	for name, c := range map[string]struct {
		model string
		edits object
		holds func(*model.Config) bool
	}{
		"harmless": {"qwen3_moe", object{"attention_dropout": 0.5, "auto_map": object{"x": "y"}, "use_cache": false, "id2label": object{}}, nil},
		"neutral":  {"llama", object{"mlp_bias": nil, "pretraining_tp": 1.0, "sliding_window": nil, "quantization_config": nil}, nil},
		"heads":    {"olmoe", object{"num_key_value_heads": absent}, func(c *model.Config) bool { return c.KVHeads == 4 }},
		"head_dim": {"qwen3_moe", object{"head_dim": absent}, func(c *model.Config) bool { return c.HeadDim == 16 }},
		"theta":    {"llama", object{"rope_theta": absent}, nil},
		"eos list": {"qwen3_moe", object{"eos_token_id": []int{7, 8, 7}}, func(c *model.Config) bool { return slices.Equal(c.EOS, []int32{7, 8}) }},
		"no eos":   {"qwen3_moe", object{"eos_token_id": nil}, func(c *model.Config) bool { return len(c.EOS) == 0 }},
		"bos":      {"mixtral", nil, func(c *model.Config) bool { return c.BOS != nil && *c.BOS == 1 }},
		"no bos":   {"qwen3_moe_tf5", nil, func(c *model.Config) bool { return c.BOS == nil }},
		"gelu":     {"llama", object{"hidden_act": "gelu_pytorch_tanh"}, func(c *model.Config) bool { return c.Activation == "gelu_tanh" }},
		"dtype":    {"llama", object{"torch_dtype": absent, "dtype": "float16"}, nil},
		"yarn reach": {"qwen3_moe", object{"rope_scaling": object{"type": "yarn", "factor": 4, "original_max_position_embeddings": 32768}}, func(c *model.Config) bool {
			return c.MaxPositions == 131072
		}},
		"yarn ratio": {"qwen3_moe", object{"rope_scaling": object{"type": "yarn", "original_max_position_embeddings": 20480}}, func(c *model.Config) bool {
			return c.MaxPositions == 40960
		}},
		"window off":       {"qwen2_moe", object{"sliding_window": 4}, nil},
		"window too large": {"qwen3_moe", object{"use_sliding_window": true, "sliding_window": 40960}, nil},
		"renormalise":      {"olmoe_clip", nil, func(c *model.Config) bool { return c.Rule.Renormalise && c.Rule.Score == router.SoftmaxTopK }},
		"olmoe default":    {"olmoe", object{"norm_topk_prob": absent}, func(c *model.Config) bool { return !c.Rule.Renormalise }},
		"mixtral rule":     {"mixtral", nil, func(c *model.Config) bool { return c.Rule.Renormalise && c.Experts == 8 && c.TopK == 2 }},
		"granite rule":     {"granitemoe", nil, func(c *model.Config) bool { return c.Rule.Score == router.TopKSoftmax && c.Tied }},
		"dense":            {"llama", nil, func(c *model.Config) bool { return c.Dense() && c.Experts == 1 && c.TopK == 1 && c.Intermediate == 96 }},
		"sparse layers":    {"qwen3_moe_mixed", nil, func(c *model.Config) bool { return slices.Equal(c.SparseLayers(), []int{1, 5}) }},
		"all sparse":       {"qwen3", nil, func(c *model.Config) bool { return slices.Equal(c.SparseLayers(), []int{0, 1, 2}) }},
	} {
		cfg, err := model.ParseConfig(edited(t, c.model, c.edits), nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.holds != nil && !c.holds(cfg) {
			t.Errorf("%s: %+v", name, cfg)
		}
	}
}

func TestGenerationConfig(t *testing.T) {
	config := edited(t, "qwen3_moe", nil)
	cfg, err := model.ParseConfig(config, []byte(`{"eos_token_id": [505, 507], "do_sample": true, "temperature": 0.6,
		"top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05, "max_new_tokens": 300, "num_beams": 4}`))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.EOS, []int32{507, 505}) {
		t.Errorf("stop ids %v", cfg.EOS)
	}
	p := cfg.Defaults.Params()
	if p.Temperature != 0.6 || p.TopK != 20 || p.TopP != 0.95 || p.RepetitionPenalty != 1.05 || p.MinP != 0 || *cfg.Defaults.MaxNewTokens != 300 {
		t.Errorf("defaults %+v", p)
	}
	cfg, err = model.ParseConfig(config, []byte(`{"temperature": 0.6}`))
	if err != nil {
		t.Fatal(err)
	}
	if p := cfg.Defaults.Params(); p.Temperature != 0 {
		t.Errorf("without do_sample: %+v", p)
	}
	cfg, err = model.ParseConfig(config, []byte(`{"do_sample": true, "top_k": -1, "top_p": null}`))
	if err != nil {
		t.Fatal(err)
	}
	if p := cfg.Defaults.Params(); p.Temperature != 1 || p.TopK != 0 || p.TopP != 0 {
		t.Errorf("bare do_sample: %+v", p)
	}
	for _, bad := range []string{`[]`, `null`, `{`, `{"temperature": -1}`, `{"top_k": -3}`, `{"eos_token_id": {}}`, `{} {}`} {
		if _, err := model.ParseConfig(config, []byte(bad)); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", bad, err)
		}
	}
}

func TestReadConfigRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := model.ReadConfig(dir); !errors.Is(err, sdk.ErrNotFound) {
		t.Errorf("empty folder: error %v, want ErrNotFound", err)
	}
	for text, class := range map[string]error{"": sdk.ErrInvalid, "null": sdk.ErrInvalid, "[]": sdk.ErrInvalid, `{"a": 1} x`: sdk.ErrInvalid, strings.Repeat(" ", 5<<20): sdk.ErrInvalid} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := model.ReadConfig(dir); !errors.Is(err, class) {
			t.Errorf("%.20q: error %v, want %v", text, err, class)
		}
	}
}

// FuzzConfig: no config.json panics or asks for unbounded memory, and what is accepted is consistent.
func FuzzConfig(f *testing.F) {
	root := coretest.Golden(f, "models")
	entries, err := os.ReadDir(root)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(root, e.Name(), "config.json"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, []byte(`{"eos_token_id": [1, 2], "do_sample": true, "temperature": 0.5}`))
	}
	f.Add([]byte(`{"model_type":"llama","rope_parameters":{"rope_type":"yarn","rope_theta":1}}`), []byte(nil))
	f.Fuzz(func(t *testing.T, config, generation []byte) {
		c, err := model.ParseConfig(config, generation)
		if err != nil {
			return
		}
		if c.Vocab < 1 || c.Hidden < 1 || c.Layers < 1 || c.HeadDim < 2 || c.HeadDim%2 != 0 || c.Heads%c.KVHeads != 0 ||
			c.TopK < 1 || c.TopK > c.Experts || c.Intermediate < 1 || c.MaxPositions < 1 || len(c.SparseLayers()) == 0 || c.Activation == "" {
			t.Errorf("accepted %+v", c)
		}
	})
}
