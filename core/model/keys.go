package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	"github.com/pimoe/pimoe/sdk"
)

// harmless are the keys of config.json that have no effect on inference, by the reason why.
var harmless = map[string][]string{
	"training only: dropout, initialisation, auxiliary losses, router noise": {
		"attention_dropout", "attn_dropout", "attn_pdrop", "dropout", "embd_pdrop", "resid_pdrop", "hidden_dropout",
		"hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "initializer_range",
		"gradient_checkpointing", "router_aux_loss_coef", "router_z_loss_coef", "router_jitter_noise",
		"output_router_logits", "tie_encoder_decoder",
	},
	"origin of the file and code that is never run": {
		"architectures", "transformers_version", "_name_or_path", "_commit_hash", "auto_map", "model_name", "name_or_path",
		"unsloth_fixed", "unsloth_version", "is_llama_config", "transformers.js_config", "finetuning_task",
		"task_specific_params", "tokenizer_class", "prefix", "license",
	},
	"what a Python call returns or how it runs": {
		"use_cache", "output_attentions", "output_hidden_states", "return_dict", "return_dict_in_generate", "output_scores",
		"torchscript", "use_bfloat16", "tf_legacy_loss", "pruned_heads", "chunk_size_feed_forward",
		"_attn_implementation", "_attn_implementation_autoset", "_attn_implementation_internal", "attn_implementation",
		"_flash_attn_2_enabled", "use_flash_attn", "_experts_implementation", "experts_implementation", "problem_type",
		"id2label", "label2id", "num_labels", "cross_attention_hidden_size", "decoder_start_token_id",
	},
	"token ids that only a tokenizer or padding needs": {"pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id"},
	"generation settings, which generation_config.json holds": {
		"max_length", "max_new_tokens", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
		"diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty",
		"no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences",
		"forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty",
		"suppress_tokens", "begin_suppress_tokens",
	},
}

// neutral are keys that change what a model computes; each has one value at which it does not.
var neutral = map[string]string{
	"pretraining_tp": "1", "rope_interleaved": "false", "mlp_bias": "false", "partial_rotary_factor": "1",
	"is_encoder_decoder": "false", "is_decoder": "false", "add_cross_attention": "false",
	"attn_logit_softcapping": "null", "final_logit_softcapping": "null", "sliding_window": "null",
	"use_sliding_window": "false", "attention_bias": "false", "clip_qkv": "null",
}

var harmlessKeys = func() map[string]bool {
	m := map[string]bool{}
	for _, group := range harmless {
		for _, k := range group {
			m[k] = true
		}
	}
	return m
}()

// object is a JSON object that is read key by key: it collects problems and knows which keys nobody asked for.
type object struct {
	file     string
	path     string // prefix of key names, such as "rope_scaling."
	values   map[string]json.RawMessage
	seen     map[string]bool
	problems *[]error
}

func parseObject(file string, raw []byte) (*object, error) {
	o := &object{file: file, seen: map[string]bool{}, problems: new([]error)}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(&o.values); err != nil {
		return nil, fmt.Errorf("%s: not a JSON object: %w: %w", file, err, sdk.ErrInvalid)
	}
	if dec.More() {
		return nil, fmt.Errorf("%s: text after the JSON object: %w", file, sdk.ErrInvalid)
	}
	if o.values == nil {
		return nil, fmt.Errorf("%s: null instead of a JSON object: %w", file, sdk.ErrInvalid)
	}
	return o, nil
}

// fail records that a key has a value that can't be right.
func (o *object) fail(key, format string, args ...any) {
	*o.problems = append(*o.problems, fmt.Errorf("%s: %s%s: %s: %w", o.file, o.path, key, fmt.Sprintf(format, args...), sdk.ErrInvalid))
}

// refuse records that a key asks for something that is not supported, with its value.
func (o *object) refuse(key, why string) {
	*o.problems = append(*o.problems, fmt.Errorf("%s: %s%s = %s: %s: %w", o.file, o.path, key, show(o.values[key]), why, sdk.ErrUnsupported))
}

func show(raw json.RawMessage) string {
	const most = 80
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return "?"
	}
	if b.Len() > most {
		return strings.ToValidUTF8(string(b.Bytes()[:most]), "") + "..."
	}
	return b.String()
}

// has reports whether the key is there and not null, and marks it as understood.
func (o *object) has(key string) bool {
	o.seen[key] = true
	v, ok := o.values[key]
	return ok && string(bytes.TrimSpace(v)) != "null"
}

// null reports whether the key is there and null.
func (o *object) null(key string) bool {
	v, ok := o.values[key]
	return ok && string(bytes.TrimSpace(v)) == "null"
}

func decode[T any](o *object, key, want string) (T, bool) {
	var v T
	if !o.has(key) {
		return v, false
	}
	if err := json.Unmarshal(o.values[key], &v); err != nil {
		o.fail(key, "%s, want %s", show(o.values[key]), want)
		var zero T
		return zero, false
	}
	return v, true
}

// required is a default that says: the key must be there, this architecture has no single default.
const required = -1

// integer reads a whole number in [lo, hi]; an absent key gives def, or is a problem if def is required.
func (o *object) integer(key string, lo, hi, def int) int {
	if !o.has(key) {
		if def == required {
			o.fail(key, "missing, and there is no single default")
			return lo
		}
		return def
	}
	n, ok := decode[int](o, key, "a whole number")
	if !ok {
		return lo
	}
	if n < lo || n > hi {
		o.fail(key, "%d is not in %d to %d", n, lo, hi)
		return lo
	}
	return n
}

// number reads a finite number in [lo, hi]; an absent key gives def, or is a problem if def is required.
func (o *object) number(key string, lo, hi, def float64) float64 {
	if !o.has(key) {
		if def == required {
			o.fail(key, "missing, and there is no single default")
			return lo
		}
		return def
	}
	f, ok := decode[float64](o, key, "a number")
	if !ok {
		return lo
	}
	if math.IsNaN(f) || f < lo || f > hi {
		o.fail(key, "%g is not in %g to %g", f, lo, hi)
		return lo
	}
	return f
}

func (o *object) boolean(key string, def bool) bool {
	if v, ok := decode[bool](o, key, "true or false"); ok {
		return v
	}
	return def
}

func (o *object) text(key, def string) string {
	if v, ok := decode[string](o, key, "a string"); ok {
		return v
	}
	return def
}

// tokens reads one token id or a list of them.
func (o *object) tokens(key string) []int32 {
	if !o.has(key) {
		return nil
	}
	var one int32
	if json.Unmarshal(o.values[key], &one) == nil {
		return o.checkTokens(key, []int32{one})
	}
	many, _ := decode[[]int32](o, key, "a token id or a list of them")
	return o.checkTokens(key, many)
}

func (o *object) checkTokens(key string, ids []int32) []int32 {
	for _, id := range ids {
		if id < 0 {
			o.fail(key, "negative token id %d", id)
			return nil
		}
	}
	return ids
}

// child reads a nested object; nil if it is absent.
func (o *object) child(key string) *object {
	if !o.has(key) {
		return nil
	}
	values, ok := decode[map[string]json.RawMessage](o, key, "an object")
	if !ok {
		return nil
	}
	return &object{file: o.file, path: o.path + key + ".", values: values, seen: map[string]bool{}, problems: o.problems}
}

// rest judges the keys that nobody asked for: harmless, neutral, or refused by name.
func (o *object) rest(top bool) {
	var keys []string
	for k := range o.values {
		if !o.seen[k] && !(top && harmlessKeys[k]) {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	for _, k := range keys {
		want, known := neutral[k]
		switch {
		case known && (o.null(k) || sameJSON(o.values[k], want)):
		case known:
			o.refuse(k, "only "+want+" is supported")
		default:
			o.refuse(k, "unknown key")
		}
	}
}

// sameJSON compares two scalars by value, so that 1 and 1.0 are the same.
func sameJSON(raw json.RawMessage, want string) bool {
	var a, b any
	if json.Unmarshal(raw, &a) != nil || json.Unmarshal([]byte(want), &b) != nil {
		return false
	}
	switch a.(type) {
	case float64, bool, string, nil:
		return a == b
	}
	return false
}

// err joins the problems, in a fixed order.
func (o *object) err() error {
	slices.SortStableFunc(*o.problems, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(*o.problems...)
}
