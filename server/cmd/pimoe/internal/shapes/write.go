package shapes

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Write fills dir with a checkpoint of the shape in bf16: config.json, a byte-level tokenizer, and one shard for the
// trunk's ends and one for each layer. Equal seeds give equal files, whatever the number of cores. progress, which may
// be nil, is called with bytes done and in all.
func Write(ctx context.Context, dir string, s Shape, seed uint64, progress func(done, total int64)) error {
	if err := s.check(); err != nil {
		return fmt.Errorf("write shape: %w", err)
	}
	parts := s.parts()
	index := struct {
		Metadata  map[string]any    `json:"metadata"`
		WeightMap map[string]string `json:"weight_map"`
	}{map[string]any{}, map[string]string{}}
	var done, total int64
	for i, part := range parts {
		for _, t := range part {
			index.WeightMap[t.name] = shardName(i, len(parts))
			total += t.bytes()
		}
	}
	index.Metadata["total_size"] = total
	for name, v := range map[string]any{
		"config.json": s.config(), "generation_config.json": map[string]any{"do_sample": false, "eos_token_id": s.eos()},
		"tokenizer.json": s.tokenizer(), "tokenizer_config.json": map[string]any{"eos_token": eosText, "pad_token": padText},
		"model.safetensors.index.json": index,
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("write shape: %s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			return fmt.Errorf("write shape: %w", err)
		}
	}
	var memory []byte // of the largest shard, used again
	for i, part := range parts {
		views, err := draw(ctx, part, seed, &memory)
		if err != nil {
			return err
		}
		if err := writeShard(filepath.Join(dir, shardName(i, len(parts))), views); err != nil {
			return err
		}
		for _, t := range part {
			done += t.bytes()
		}
		if progress != nil {
			progress(done, total)
		}
	}
	return nil
}

func shardName(i, n int) string { return fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, n) }

func writeShard(path string, views []weights.NamedView) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write shape: %w", err)
	}
	defer f.Close()
	if err := weights.Write(f, views, map[string]string{"format": "pt"}); err != nil {
		return err
	}
	return f.Close()
}

// weight is a tensor to be drawn.
type weight struct {
	name  string
	shape []int
}

func (w weight) elements() int {
	n := 1
	for _, d := range w.shape {
		n *= d
	}
	return n
}

func (w weight) bytes() int64 { return 2 * int64(w.elements()) }

// parts are all weights: first what belongs to no layer, then layer by layer.
func (s Shape) parts() [][]weight {
	q, kv := s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	qNorm, kNorm := s.HeadDim, s.HeadDim // qwen3_moe normalises each head
	if s.Type == olmoe {
		qNorm, kNorm = q, kv // olmoe the whole projection
	}
	out := [][]weight{{
		{"model.embed_tokens.weight", []int{s.Vocab, s.Hidden}}, {"model.norm.weight", []int{s.Hidden}}, {"lm_head.weight", []int{s.Vocab, s.Hidden}},
	}}
	for l := range s.Layers {
		p := fmt.Sprintf("model.layers.%d.", l)
		part := []weight{
			{p + "input_layernorm.weight", []int{s.Hidden}}, {p + "post_attention_layernorm.weight", []int{s.Hidden}},
			{p + "self_attn.q_proj.weight", []int{q, s.Hidden}}, {p + "self_attn.k_proj.weight", []int{kv, s.Hidden}},
			{p + "self_attn.v_proj.weight", []int{kv, s.Hidden}}, {p + "self_attn.o_proj.weight", []int{s.Hidden, q}},
			{p + "self_attn.q_norm.weight", []int{qNorm}}, {p + "self_attn.k_norm.weight", []int{kNorm}},
			{p + "mlp.gate.weight", []int{s.Experts, s.Hidden}},
		}
		for e := range s.Experts {
			q := fmt.Sprintf("%smlp.experts.%d.", p, e)
			part = append(part, weight{q + "gate_proj.weight", []int{s.Intermediate, s.Hidden}}, weight{q + "up_proj.weight", []int{s.Intermediate, s.Hidden}},
				weight{q + "down_proj.weight", []int{s.Hidden, s.Intermediate}})
		}
		out = append(out, part)
	}
	return out
}

// draw makes the tensors of one shard in *memory, on all cores.
func draw(ctx context.Context, part []weight, seed uint64, memory *[]byte) ([]weights.NamedView, error) {
	var n int64
	for _, w := range part {
		n += w.bytes()
	}
	if int64(cap(*memory)) < n {
		*memory = make([]byte, n)
	}
	rest := (*memory)[:n]
	cores, ctx := errgroup.WithContext(ctx)
	cores.SetLimit(runtime.GOMAXPROCS(0))
	views := make([]weights.NamedView, len(part))
	for i, w := range part {
		data := rest[:w.bytes():w.bytes()]
		rest = rest[w.bytes():]
		views[i] = weights.NamedView{Name: w.name, View: tensor.View{DType: tensor.BF16, Shape: w.shape, Data: data}}
		cores.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			w.draw(data, seed)
			return nil
		})
	}
	return views, cores.Wait()
}

// draw fills data: norms are ones; matrices are uniform with the usual standard deviation of a model before training,
// 0.02, so that activations stay finite and gates differ from token to token. The state comes from seed and name, so
// the order does not matter.
func (w weight) draw(data []byte, seed uint64) {
	if len(w.shape) == 1 {
		for i := 0; i < len(data); i += 2 {
			binary.LittleEndian.PutUint16(data[i:], one)
		}
		return
	}
	h := fnv.New64a()
	h.Write([]byte(w.name))
	rng := rand.NewPCG(seed, h.Sum64())
	i := 0
	for ; i+8 <= len(data); i += 8 { // four weights of 16 random bits each
		r := rng.Uint64()
		binary.LittleEndian.PutUint64(data[i:], uint64(uniform[r&mask])|uint64(uniform[r>>16&mask])<<16|uint64(uniform[r>>32&mask])<<32|uint64(uniform[r>>48&mask])<<48)
	}
	for r := rng.Uint64(); i < len(data); i += 2 {
		binary.LittleEndian.PutUint16(data[i:], uniform[r&mask])
		r >>= 16
	}
}

// one is 1 in bf16.
const one = 0x3f80

// uniform are the bf16 weights that random numbers stand for. A table of 4096 stays in the first cache and
// is finer than bf16 over most of the range.
const (
	bits = 12
	mask = 1<<bits - 1
)

var uniform = func() (out [1 << bits]uint16) {
	deviation := 0.02 * math.Sqrt(3) // of a uniform draw from -x to x it is x / sqrt 3
	for i := range out {
		x := float32((2*float64(i) + 1 - float64(len(out))) / float64(len(out)) * deviation)
		out[i] = uint16((math.Float32bits(x) + 0x8000) >> 16)
	}
	return out
}()
