package model

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"
)

// TestSincos: angles up to the largest position are as good as package math's with exact reduction.
func TestSincos(t *testing.T) {
	for _, x := range []float64{0, 1e-9, 0.5, math.Pi / 4, 1, math.Pi / 2, 2, 3, math.Pi, 4, 5, 6, 100, 1234.5, 40960, 131072.25, 1 << 20, 1<<24 - 1} {
		for d := range 50 {
			a := x * (1 + float64(d)/977)
			s, c := sincos(a)
			ws, wc := math.Sincos(a)
			if math.Abs(s-ws) > 1e-14 || math.Abs(c-wc) > 1e-14 {
				t.Fatalf("sincos(%g) = %.17g, %.17g, want %.17g, %.17g", a, s, c, ws, wc)
			}
		}
	}
}

// slow says that products are computed without vectors, which takes nanoseconds for each.
func slow() bool { return os.Getenv("PIMOE_CPU") == "generic" }

func object1(t *testing.T, text string) *object {
	t.Helper()
	o, err := parseObject("config.json", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// TestRopeLinear: with a factor of 2, position 2p turns as p does without.
func TestRopeLinear(t *testing.T) {
	plain := readRope(object1(t, `{"rope_theta": 10000}`), 32, 4096, required)
	o := object1(t, `{"rope_theta": 10000, "rope_scaling": {"type": "linear", "factor": 2.0}}`)
	linear := readRope(o, 32, 4096, required)
	if err := o.err(); err != nil {
		t.Fatal(err)
	}
	for p := range 300 {
		var a, b [2][16]float32
		plain.tables(p, a[0][:], a[1][:])
		linear.tables(2*p, b[0][:], b[1][:])
		if a != b {
			t.Fatalf("position %d: %v, want %v", p, b, a)
		}
	}
}

// TestRopeSpellings: the three ways to write the same thing give the same thing.
func TestRopeSpellings(t *testing.T) {
	params := `"factor": 4.0, "original_max_position_embeddings": 64`
	var first []float32
	for i, text := range []string{
		`{"rope_theta": 50000, "rope_scaling": {"type": "yarn", ` + params + `}}`,
		`{"rope_theta": 50000, "rope_scaling": {"rope_type": "yarn", "type": "yarn", ` + params + `}}`,
		`{"rope_parameters": {"rope_theta": 50000, "rope_type": "yarn", ` + params + `}}`,
		`{"rope_theta": 50000, "rope_parameters": {"rope_theta": 50000, "rope_type": "yarn", ` + params + `}, "rope_scaling": null}`,
	} {
		o := object1(t, text)
		r := readRope(o, 32, 4096, required)
		if err := o.err(); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if i == 0 {
			first = r.inv
		}
		if !slices.Equal(r.inv, first) || r.scale != float32(0.1*math.Log(4)+1) {
			t.Errorf("%s: scale %g, frequencies %v, want %v", text, r.scale, r.inv, first)
		}
	}
}

// TestYarnScale: an explicit factor and the ratio of two mscales replace the default.
func TestYarnScale(t *testing.T) {
	for extra, want := range map[string]float64{
		``: 0.1*math.Log(40) + 1, `, "attention_factor": 1.5`: 1.5,
		`, "mscale": 0.707, "mscale_all_dim": 1.0`: (0.0707*math.Log(40) + 1) / (0.1*math.Log(40) + 1),
		`, "mscale": 1.0, "mscale_all_dim": 1.0`:   1,
	} {
		o := object1(t, `{"rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096`+extra+`}}`)
		if r := readRope(o, 64, 4096, required); r.scale != float32(want) || o.err() != nil {
			t.Errorf("%s: scale %g, want %g, error %v", extra, r.scale, want, o.err())
		}
	}
}

// TestWindows: which layers slide, by architecture and keys.
func TestWindows(t *testing.T) {
	for _, c := range []struct {
		model, keys string
		want        []int
	}{
		{"mixtral", `"sliding_window": 7`, []int{7, 7, 7, 7}},
		{"mixtral", `"sliding_window": null`, []int{0, 0, 0, 0}},
		{"qwen3", `"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 3`, []int{0, 0, 0, 7}},
		{"qwen3", `"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 9`, []int{0, 0, 0, 0}},
		{"qwen3", `"use_sliding_window": false, "sliding_window": 7, "max_window_layers": 0`, []int{0, 0, 0, 0}},
		{"qwen3", `"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 3, "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]`, []int{7, 0, 7, 0}},
		{"qwen2_moe", `"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 3, "layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention"]`, []int{0, 0, 7, 0}},
		{"qwen3_moe", `"use_sliding_window": false, "sliding_window": 7, "max_window_layers": 0`, []int{0, 0, 0, 0}},
		{"llama", ``, []int{0, 0, 0, 0}},
	} {
		c.keys = "{" + c.keys + "}"
		cfg := &Config{arch: find(c.model), Layers: 4, MaxPositions: 100}
		o := object1(t, c.keys)
		cfg.readWindows(o)
		o.rest(true)
		if err := o.err(); err != nil || !slices.Equal(cfg.windows, c.want) {
			t.Errorf("%s %s: %v, want %v, error %v", c.model, c.keys, cfg.windows, c.want, err)
		}
	}
}

// TestKeyLists: no key is in two of the lists of harmless and neutral keys, and neutral values are JSON.
func TestKeyLists(t *testing.T) {
	seen := map[string]string{}
	note := func(key, list string) {
		if other, ok := seen[key]; ok {
			t.Errorf("%s is in %q and in %q", key, other, list)
		}
		seen[key] = list
	}
	for why, keys := range harmless {
		for _, k := range keys {
			note(k, why)
		}
	}
	for k, v := range neutral {
		note(k, "neutral")
		if !json.Valid([]byte(v)) {
			t.Errorf("%s: %s", k, v)
		}
	}
}
