package model_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// sameBits fails unless two matrices are equal to the bit.
func sameBits(t testing.TB, what string, got, want tensor.Matrix) {
	t.Helper()
	if got.Rows != want.Rows || got.Cols != want.Cols {
		t.Fatalf("%s: [%d, %d], want [%d, %d]", what, got.Rows, got.Cols, want.Rows, want.Cols)
	}
	for r := range got.Rows {
		g, w := got.Row(r), want.Row(r)
		for i := range g {
			if math.Float32bits(g[i]) != math.Float32bits(w[i]) {
				t.Fatalf("%s: row %d column %d is %g, want %g to the bit", what, r, i, g[i], w[i])
			}
		}
	}
}

func randomTokens(rng *rand.Rand, n, vocab int) []int32 {
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(vocab))
	}
	return ids
}

// chunks runs a sequence in pieces of the given lengths, the last one as often as needed, and returns all logits.
func chunks(r *rig, ids, pages []int32, lengths ...int) tensor.Matrix {
	all := tensor.NewMatrix(len(ids), r.cfg.Vocab)
	for at := 0; at < len(ids); {
		n := min(lengths[0], len(ids)-at)
		if len(lengths) > 1 {
			lengths = lengths[1:]
		}
		m := r.forward(model.Span{Pages: pages, Start: at, Tokens: ids[at : at+n], AllLogits: true})
		for i := range n {
			copy(all.Row(at+i), m[0].Row(i))
		}
		at += n
	}
	return all
}

// TestInvariance: the bits of a row do not depend on chunks, on what else is in the batch, on threads, page size,
// groups or the order of pages, whatever the storage of weights and cache.
func TestInvariance(t *testing.T) {
	models := []string{"qwen3_moe", "qwen3_moe_tf5", "mixtral_f16", "qwen2_moe", "granitemoe", "olmoe_clip", "llama"}
	for _, name := range models {
		for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			t.Run(fmt.Sprintf("%s/%s", name, dtype), func(t *testing.T) {
				if slow() && (name != models[0] && name != models[3] || dtype == tensor.F16) {
					t.Skip("too many tokens without vectors")
				}
				t.Parallel()
				invariance(t, coretest.Golden(t, "models", name), dtype)
			})
		}
	}
}

func invariance(t *testing.T, dir string, dtype tensor.DType) {
	rng := rand.New(rand.NewPCG(7, 11))
	r := newRig(t, dir, rigOptions{dtype: dtype, groups: 1})
	ids := randomTokens(rng, 75, r.cfg.Vocab)
	whole := chunks(r, ids, r.sequence(len(ids)), len(ids))

	sameBits(t, "token by token", chunks(r, ids, r.sequence(len(ids)), 1), whole)
	sameBits(t, "chunked", chunks(r, ids, r.sequence(len(ids)), 3, 16, 1, 30, 7), whole)
	pages := r.sequence(len(ids))
	slices.Reverse(pages)
	sameBits(t, "pages in another order", chunks(r, ids, pages, 40), whole)

	// A sequence that reuses the first two pages of an earlier one.
	shared := slices.Concat(pages[:2], r.sequence(len(ids)-32))
	m := r.forward(model.Span{Pages: shared, Start: 32, Tokens: ids[32:], AllLogits: true})
	sameBits(t, "reused pages", m[0], whole.Slice(32, len(ids)))

	for _, o := range []rigOptions{{threads: 2, groups: 8}, {threads: 3, groups: 2, pageTokens: 48}, {threads: 2, groups: 1, pageTokens: 64}} {
		o.dtype = dtype
		q := newRig(t, dir, o)
		what := fmt.Sprintf("%d threads, %d groups, pages of %d, ", o.threads, o.groups, o.pageTokens)
		sameBits(t, what+"whole", chunks(q, ids, q.sequence(len(ids)), len(ids)), whole)
		sameBits(t, what+"chunked", chunks(q, ids, q.sequence(len(ids)), 20, 4), whole)
		sameBits(t, what+"in a batch", inBatch(q, rng, ids), whole)
	}
}

// inBatch runs a sequence in random chunks, each in a batch with chunks and decode steps of other sequences.
func inBatch(r *rig, rng *rand.Rand, ids []int32) tensor.Matrix {
	type other struct {
		pages []int32
		ids   []int32
		at    int
	}
	var others []*other
	for range 6 {
		n := 80 + rng.IntN(20)
		others = append(others, &other{r.sequence(n), randomTokens(rng, n, r.cfg.Vocab), 0})
	}
	all := tensor.NewMatrix(len(ids), r.cfg.Vocab)
	pages := r.sequence(len(ids))
	for at := 0; at < len(ids); {
		n := min(1+rng.IntN(12), len(ids)-at)
		spans := []model.Span{{Pages: pages, Start: at, Tokens: ids[at : at+n], AllLogits: true}}
		for i, o := range others {
			k := min([]int{1, 1, 5, 2, 9, 1}[i], len(o.ids)-o.at)
			if k == 0 {
				continue
			}
			spans = append(spans, model.Span{Pages: o.pages, Start: o.at, Tokens: o.ids[o.at : o.at+k], Logits: i%2 == 0})
			o.at += k
		}
		mine := rng.IntN(len(spans))
		spans[0], spans[mine] = spans[mine], spans[0]
		m := r.forward(spans...)
		for i := range n {
			copy(all.Row(at+i), m[mine].Row(i))
		}
		at += n
	}
	return all
}

// TestLastLayer: rows that ask for nothing are dropped in the last layer, and nobody else notices. A span that follows its
// routes keeps all of its rows.
func TestLastLayer(t *testing.T) {
	dir := coretest.Golden(t, "models", "qwen2_moe")
	rec := &inputs{x: map[int]tensor.Matrix{}}
	r := newRig(t, dir, rigOptions{threads: 2, wrap: func(b moe.Block) moe.Block { rec.Block = b; return rec }})
	rng := rand.New(rand.NewPCG(3, 9))
	var ids [4][]int32
	var want [4]tensor.Matrix
	for i := range ids {
		ids[i] = randomTokens(rng, 9+7*i, r.cfg.Vocab)
		want[i] = chunks(r, ids[i], r.sequence(len(ids[i])), len(ids[i]))
	}
	spans := make([]model.Span, 4)
	for i := range spans {
		spans[i] = model.Span{Pages: r.sequence(len(ids[i])), Tokens: ids[i]}
	}
	routed := 0
	spans[0].Route = func(layer, _ int, _ []int32, _ []float32) {
		if layer == r.cfg.Layers-1 {
			routed++
		}
	}
	spans[2].Logits, spans[3].AllLogits = true, true
	rec.x = map[int]tensor.Matrix{}
	m := r.forward(spans...)
	sameBits(t, "last logits", m[2], want[2].Slice(len(ids[2])-1, len(ids[2])))
	sameBits(t, "all logits", m[3], want[3])
	if m[0].Rows != 0 || m[1].Rows != 0 || routed != len(ids[0]) {
		t.Errorf("logits of %d and %d rows, %d routes", m[0].Rows, m[1].Rows, routed)
	}
	if first, last := rec.x[0].Rows, rec.x[r.cfg.Layers-1].Rows; first != 9+16+23+30 || last != 9+0+1+30 {
		t.Errorf("%d rows in the first layer, %d in the last", first, last)
	}
	spans = spans[1:2]
	rec.x = map[int]tensor.Matrix{}
	if m := r.forward(spans...); m[0].Rows != 0 || rec.x[r.cfg.Layers-1].Rows != 0 {
		t.Error("a span that wants nothing went through the last layer")
	}
	next := model.Span{Pages: spans[0].Pages, Start: len(ids[1]) - 1, Tokens: ids[1][len(ids[1])-1:], Logits: true}
	sameBits(t, "after it", r.forward(next)[0], want[1].Slice(len(ids[1])-1, len(ids[1])))
}

// TestCacheTypesDiffer: a half cache really rounds, so the test above is not about nothing.
func TestCacheTypesDiffer(t *testing.T) {
	dir := coretest.Golden(t, "models", "qwen3_moe")
	ids := []int32{5, 9, 200, 31}
	logits := map[tensor.DType]tensor.Matrix{}
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		r := newRig(t, dir, rigOptions{dtype: d})
		logits[d] = chunks(r, ids, r.sequence(len(ids)), len(ids))
	}
	exact := logits[tensor.F32].Row(3)
	for d, bound := range map[tensor.DType]float64{tensor.BF16: 0.2, tensor.F16: 0.03} {
		worst := 0.0
		for i, v := range logits[d].Row(3) {
			worst = max(worst, math.Abs(float64(v-exact[i])))
		}
		if worst == 0 || worst > bound {
			t.Errorf("%s cache moves logits by %g, want more than nothing and at most %g", d, worst, bound)
		}
	}
}

// failing is a Block that fails in one layer.
type failing struct {
	moe.Block
	layer int
	err   error
	then  func()
}

func (f *failing) Forward(ctx context.Context, in moe.Input, y tensor.Matrix) error {
	if in.Layer == f.layer {
		if f.then != nil {
			f.then()
		}
		if f.err != nil {
			return f.err
		}
	}
	return f.Block.Forward(ctx, in, y)
}

// TestForwardErrors: a failing layer is named, a done context stops before the next layer, and neither touches other
// sequences: repeating the call gives what it would have given.
func TestForwardErrors(t *testing.T) {
	dir := coretest.Golden(t, "models", "qwen3_moe")
	f := &failing{layer: -1}
	r := newRig(t, dir, rigOptions{wrap: func(b moe.Block) moe.Block { f.Block = b; return f }})
	ids := []int32{4, 8, 15, 16, 23, 42}
	want := chunks(r, ids, r.sequence(len(ids)), len(ids))

	pages := r.sequence(len(ids))
	chunks(r, ids[:3], pages, 3)
	span := model.Span{Pages: pages, Start: 3, Tokens: ids[3:], AllLogits: true}
	boom := errors.New("boom")
	f.layer, f.err = 1, boom
	if _, err := r.trunk.Forward(t.Context(), r.cache, []model.Span{span}, r.block, team.Team{}); !errors.Is(err, boom) {
		t.Fatalf("error %v, want %v", err, boom)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.err, f.then = nil, cancel
	if _, err := r.trunk.Forward(ctx, r.cache, []model.Span{span}, r.block, team.Team{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want a cancellation", err)
	}
	f.layer = -1
	sameBits(t, "repeated", r.forward(span)[0], want.Slice(3, 6))
}

func TestForwardRefuses(t *testing.T) {
	r := newRig(t, coretest.Golden(t, "models", "qwen3_moe"), rigOptions{pages: 4})
	ok := model.Span{Pages: []int32{0}, Tokens: []int32{1}}
	for name, edit := range map[string]func(*model.Span){
		"no tokens":         func(s *model.Span) { s.Tokens = nil },
		"token too high":    func(s *model.Span) { s.Tokens = []int32{512} },
		"negative token":    func(s *model.Span) { s.Tokens = []int32{-1} },
		"negative start":    func(s *model.Span) { s.Start = -1 },
		"beyond the pages":  func(s *model.Span) { s.Start = 16 },
		"beyond the model":  func(s *model.Span) { s.Start = 40960 },
		"page out of range": func(s *model.Span) { s.Pages = []int32{4} },
		"negative page":     func(s *model.Span) { s.Pages = []int32{-1} },
	} {
		s := ok
		edit(&s)
		if _, err := r.trunk.Forward(t.Context(), r.cache, []model.Span{ok, s}, r.block, team.Team{}); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		}
	}
	other := newRig(t, coretest.Golden(t, "models", "mixtral"), rigOptions{})
	if _, err := r.trunk.Forward(t.Context(), other.cache, []model.Span{ok}, r.block, team.Team{}); !errors.Is(err, sdk.ErrInvalid) {
		t.Errorf("another model's cache: error %v, want ErrInvalid", err)
	}
	if m, err := r.trunk.Forward(t.Context(), r.cache, nil, r.block, team.Team{}); err != nil || len(m) != 0 {
		t.Errorf("no spans: %v, %v", m, err)
	}
}

func TestNewCacheRefuses(t *testing.T) {
	cfg, err := model.ReadConfig(coretest.Golden(t, "models", "qwen3_moe"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []model.CacheSpec{
		{Pages: 0, PageTokens: 16, DType: tensor.F32}, {Pages: 4, PageTokens: 0, DType: tensor.F32}, {Pages: 4, PageTokens: 20, DType: tensor.F32},
		{Pages: 4, PageTokens: 16, DType: tensor.I8}, {Pages: math.MaxInt, PageTokens: 4096, DType: tensor.F32},
	} {
		if _, err := cfg.NewCache(s); err == nil {
			t.Errorf("%+v was accepted", s)
		}
	}
	spec := model.CacheSpec{Pages: 3, PageTokens: 16, DType: tensor.BF16}
	if got, want := cfg.PageBytes(spec), int64(2*3*16*2*32*2); got != want {
		t.Errorf("a page takes %d bytes, want %d", got, want)
	}
}

// TestHidden: the sparse block on raw hidden states is the block of the whole model, shared expert included.
func TestHidden(t *testing.T) {
	for _, name := range []string{"qwen3_moe", "qwen2_moe", "granitemoe", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			dir := coretest.Golden(t, "models", name)
			g := openGolden(t, dir)
			rec := &inputs{x: map[int]tensor.Matrix{}}
			r := newRig(t, dir, rigOptions{wrap: func(b moe.Block) moe.Block { rec.Block = b; return rec }})
			ids := g.ints("seq7.input_ids")
			r.forward(model.Span{Pages: r.sequence(7), Tokens: ids, AllLogits: true})
			for _, l := range r.cfg.SparseLayers() {
				rows := 0
				y, err := r.trunk.Hidden(t.Context(), l, rec.x[l], r.block, team.Team{}, func(layer, row, k int, ids []int32, _ []float32) {
					if layer != l || row != rows || k != r.cfg.TopK || len(ids) != k {
						t.Errorf("observed layer %d row %d k %d", layer, row, k)
					}
					rows++
				}, nil)
				if err != nil || rows != 7 {
					t.Fatalf("%d rows observed, error %v", rows, err)
				}
				near(t, "mlp_out", y.Data, g.floats(fmt.Sprintf("seq7.layer%d.mlp_out", l)), g.Tolerance.Hidden)
			}
			nan := tensor.NewMatrix(1, r.cfg.Hidden)
			nan.Data[3] = float32(math.NaN())
			for what, call := range map[string]func() error{
				"no such layer": func() error {
					_, err := r.trunk.Hidden(t.Context(), 99, tensor.NewMatrix(1, r.cfg.Hidden), r.block, team.Team{}, nil, nil)
					return err
				},
				"wrong width": func() error {
					_, err := r.trunk.Hidden(t.Context(), 0, tensor.NewMatrix(1, 3), r.block, team.Team{}, nil, nil)
					return err
				},
				"NaN": func() error {
					_, err := r.trunk.Hidden(t.Context(), 0, nan, r.block, team.Team{}, nil, nil)
					return err
				},
			} {
				if err := call(); !errors.Is(err, sdk.ErrInvalid) {
					t.Errorf("%s: error %v, want ErrInvalid", what, err)
				}
			}
		})
	}
}

// TestMeanwhile: the shared expert is the same whether the Block lets it be computed while it waits, or never.
func TestMeanwhile(t *testing.T) {
	dir := coretest.Golden(t, "models", "qwen2_moe")
	ids := []int32{3, 1, 4, 1, 5, 9, 2, 6}
	var want tensor.Matrix
	for _, calls := range []int{1, 0} {
		r := newRig(t, dir, rigOptions{threads: 2, wrap: func(b moe.Block) moe.Block { return &patient{b, calls} }})
		got := chunks(r, ids, r.sequence(len(ids)), 5, 1)
		if want.Rows == 0 {
			want = got
		}
		sameBits(t, fmt.Sprintf("%d calls", calls), got, want)
	}
}

// patient calls Meanwhile itself, so many times, before it asks its Block.
type patient struct {
	moe.Block
	calls int
}

func (p *patient) Forward(ctx context.Context, in moe.Input, y tensor.Matrix) error {
	for range p.calls {
		in.Meanwhile()
	}
	in.Meanwhile = nil
	return p.Block.Forward(ctx, in, y)
}

// inputs keeps what a Block is given.
type inputs struct {
	moe.Block
	x map[int]tensor.Matrix
}

func (r *inputs) Forward(ctx context.Context, in moe.Input, y tensor.Matrix) error {
	if _, ok := r.x[in.Layer]; !ok {
		r.x[in.Layer] = copyOf(in.X)
	}
	return r.Block.Forward(ctx, in, y)
}
