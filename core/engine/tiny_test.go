package engine_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/coretest"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/plugins/experts/ffn"
	routermodel "github.com/pimoe/pimoe/plugins/routers/model"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// parts are a model in one process: trunk, router, and the experts in two groups.
type parts struct {
	cfg   *model.Config
	trunk *model.Trunk
	block moe.Block
	text  *tokenizer.Tokenizer
}

// load reads a model.
func load(t testing.TB, dir string) parts {
	t.Helper()
	ck := must(weights.OpenCheckpoint(dir))(t)
	t.Cleanup(func() {
		if err := ck.Close(); err != nil {
			t.Error(err)
		}
	})
	cfg := must(model.ReadConfig(dir))(t)
	plan := must(cfg.Plan(ck))(t)
	p := parts{cfg: cfg, text: must(tokenizer.Load(dir))(t)}
	var views []weights.NamedView
	for _, piece := range plan.Trunk {
		views = append(views, weights.NamedView{Name: piece.Name, View: viewOf(t, ck, piece)})
	}
	var b bytes.Buffer
	if err := weights.Write(&b, views, nil); err != nil {
		t.Fatal(err)
	}
	p.trunk = must(model.Load(cfg, must(weights.Parse("trunk", b.Bytes()))(t), cpu.New(), ""))(t)
	rt := routermodel.New()
	err := rt.Configure(t.Context(), router.Spec{Layers: cfg.SparseLayers(), Experts: cfg.Experts, TopK: cfg.TopK, Rule: cfg.Rule})
	if err != nil {
		t.Fatal(err)
	}
	groups, place := experts(t, cfg, ck, plan)
	p.block = moe.New(rt, cfg.TopK, cfg.Experts, place, groups, cfg.Hidden, crew(t))
	return p
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// viewOf is the part of a checkpoint that a piece names.
func viewOf(t testing.TB, ck *weights.Checkpoint, p weights.Piece) tensor.View {
	t.Helper()
	v, ok := ck.Tensor(p.Source)
	if !ok {
		t.Fatalf("no tensor %s", p.Source)
	}
	n, size := 1, v.DType.Size()
	for _, d := range p.Shape {
		n *= d
	}
	return tensor.View{DType: v.DType, Shape: p.Shape, Data: v.Data[p.Offset*size : (p.Offset+n)*size]}
}

// experts loads even and odd experts into two groups.
func experts(t testing.TB, cfg *model.Config, ck *weights.Checkpoint, plan weights.Plan) ([]moe.Group, moe.Placement) {
	t.Helper()
	specs := make([]expert.Spec, 2)
	place := moe.Placement{}
	for e, pieces := range plan.Experts {
		s := &specs[e%2]
		s.Hidden, s.Intermediate, s.Activation = cfg.Hidden, cfg.Intermediate, cfg.Activation
		units := map[int]*expert.UnitWeights{}
		for _, p := range pieces {
			name := strings.Split(p.Name, ".") // layers.L.gate
			l := must(strconv.Atoi(name[1]))(t)
			if units[l] == nil {
				units[l] = &expert.UnitWeights{Unit: expert.Unit{Layer: l, Expert: e}}
			}
			u := units[l]
			*map[string]*tensor.View{"gate": &u.Gate, "up": &u.Up, "down": &u.Down}[name[2]] = viewOf(t, ck, p)
		}
		for _, l := range cfg.SparseLayers() {
			s.Units = append(s.Units, *units[l])
			place[l] = append(place[l], e%2)
		}
	}
	var groups []moe.Group
	for _, s := range specs {
		e := ffn.New(cpu.New(), ffn.Options{})
		if err := e.Load(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
		})
		groups = append(groups, direct{e})
	}
	return groups, place
}

// direct calls an expert in this process at once. It makes no garbage.
type direct struct{ e expert.Expert }

func (d direct) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if err := d.e.Forward(ctx, call); err != nil {
		return &failed{err}
	}
	return (*failed)(nil)
}

// failed is an expert's answer; nil is success.
type failed struct{ err error }

func (f *failed) Wait() error {
	if f == nil {
		return nil
	}
	return f.err
}

// open starts an engine over the parts.
func (p parts) open(t testing.TB, change func(*engine.Options)) *engine.Engine {
	t.Helper()
	o := engine.Options{
		Team: crew(t), Model: p.cfg, Trunk: p.trunk, Block: p.block, Tokenizer: p.text, PrefixReuse: true,
		Limits: config.Limits{MaxQueuedRequests: 100},
		Cache:  model.CacheSpec{Pages: 256},
	}
	if change != nil {
		change(&o)
	}
	return must(engine.New(o))(t)
}

// reply is a whole answer.
type reply struct {
	ids    []int32
	text   string
	finish engine.FinishReason
	probs  [][]uint32 // bits of each token's log-probabilities
	usage  engine.Usage
}

// answer submits a request and reads it to the end.
func answer(t testing.TB, e *engine.Engine, r engine.Request) reply {
	t.Helper()
	s, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Error(err)
		return reply{}
	}
	defer s.Close()
	var out reply
	for {
		tok, err := s.Next(t.Context())
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Error(err)
			}
			out.usage = s.Usage()
			return out
		}
		if tok.HasToken {
			out.ids = append(out.ids, tok.ID)
			out.probs = append(out.probs, bitsOf(tok))
		}
		out.text += tok.Text
		out.finish = tok.Finish
	}
}

func bitsOf(tok engine.Token) []uint32 {
	b := []uint32{math.Float32bits(tok.Logprob)}
	for _, p := range tok.Top {
		b = append(b, uint32(p.ID), math.Float32bits(p.Logprob))
	}
	return b
}

// golden is golden.json of the embedded model.
type golden struct {
	Prompts []struct {
		InputIDs  []int32 `json:"input_ids"`
		GreedyIDs []int32 `json:"greedy_ids"`
		FirstEOS  *int    `json:"greedy_first_eos"`
		Text      string  `json:"greedy_text"`
	} `json:"prompts"`
}

func readGolden(t testing.TB) golden {
	t.Helper()
	var g golden
	coretest.ReadJSON(t, coretest.PimoeTiny(t)+"/golden.json", &g)
	if raced {
		g.Prompts = g.Prompts[2:5]
		for i := range g.Prompts {
			p := &g.Prompts[i]
			p.GreedyIDs, p.Text = p.GreedyIDs[:40], ""
			if p.FirstEOS != nil && *p.FirstEOS >= 40 {
				p.FirstEOS = nil
			}
		}
	}
	return g
}

// The embedded model's golden continuations, one by one and all at once on a cache so small that they take turns.
func TestGolden(t *testing.T) {
	p, g := load(t, coretest.PimoeTiny(t)), readGolden(t)
	e := p.open(t, nil)
	defer e.Close()
	for i, want := range g.Prompts {
		checkGolden(t, e, g, i, false)
		if want.FirstEOS != nil {
			checkGolden(t, e, g, i, true)
		}
	}
	pages := 8 // of 16 tokens: enough for one request, far from enough for all
	if raced {
		pages = 5
	}
	small := p.open(t, func(o *engine.Options) {
		o.Cache.Pages, o.Cache.PageTokens, o.Limits.MaxBatchTokens, o.Chunk = pages, 16, 24, 8
	})
	defer small.Close()
	for range 10 { // on a busy machine they may come one after the other
		var wg sync.WaitGroup
		for i := range g.Prompts {
			wg.Go(func() { checkGolden(t, small, g, i, false) })
			wg.Go(func() { checkGolden(t, small, g, i, true) })
		}
		if wg.Wait(); small.Stats().Preemptions > 0 {
			break
		}
	}
	if s := small.Stats(); s.Preemptions == 0 {
		t.Errorf("nobody was preempted: %+v", s)
	}
}

// checkGolden asks for one golden continuation, with or without stopping at the end of text.
func checkGolden(t *testing.T, e *engine.Engine, g golden, i int, stop bool) {
	t.Helper()
	want := g.Prompts[i]
	a := answer(t, e, engine.Request{ID: fmt.Sprint(i), Prompt: want.InputIDs, MaxTokens: len(want.GreedyIDs), IgnoreEOS: !stop, Logprobs: -1})
	ids, finish := want.GreedyIDs, engine.FinishLength
	if stop && want.FirstEOS != nil {
		ids, finish = ids[:*want.FirstEOS], engine.FinishStop
	}
	if !slices.Equal(a.ids, ids) || a.finish != finish {
		t.Errorf("prompt %d: ids %v (%s)\nwant %v (%s)", i, a.ids, a.finish, ids, finish)
	}
	if (stop || want.FirstEOS == nil) && want.Text != "" && a.text != want.Text {
		t.Errorf("prompt %d: text %q, want %q", i, a.text, want.Text)
	}
}

// seen is all that an observer saw of a request, as bits.
type seen struct {
	Logits [][]uint32
	Routes map[[2]int][]uint32
	Hops   map[[2]int][]uint32
	States [][]uint32
}

// watch is an observer that keeps everything.
func watch() (*engine.Observer, *seen) {
	s := &seen{Routes: map[[2]int][]uint32{}, Hops: map[[2]int][]uint32{}}
	return &engine.Observer{
		Logits: func(_ int, row []float32) {
			b := make([]uint32, len(row))
			for i, v := range row {
				b[i] = math.Float32bits(v)
			}
			s.Logits = append(s.Logits, b)
		},
		Route: func(layer, at int, ids []int32, w []float32) {
			var b []uint32
			for i, id := range ids {
				b = append(b, uint32(id), math.Float32bits(w[i]))
			}
			s.Routes[[2]int{layer, at}] = b
		},
		Hop: func(at int, h *moe.Hop) {
			var b []uint32
			for _, e := range h.Experts {
				b = append(b, uint32(e.Expert), math.Float32bits(e.Weight))
			}
			s.Hops[[2]int{h.Layer, at}] = b
		},
		State: func(_ int, state []float32) {
			b := make([]uint32, len(state))
			for i, v := range state {
				b[i] = math.Float32bits(v)
			}
			s.States = append(s.States, b)
		},
	}, s
}

// A request's logits and routes are the same to the bit alone, among 31 others, in small chunks, on a cache too small
// for all, and with one thread; and the probabilities of its tokens also when its prompt comes from the prefix cache.
func TestBitInvariance(t *testing.T) {
	folders := []string{coretest.Golden(t, "models", "qwen3_moe")} // F32 weights
	if !raced {
		folders = append(folders, coretest.PimoeTiny(t)) // BF16 weights
	}
	for _, dir := range folders {
		p, g := load(t, dir), readGolden(t)
		for _, prompt := range g.Prompts {
			for i := range prompt.InputIDs {
				prompt.InputIDs[i] %= int32(p.cfg.Vocab)
			}
		}
		for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16} {
			t.Run(filepath.Base(dir)+"/"+dtype.String(), func(t *testing.T) { bitInvariance(t, p, g, dtype) })
		}
	}
}

func bitInvariance(t *testing.T, p parts, g golden, dtype tensor.DType) {
	request := engine.Request{ID: "r", Prompt: slices.Concat(g.Prompts[0].InputIDs, g.Prompts[1].InputIDs), MaxTokens: 12, IgnoreEOS: true, Logprobs: 8}
	var wantSeen *seen
	var want reply
	for _, test := range []struct {
		name   string
		others int
		change func(*engine.Options)
	}{
		{"alone", 0, func(*engine.Options) {}},
		{"with 31 others", 31, func(*engine.Options) {}},
		{"in chunks", 0, func(o *engine.Options) { o.Limits.MaxBatchTokens = 7 }},
		{"with one thread", 3, func(o *engine.Options) { o.Team = team.Team{} }},
		{"on a small cache", 15, func(o *engine.Options) {
			o.Cache.PageTokens, o.Cache.Pages, o.Limits.MaxBatchTokens, o.Chunk = 16, 10, 40, 11
		}},
	} {
		e := p.open(t, func(o *engine.Options) { o.Cache.DType = dtype; test.change(o) })
		r := request
		var got *seen
		r.Observe, got = watch()
		a := crowd(t, e, g, test.others, r)
		repeat := crowd(t, e, g, test.others, request) // not observed: reuses pages
		crowd(t, e, g, 0, request)
		again := crowd(t, e, g, 0, request) // nobody can have taken its pages meanwhile
		e.Close()
		if wantSeen == nil {
			wantSeen, want = got, a
		}
		if diff := cmp.Diff(wantSeen, got); diff != "" {
			t.Errorf("%s: logits or routes differ: %.500s", test.name, diff)
		}
		for name, r := range map[string]reply{"observed": a, "beside others": repeat, "reused": again} {
			if diff := cmp.Diff([]any{want.ids, want.text, want.probs}, []any{r.ids, r.text, r.probs}); diff != "" {
				t.Errorf("%s, %s: %.500s", test.name, name, diff)
			}
		}
		if again.usage.CachedTokens == 0 {
			t.Errorf("%s: the repeat reused nothing", test.name)
		}
	}
	if n := len(request.Prompt) + request.MaxTokens - 1; len(wantSeen.Logits) != n || len(wantSeen.Routes) != n*p.cfg.Layers {
		t.Errorf("%d rows of logits and %d routes, want %d and %d", len(wantSeen.Logits), len(wantSeen.Routes), n, n*p.cfg.Layers)
	} else if len(wantSeen.States) != n || len(wantSeen.Hops) != n*p.cfg.Layers {
		t.Errorf("%d states and %d hops, want %d and %d", len(wantSeen.States), len(wantSeen.Hops), n, n*p.cfg.Layers)
	}
}

// An observer that sees no position before the prompt's last leaves the prefix cache in use, and is told how long each of
// its tokens took.
func TestObserverOfTheContinuation(t *testing.T) {
	p := load(t, coretest.Golden(t, "models", "qwen3_moe"))
	e := p.open(t, func(o *engine.Options) { o.PrefixReuse = true })
	defer e.Close()
	prompt := make([]int32, 40)
	for i := range prompt {
		prompt[i] = int32(i * 7 % p.cfg.Vocab)
	}
	r := engine.Request{Prompt: prompt, MaxTokens: 5, IgnoreEOS: true, Logprobs: -1}
	want := answer(t, e, r)
	seen := map[[2]int]int{}
	steps := 0
	r.Observe = &engine.Observer{
		From: len(prompt) - 1, Hop: func(at int, h *moe.Hop) { seen[[2]int{at, h.Layer}]++ },
		Step: func(at int, queue, took time.Duration) {
			if at != len(prompt)-1+steps || took <= 0 || queue < 0 {
				t.Errorf("step %d of position %d took %s after %s", steps, at, took, queue)
			}
			steps++
		},
	}
	s := must(e.Submit(t.Context(), r))(t)
	defer s.Close()
	var ids []int32
	for {
		tok, err := s.Next(t.Context())
		if err != nil {
			break
		}
		ids = append(ids, tok.ID)
	}
	if !slices.Equal(ids, want.ids) || s.Usage().CachedTokens == 0 || steps != 5 {
		t.Errorf("observed %v with %d tokens of the cache in %d steps, alone %v", ids, s.Usage().CachedTokens, steps, want.ids)
	}
	positions := map[[2]int]int{}
	for at := len(prompt) - 1; at < len(prompt)+4; at++ {
		for _, l := range p.cfg.SparseLayers() {
			positions[[2]int{at, l}] = 1
		}
	}
	if d := cmp.Diff(positions, seen); d != "" {
		t.Errorf("positions and layers: %s", d)
	}
}

// crowd runs a request among others and returns its answer.
func crowd(t *testing.T, e *engine.Engine, g golden, others int, r engine.Request) reply {
	t.Helper()
	var wg sync.WaitGroup
	for i := range others {
		other := g.Prompts[(i+2)%len(g.Prompts)]
		wg.Go(func() {
			answer(t, e, engine.Request{ID: fmt.Sprint(i), Prompt: other.InputIDs, MaxTokens: 4 + i%9, IgnoreEOS: true, Logprobs: -1})
		})
	}
	a := answer(t, e, r)
	wg.Wait()
	return a
}

// Hidden states go through the layers' experts between steps and do not disturb streams.
func TestHiddenStates(t *testing.T) {
	p, g := load(t, coretest.PimoeTiny(t)), readGolden(t)
	e := p.open(t, nil)
	defer e.Close()
	x := tensor.NewMatrix(5, p.cfg.Hidden)
	for i := range x.Data {
		x.Data[i] = float32(i%17)/17 - 0.5
	}
	want, err := p.trunk.Hidden(t.Context(), 0, x, p.block, team.Team{}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { checkGolden(t, e, g, 0, false) })
	for range 3 {
		y, routes, _, err := e.Hidden(t.Context(), -1, x, false, moe.AcceptExact)
		if err != nil || !slices.Equal(y.Data, want.Data) || len(routes) != 5 || len(routes[0].IDs) != p.cfg.TopK {
			t.Fatalf("hidden states differ: %d routes, %v", len(routes), err)
		}
	}
	_, routes, _, err := e.Hidden(t.Context(), -1, x, true, moe.AcceptExact)
	if err != nil || len(routes) != 5*len(p.cfg.SparseLayers()) {
		t.Errorf("all layers: %d routes, %v", len(routes), err)
	}
	wg.Wait()
}

// BenchmarkDecode decodes with several streams of the embedded model at once.
func BenchmarkDecode(b *testing.B) {
	p, g := load(b, coretest.PimoeTiny(b)), readGolden(b)
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := p.open(b, nil)
			defer e.Close()
			for b.Loop() {
				var wg sync.WaitGroup
				for i := range n {
					wg.Go(func() {
						answer(b, e, engine.Request{Prompt: g.Prompts[i].InputIDs, MaxTokens: 32, IgnoreEOS: true, Logprobs: -1})
					})
				}
				wg.Wait()
			}
			b.ReportMetric(float64(32*n*b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// crew is two threads that end with the test.
func crew(t testing.TB) team.Team {
	p := team.NewPool(2, team.Options{})
	t.Cleanup(p.Close)
	return p.Team()
}
