package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/sampler"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const fakeVocab = 48

// fake is a model that works: the logits of a row are a function of all tokens before it, read through the pages of
// its cache, so that any mistake in the engine's book-keeping of pages changes the text. It also notes every use of
// its cache that a real one could not survive.
type fake struct {
	pageTokens int
	cells      [][]cell
	before     func(ctx context.Context, spans []model.Span) error // may block or fail; nil = neither

	calls  atomic.Int64
	rows   atomic.Int64
	inside atomic.Bool

	mu       sync.Mutex
	faults   []string
	released int
	steps    [][]int // tokens of each span of each step
}

// cell is one token's place in the cache.
type cell struct {
	token    int32
	position int32
}

func newFake(pages, pageTokens int) *fake {
	f := &fake{pageTokens: pageTokens}
	for range pages {
		f.cells = append(f.cells, make([]cell, pageTokens))
	}
	return f
}

func (f *fake) fault(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, fmt.Sprintf(format, args...))
}

func (f *fake) Forward(ctx context.Context, spans []model.Span) ([]tensor.Matrix, error) {
	if !f.inside.CompareAndSwap(false, true) {
		f.fault("two calls of Forward at once")
	}
	defer f.inside.Store(false)
	f.calls.Add(1)
	if f.before != nil {
		if err := f.before(ctx, spans); err != nil {
			return nil, err
		}
	}
	f.checkPages(spans)
	var sizes []int
	for _, s := range spans {
		sizes = append(sizes, len(s.Tokens))
		f.rows.Add(int64(len(s.Tokens)))
		for i, t := range s.Tokens {
			p := s.Start + i
			f.cells[s.Pages[p/f.pageTokens]][p%f.pageTokens] = cell{t, int32(p)}
		}
	}
	f.mu.Lock()
	f.steps = append(f.steps, sizes)
	f.mu.Unlock()
	out := make([]tensor.Matrix, len(spans))
	for i, s := range spans {
		out[i] = f.span(s)
	}
	return out, nil
}

// checkPages finds pages that one span writes and another uses.
func (f *fake) checkPages(spans []model.Span) {
	writer := map[int32]int{}
	for i, s := range spans {
		end := s.Start + len(s.Tokens)
		if len(s.Tokens) == 0 || len(s.Pages)*f.pageTokens < end {
			f.fault("%d pages for tokens %d to %d", len(s.Pages), s.Start, end)
		}
		for p := s.Start / f.pageTokens; p <= (end-1)/f.pageTokens; p++ {
			if other, taken := writer[s.Pages[p]]; taken {
				f.fault("spans %d and %d write page %d", other, i, s.Pages[p])
			}
			writer[s.Pages[p]] = i
		}
	}
	for i, s := range spans {
		for p, id := range s.Pages {
			if w, ok := writer[id]; ok && w != i {
				f.fault("span %d reads page %d (its %d.) that span %d writes", i, id, p, w)
			}
		}
	}
}

func (f *fake) span(s model.Span) tensor.Matrix {
	state := uint64(0)
	rows := tensor.Matrix{}
	switch {
	case s.AllLogits:
		rows = tensor.NewMatrix(len(s.Tokens), fakeVocab)
	case s.Logits:
		rows = tensor.NewMatrix(1, fakeVocab)
	}
	for p := range s.Start + len(s.Tokens) {
		c := f.cells[s.Pages[p/f.pageTokens]][p%f.pageTokens]
		state = fold(state, c)
		if p < s.Start {
			continue
		}
		if s.Route != nil {
			s.Route(0, p, []int32{int32(state % 8)}, []float32{1})
		}
		switch r := p - s.Start; {
		case s.AllLogits:
			fakeLogits(state, rows.Row(r))
		case s.Logits && r == len(s.Tokens)-1:
			fakeLogits(state, rows.Row(0))
		}
	}
	return rows
}

func (f *fake) Hidden(ctx context.Context, layer int, x tensor.Matrix, route func(int, []int32, []float32), _ moe.Judge) (tensor.Matrix, error) {
	if !f.inside.CompareAndSwap(false, true) {
		f.fault("Hidden beside Forward")
	}
	defer f.inside.Store(false)
	if f.before != nil {
		if err := f.before(ctx, nil); err != nil {
			return tensor.Matrix{}, err
		}
	}
	y := tensor.NewMatrix(x.Rows, x.Cols)
	for r := range x.Rows {
		for c, v := range x.Row(r) {
			y.Row(r)[c] = v*10 + float32(layer)
		}
		route(r, []int32{int32(layer)}, []float32{1})
	}
	return y, nil
}

func (f *fake) Layers() []int   { return []int{1, 3} }
func (f *fake) Team() team.Team { return team.Team{} }

// Release spoils the pages, which nobody may read before they are written again.
func (f *fake) Release(pages []int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range pages {
		f.released++
		clear(f.cells[p])
	}
}

func (f *fake) Close() error { return nil }

// fold takes a cell into the state of a row.
func fold(state uint64, c cell) uint64 {
	state ^= uint64(uint32(c.token))<<32 | uint64(uint32(c.position))
	state *= 0x9e3779b97f4a7c15
	return state ^ state>>29
}

func fakeLogits(state uint64, row []float32) {
	for i := range row {
		v := fold(state, cell{int32(i), -1})
		row[i] = float32(v%100_000) / 10_000
	}
}

// oracle continues a prompt greedily without any cache.
func oracle(prompt []int32, n int) []int32 { return sampled(prompt, n, sampler.Params{}) }

// sampled is oracle with sampling.
func sampled(prompt []int32, n int, p sampler.Params) []int32 {
	state := uint64(0)
	for p, t := range prompt {
		state = fold(state, cell{t, int32(p)})
	}
	var out []int32
	row := make([]float32, fakeVocab)
	choose := sampler.New(p, prompt)
	for len(out) < n {
		fakeLogits(state, row)
		id := choose.Next(row)
		out = append(out, id)
		state = fold(state, cell{id, int32(len(prompt) + len(out) - 1)})
	}
	return out
}

// syllables is a decoder whose tokens are one to three bytes; every seventh id is half of a character that the next
// token completes.
type syllables struct{ half bool }

func (d *syllables) Push(id int32) string {
	out := ""
	if d.half {
		out, d.half = "é", false
	}
	if id%7 == 6 {
		d.half = true
		return out
	}
	return out + "abc"[:1+id%3]
}

func (d *syllables) Flush() string {
	if d.half {
		d.half = false
		return "�"
	}
	return ""
}

// spell is the text of ids.
func spell(ids []int32) string {
	d := &syllables{}
	s := ""
	for _, id := range ids {
		s += d.Push(id)
	}
	return s + d.Flush()
}

// testSetup is a small engine over a fake model.
func testSetup(f *fake) setup {
	s := setup{
		trunk: f, decoder: func() decoder { return &syllables{} }, vocab: fakeVocab, context: 256,
		pages: len(f.cells), pageTokens: f.pageTokens, reuse: true,
		limits: config.Limits{MaxBatchSize: 8, MaxBatchTokens: 32, MaxConcurrentRequests: 16, MaxQueuedRequests: 1000, RequestTimeout: time.Minute},
	}
	s.fill()
	return s
}

// launchTest starts an engine and, at the end of the test, closes it and reports the fake's faults.
func launchTest(t testing.TB, f *fake, s setup) *Engine {
	t.Helper()
	e := start(s)
	t.Cleanup(func() { stopTest(t, e, f) })
	return e
}

// stopTest closes an engine and checks that nothing is left.
func stopTest(t testing.TB, e *Engine, f *fake) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fault := range f.faults {
		if i < 10 {
			t.Error("fake model:", fault)
		}
	}
	if s := e.Stats(); s.Running != 0 || s.Queued != 0 || s.FreePages != s.Pages {
		t.Errorf("after Close: %+v", s)
	}
}

// answer is all that came out of a stream.
type answer struct {
	ids    []int32
	text   string
	finish FinishReason
	tokens []Token
	usage  Usage
	err    error // nil after a regular end
}

// read drains a stream.
func read(ctx context.Context, s Stream) answer {
	var a answer
	for {
		t, err := s.Next(ctx)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				a.err = err
			}
			a.usage = s.Usage()
			return a
		}
		a.tokens = append(a.tokens, t)
		if t.HasToken {
			a.ids = append(a.ids, t.ID)
		}
		a.text += t.Text
		a.finish = t.Finish
	}
}

// ask submits a request and reads its whole answer.
func ask(t testing.TB, e *Engine, r Request) answer {
	t.Helper()
	s, err := e.Submit(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return read(t.Context(), s)
}

// prompt makes a prompt of n tokens that seed decides.
func prompt(seed string, n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		h := fnv.New64a()
		fmt.Fprintf(h, "%s/%d", seed, i)
		out[i] = int32(h.Sum64() % fakeVocab)
	}
	return out
}

// plain is a greedy request that only MaxTokens ends.
func plain(id string, p []int32, n int) Request {
	return Request{ID: id, Prompt: p, MaxTokens: n, IgnoreEOS: true, Logprobs: -1, Sampling: sampler.Params{}}
}

// looped is a setup as start gives it to the loop.
func looped(s setup) setup {
	s.live = newLiveLimits(s.limits)
	return s
}
