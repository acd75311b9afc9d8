package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// dictated is a projection whose result for the row at position p is what it was told.
type dictated struct {
	out   int
	rows  []float32 // [positions, out]
	first int       // position of the next call's row 0
}

func (d *dictated) In() int  { return 0 }
func (d *dictated) Out() int { return d.out }
func (d *dictated) Apply(y, _ tensor.Matrix, _ team.Team) {
	for r := range y.Rows {
		copy(y.Row(r), d.rows[(d.first+r)*d.out:])
	}
}

// heard is a projection that keeps what it is given, by position.
type heard struct {
	in    int
	rows  []float32
	first int
}

func (h *heard) In() int  { return h.in }
func (h *heard) Out() int { return h.in }
func (h *heard) Apply(_, x tensor.Matrix, _ team.Team) {
	for r := range x.Rows {
		copy(h.rows[(h.first+r)*h.in:], x.Row(r))
	}
}

// attentionRig is one layer's attention on random projections, in a cache full of NaN.
type attentionRig struct {
	cfg   *Config
	trunk *Trunk
	cache *Cache
	qkv   *dictated
	out   *heard
	pages []int32
}

func newAttentionRig(t testing.TB, heads, kvHeads, dim, window, tokens int, dtype tensor.DType) *attentionRig {
	cfg := &Config{arch: find("llama"), Hidden: 16, Layers: 1, Heads: heads, KVHeads: kvHeads, HeadDim: dim, MaxPositions: tokens,
		Vocab: 1, windows: []int{window}, attention: 0.3, embedScale: 1, residual: 1, eps: 1e-6,
		rope: rope{inv: frequencies(10000, dim), scale: 1}}
	r := &attentionRig{cfg: cfg, qkv: &dictated{out: (heads + 2*kvHeads) * dim}, out: &heard{in: heads * dim}}
	rng := rand.New(rand.NewPCG(uint64(heads), uint64(dim)))
	r.qkv.rows = make([]float32, tokens*r.qkv.out)
	for i := range r.qkv.rows {
		r.qkv.rows[i] = float32(rng.NormFloat64())
	}
	r.out.rows = make([]float32, tokens*r.out.in)
	r.trunk = &Trunk{cfg: cfg, layers: []layer{{attnNorm: make([]float32, 16), qkv: projections{r.qkv}, o: r.out}},
		embed: tensor.View{DType: tensor.F32, Shape: []int{1, 16}, Data: make([]byte, 64)}}
	n := (tokens + 31) / 32
	var err error
	if r.cache, err = cfg.NewCache(CacheSpec{Pages: n, PageTokens: 32, DType: dtype}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.cache.Close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		r.pages = append(r.pages, int32((i*7+2)%n))
	}
	if n%7 == 0 {
		t.Fatal("the order of pages wants another number")
	}
	return r
}

// run attends to the first tokens in chunks and returns what comes out, [tokens, heads x dim].
func (r *attentionRig) run(tokens int, tm team.Team, chunks ...int) []float32 {
	nan := make([]float32, r.cache.layers[0].k.Len())
	for i := range nan {
		nan[i] = float32(math.NaN())
	}
	r.cache.layers[0].k.PutRow(0, nan)
	r.cache.layers[0].v.PutRow(0, append(nan, make([]float32, r.cache.layers[0].v.Len()-len(nan))...))
	clear(r.out.rows)
	for at, i := 0, 0; at < tokens; i++ {
		n := min(chunks[i%len(chunks)], tokens-at)
		b := r.trunk.begin(r.cache, []Span{{Pages: r.pages, Start: at, Tokens: make([]int32, n), AllLogits: true}}, nil, tm)
		b.layer = &r.trunk.layers[0]
		r.qkv.first, r.out.first = at, at
		b.attend()
		at += n
	}
	return append([]float32(nil), r.out.rows[:tokens*r.out.in]...)
}

// TestAttention: the result is that of the formula in float64, over several stretches, for any group and window; its bits
// don't depend on chunks and threads, and nothing is read that was not written.
func TestAttention(t *testing.T) {
	pool := team.NewPool(3, team.Options{})
	defer pool.Close()
	tokens, splits := 620, [][]int{{37, 1, 16}, {1}, {256}}
	if slow() {
		tokens, splits = 290, splits[:1]
	}
	for _, c := range []struct{ heads, kvHeads, dim, window int }{{1, 1, 16, 0}, {8, 2, 24, 0}, {3, 1, 64, 300}, {4, 4, 16, 17}, {32, 2, 32, 0}} {
		for _, dtype := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
			t.Run(fmt.Sprintf("%d heads of %d on %d, window %d, %s", c.heads, c.dim, c.kvHeads, c.window, dtype), func(t *testing.T) {
				r := newAttentionRig(t, c.heads, c.kvHeads, c.dim, c.window, tokens, dtype)
				whole := r.run(tokens, team.Team{}, tokens)
				r.compare(t, whole)
				for _, chunks := range splits {
					for i, v := range r.run(tokens, pool.Team(), chunks...) {
						if math.Float32bits(v) != math.Float32bits(whole[i]) {
							t.Fatalf("chunks of %v: value %d of position %d is %g, want %g to the bit", chunks, i%r.out.in, i/r.out.in, v, whole[i])
						}
					}
				}
			})
		}
	}
}

// compare holds results against the definition, for some positions.
func (r *attentionRig) compare(t *testing.T, got []float32) {
	t.Helper()
	c := r.cfg
	dim, group := c.HeadDim, c.Heads/c.KVHeads
	tolerance := map[tensor.DType]float64{tensor.F32: 2e-5, tensor.F16: 4e-3, tensor.BF16: 3e-2}[r.cache.spec.DType]
	cos, sin := make([]float32, dim/2), make([]float32, dim/2)
	row := func(p int) []float32 { // projections after rotation
		x := append([]float32(nil), r.qkv.rows[p*r.qkv.out:(p+1)*r.qkv.out]...)
		c.rope.tables(p, cos, sin)
		for h := range c.Heads + c.KVHeads {
			for i := range dim / 2 {
				a, b := float64(x[h*dim+i]), float64(x[h*dim+dim/2+i])
				x[h*dim+i] = float32(a*float64(cos[i]) - b*float64(sin[i]))
				x[h*dim+dim/2+i] = float32(b*float64(cos[i]) + a*float64(sin[i]))
			}
		}
		return x
	}
	tokens := len(got) / r.out.in
	rows := make([][]float32, tokens)
	for p := range rows {
		rows[p] = row(p)
	}
	for p := 0; p < tokens; p += 23 {
		for h := range c.Heads {
			kv := h / group
			sum, out := 0.0, make([]float64, dim)
			for j := c.firstKey(0, p); j <= p; j++ {
				var s float64
				for i := range dim {
					s += float64(rows[p][h*dim+i]) * float64(rows[j][(c.Heads+kv)*dim+i])
				}
				e := math.Exp(s * 0.3)
				sum += e
				for i := range out {
					out[i] += e * float64(rows[j][(c.Heads+c.KVHeads+kv)*dim+i])
				}
			}
			for i, v := range out {
				if g := float64(got[p*r.out.in+h*dim+i]); !(math.Abs(g-v/sum) <= tolerance) {
					t.Fatalf("position %d, head %d, dimension %d: %g, want %g", p, h, i, g, v/sum)
				}
			}
		}
	}
}
