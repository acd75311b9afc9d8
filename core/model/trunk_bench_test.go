package model

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// shapes are config.json of the models that whole servers are measured with, and of a small one with all that there is.
var shapes = map[string]string{
	"small": `{"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 512, "intermediate_size": 1024,
		"moe_intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
		"num_experts": 8, "num_experts_per_tok": 2, "norm_topk_prob": true, "vocab_size": 8192, "attention_bias": false,
		"max_position_embeddings": 4096, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu"}`,
	"tiny": `{"model_type": "qwen2_moe", "architectures": ["Qwen2MoeForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
		"moe_intermediate_size": 32, "shared_expert_intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
		"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": true, "vocab_size": 128,
		"decoder_sparse_step": 1, "mlp_only_layers": [0], "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
		"use_sliding_window": false, "hidden_act": "silu"}`,
	"olmoe-4l": `{"model_type": "olmoe", "architectures": ["OlmoeForCausalLM"], "hidden_size": 2048, "intermediate_size": 1024,
		"num_hidden_layers": 4, "num_attention_heads": 16, "num_key_value_heads": 16, "num_experts": 64, "num_experts_per_tok": 8,
		"norm_topk_prob": false, "vocab_size": 50304, "attention_bias": false, "max_position_embeddings": 4096,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu"}`,
}

// randomTrunk is a trunk of a shape with weights that are nothing but numbers of a likely size.
func randomTrunk(b testing.TB, shape string, be backends.Backend) *Trunk {
	b.Helper()
	cfg, err := ParseConfig([]byte(shapes[shape]), nil)
	if err != nil {
		b.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := 0; i < len(noise); i += 2 {
		h := math.Float32bits(float32(rng.NormFloat64()*0.02)) >> 16
		noise[i], noise[i+1] = byte(h), byte(h>>8)
	}
	var views []weights.NamedView
	for _, t := range cfg.trunkTensors() {
		v := tensor.View{DType: tensor.BF16, Shape: t.shape}
		for n := 2 * v.Elems(); len(v.Data) < n; {
			v.Data = append(v.Data, noise[:min(len(noise), n-len(v.Data))]...)
		}
		views = append(views, weights.NamedView{Name: t.name, View: v})
	}
	var file bytes.Buffer
	if err := weights.Write(&file, views, nil); err != nil {
		b.Fatal(err)
	}
	f, err := weights.Parse("trunk", file.Bytes())
	if err != nil {
		b.Fatal(err)
	}
	t, err := Load(cfg, f, be, "")
	if err != nil {
		b.Fatal(err)
	}
	return t
}

// nothing is a Block of experts that take no time.
type nothing struct{}

func (nothing) Forward(_ context.Context, in moe.Input, y tensor.Matrix) error {
	if in.Meanwhile != nil {
		in.Meanwhile()
	}
	clear(y.Data)
	return nil
}

// BenchmarkTrunk is the trunk's share of a step, with experts that take no time: decode at a context of 512 with several
// sequences, and a prompt of 512 in one chunk.
func BenchmarkTrunk(b *testing.B) {
	for _, shape := range []string{"small", "olmoe-4l"} {
		for _, be := range []backends.Backend{cpu.New(), int8.New()} {
			b.Run(shape+"/"+be.Name(), func(b *testing.B) {
				t := randomTrunk(b, shape, be)
				for _, threads := range []int{1, 2} {
					pool := team.NewPool(threads, team.Options{})
					for _, rows := range []int{1, 8, 32} {
						b.Run(fmt.Sprintf("decode=%d/threads=%d", rows, threads), func(b *testing.B) { benchmarkDecode(b, t, rows, 512, pool.Team()) })
					}
					b.Run(fmt.Sprintf("prefill=512/threads=%d", threads), func(b *testing.B) { benchmarkPrefill(b, t, 512, pool.Team()) })
					pool.Close()
				}
			})
		}
	}
}

func benchmarkPrefill(b *testing.B, t *Trunk, tokens int, tm team.Team) {
	c := newBenchCache(b, t.cfg, tokens/16, tensor.F32)
	spans := []Span{{Pages: benchPages(0, tokens), Tokens: make([]int32, tokens), Logits: true}}
	best(b, func() {
		if _, err := t.Forward(b.Context(), c, spans, nothing{}, tm); err != nil {
			b.Fatal(err)
		}
	})
}

func benchmarkDecode(b *testing.B, t *Trunk, rows, context int, tm team.Team) {
	c := newBenchCache(b, t.cfg, rows*(context/16+1), tensor.F32)
	var spans []Span
	for i := range rows {
		spans = append(spans, Span{Pages: benchPages(i*(context/16+1), context+1), Start: context, Tokens: []int32{int32(i)}, Logits: true})
	}
	b.ReportAllocs()
	best(b, func() {
		if _, err := t.Forward(b.Context(), c, spans, nothing{}, tm); err != nil {
			b.Fatal(err)
		}
	})
}

// best also reports the fastest run: on a machine that others use as well it tells more than the mean.
func best(b *testing.B, f func()) {
	least := time.Hour
	for b.Loop() {
		start := time.Now()
		f()
		least = min(least, time.Since(start))
	}
	b.ReportMetric(float64(least.Nanoseconds())/1e3, "best-us")
}

func newBenchCache(b testing.TB, cfg *Config, pages int, dtype tensor.DType) *Cache {
	c, err := cfg.NewCache(CacheSpec{Pages: pages, PageTokens: 16, DType: dtype})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	})
	for _, l := range c.layers { // written, so that pages are there, each at its place
		for _, s := range []int{l.k.Len(), l.v.Len()} {
			for at := 0; at < s; at += 256 {
				l.k.PutRow(at, []float32{0.5})
				l.v.PutRow(at, []float32{0.5})
			}
		}
	}
	return c
}

func benchPages(first, tokens int) []int32 {
	var p []int32
	for i := range (tokens + 15) / 16 {
		p = append(p, int32(first+i))
	}
	return p
}

// BenchmarkAttention is one layer's attention on one thread: all but the matrix products.
func BenchmarkAttention(b *testing.B) {
	for _, shape := range []string{"small", "olmoe-4l"} {
		for _, dtype := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
			for _, c := range []struct {
				name        string
				start, rows int
			}{{"prefill=512", 0, 512}, {"decode@512", 511, 1}, {"decode@2048", 2047, 1}} {
				b.Run(fmt.Sprintf("%s/%s/%s", shape, dtype, c.name), func(b *testing.B) { benchmarkAttention(b, shape, dtype, c.start, c.rows) })
			}
		}
	}
}

func benchmarkAttention(b *testing.B, shape string, dtype tensor.DType, start, rows int) {
	cfg, err := ParseConfig([]byte(shapes[shape]), nil)
	if err != nil {
		b.Fatal(err)
	}
	t := &Trunk{cfg: cfg, embed: tensor.View{DType: tensor.F32, Shape: []int{1, cfg.Hidden}, Data: make([]byte, 4*cfg.Hidden)}}
	norm := make([]float32, max(cfg.Hidden, cfg.Heads*cfg.HeadDim))
	for i := range norm {
		norm[i] = 1
	}
	kv := norm[:cfg.KVHeads*cfg.HeadDim]
	qn, kn := norm[:cfg.Heads*cfg.HeadDim], kv
	if cfg.arch.qkNorm == headNorm {
		qn, kn = norm[:cfg.HeadDim], norm[:cfg.HeadDim]
	}
	t.layers = []layer{{attnNorm: norm[:cfg.Hidden], qNorm: qn, kNorm: kn, qkv: projections{still{cfg.Hidden, cfg.Heads*cfg.HeadDim + 2*len(kv)}}, o: still{cfg.Heads * cfg.HeadDim, cfg.Hidden}}}
	cache := newBenchCache(b, cfg, (start+rows+15)/16, dtype)
	spans := []Span{{Pages: benchPages(0, start+rows), Start: start, Tokens: make([]int32, rows), AllLogits: true}}
	batch := t.begin(cache, spans, nothing{}, team.Team{})
	batch.layer = &t.layers[0]
	best(b, batch.attend)
}

// still is a Linear that takes no time and leaves y as it is.
type still struct{ in, out int }

func (s still) In() int                             { return s.in }
func (s still) Out() int                            { return s.out }
func (still) Apply(_, _ tensor.Matrix, _ team.Team) {}
