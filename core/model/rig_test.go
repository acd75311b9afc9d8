package model_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	routermodel "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// rig is a whole model in one process: trunk, the model's router, and experts in a number of groups, all on package
// cpu, from a checkpoint split by its Plan.
type rig struct {
	t     testing.TB
	cfg   *model.Config
	trunk *model.Trunk
	block moe.Block
	cache *model.Cache
	pages int32 // handed out so far
	team  team.Team
}

type rigOptions struct {
	backend    backends.Backend // default cpu
	groups     int              // default 2
	threads    int              // default 1
	pageTokens int              // default 16
	pages      int              // default 256
	dtype      tensor.DType     // of the cache; default F32
	wrap       func(moe.Block) moe.Block
}

func newRig(t testing.TB, dir string, o rigOptions) *rig {
	t.Helper()
	ck, err := weights.OpenCheckpoint(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg, err := model.ReadConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	return rigOf(t, cfg, ck, o)
}

func rigOf(t testing.TB, cfg *model.Config, ck *weights.Checkpoint, o rigOptions) *rig {
	t.Helper()
	if o.backend == nil {
		o.backend = cpu.New()
	}
	o.groups, o.threads, o.pageTokens, o.pages = max(o.groups, 0), max(o.threads, 1), max(o.pageTokens, 0), max(o.pages, 0)
	set := func(v *int, def int) {
		if *v == 0 {
			*v = def
		}
	}
	set(&o.groups, 2)
	set(&o.pageTokens, 16)
	set(&o.pages, 256)
	if o.dtype == tensor.Invalid {
		o.dtype = tensor.F32
	}
	plan, err := cfg.Plan(ck)
	if err != nil {
		t.Fatal(err)
	}
	pool := team.NewPool(o.threads, team.Options{})
	t.Cleanup(pool.Close)
	r := &rig{t: t, cfg: cfg, team: pool.Team()}
	if r.trunk, err = model.Load(cfg, trunkFile(t, ck, plan), o.backend, ""); err != nil {
		t.Fatal(err)
	}
	if r.cache, err = cfg.NewCache(model.CacheSpec{Pages: o.pages, PageTokens: o.pageTokens, DType: o.dtype}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.cache.Close(); err != nil {
			t.Error(err)
		}
	})
	rt := routermodel.New()
	spec := router.Spec{Layers: cfg.SparseLayers(), Experts: cfg.Experts, TopK: cfg.TopK, Rule: cfg.Rule}
	if err := rt.Configure(context.Background(), spec); err != nil {
		t.Fatal(err)
	}
	groups, place := expertGroups(t, cfg, ck, plan, o)
	r.block = moe.New(rt, cfg.TopK, cfg.Experts, place, groups, cfg.Hidden, r.team)
	if o.wrap != nil {
		r.block = o.wrap(r.block)
	}
	return r
}

// trunkFile writes the trunk's pieces as the store does, and reads them back.
func trunkFile(t testing.TB, ck *weights.Checkpoint, plan weights.Plan) *weights.File {
	t.Helper()
	var views []weights.NamedView
	for _, p := range plan.Trunk {
		views = append(views, weights.NamedView{Name: p.Name, View: pieceOf(t, ck, p)})
	}
	var b bytes.Buffer
	if err := weights.Write(&b, views, nil); err != nil {
		t.Fatal(err)
	}
	f, err := weights.Parse("trunk", b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// pieceOf is the part of the checkpoint that a piece names.
func pieceOf(t testing.TB, ck *weights.Checkpoint, p weights.Piece) tensor.View {
	t.Helper()
	v, ok := ck.Tensor(p.Source)
	if !ok {
		t.Fatalf("plan names tensor %s, which is not there", p.Source)
	}
	n, size := 1, v.DType.Size()
	for _, d := range p.Shape {
		n *= d
	}
	return tensor.View{DType: v.DType, Shape: p.Shape, Data: v.Data[p.Offset*size : (p.Offset+n)*size]}
}

// expertGroups loads the experts round robin into groups.
func expertGroups(t testing.TB, cfg *model.Config, ck *weights.Checkpoint, plan weights.Plan, o rigOptions) ([]moe.Group, moe.Placement) {
	t.Helper()
	n := min(o.groups, cfg.Experts)
	specs := make([]expert.Spec, n)
	place := moe.Placement{}
	for e, pieces := range plan.Experts {
		s := &specs[e%n]
		s.Hidden, s.Intermediate, s.Activation = cfg.Hidden, cfg.Intermediate, cfg.Activation
		units := map[int]*expert.UnitWeights{}
		for _, p := range pieces {
			part := strings.Split(p.Name, ".") // layers.L.gate
			l, err := strconv.Atoi(part[1])
			if err != nil || len(part) != 3 || part[0] != "layers" {
				t.Fatalf("piece %q", p.Name)
			}
			u := units[l]
			if u == nil {
				u = &expert.UnitWeights{Unit: expert.Unit{Layer: l, Expert: e}}
				units[l] = u
			}
			*map[string]*tensor.View{"gate": &u.Gate, "up": &u.Up, "down": &u.Down}[part[2]] = pieceOf(t, ck, p)
		}
		for _, l := range cfg.SparseLayers() {
			s.Units = append(s.Units, *units[l])
			place[l] = append(place[l], e%n)
		}
	}
	groups := make([]moe.Group, n)
	for i := range groups {
		e := ffn.New(o.backend, ffn.Options{})
		if err := e.Load(context.Background(), specs[i]); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		groups[i] = local{e}
	}
	return groups, place
}

// local calls an expert in this process, when it is waited for.
type local struct{ e expert.Expert }

func (l local) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return waiting(func() error { return l.e.Forward(ctx, call) })
}

type waiting func() error

func (w waiting) Wait() error { return w() }

// slow says that products are computed without vectors, which takes nanoseconds for each.
func slow() bool { return os.Getenv("PIMOE_CPU") == "generic" }

// pair is a team of two threads.
func pair(t testing.TB) team.Team {
	pool := team.NewPool(2, team.Options{})
	t.Cleanup(pool.Close)
	return pool.Team()
}

// sequence hands out fresh pages for a sequence of up to n tokens.
func (r *rig) sequence(n int) []int32 {
	per := r.cache.Spec().PageTokens
	var pages []int32
	for range (n + per - 1) / per {
		pages = append(pages, r.pages)
		r.pages++
	}
	return pages
}

func (r *rig) forward(spans ...model.Span) []tensor.Matrix {
	r.t.Helper()
	m, err := r.trunk.Forward(context.Background(), r.cache, spans, r.block, r.team)
	if err != nil {
		r.t.Fatal(err)
	}
	return m
}

// greedy continues a prompt by n tokens, one at a time.
func (r *rig) greedy(prompt []int32, n int) []int32 {
	r.t.Helper()
	pages := r.sequence(len(prompt) + n)
	var ids []int32
	at, tokens := 0, prompt
	for range n {
		m := r.forward(model.Span{Pages: pages, Start: at, Tokens: tokens, Logits: true})
		at += len(tokens)
		tokens = []int32{best(m[0].Row(0))}
		ids = append(ids, tokens[0])
	}
	return ids
}

// best is the argmax, written apart from the sampler's.
func best(logits []float32) int32 {
	id := 0
	for i, v := range logits {
		if v > logits[id] {
			id = i
		}
	}
	return int32(id)
}

// copyOf keeps a result beyond the next Forward.
func copyOf(m tensor.Matrix) tensor.Matrix {
	c := tensor.NewMatrix(m.Rows, m.Cols)
	for r := range m.Rows {
		copy(c.Row(r), m.Row(r))
	}
	return c
}

func floatsOf(t testing.TB, v tensor.View) []float32 {
	t.Helper()
	if v.DType != tensor.F32 {
		t.Fatalf("golden tensor is %s", v.DType)
	}
	f := make([]float32, v.Elems())
	for i := range f {
		f[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:]))
	}
	return f
}

func intsOf(t testing.TB, v tensor.View) []int32 {
	t.Helper()
	if v.DType != tensor.I32 {
		t.Fatalf("golden tensor is %s", v.DType)
	}
	n := make([]int32, v.Elems())
	for i := range n {
		n[i] = int32(binary.LittleEndian.Uint32(v.Data[4*i:]))
	}
	return n
}
