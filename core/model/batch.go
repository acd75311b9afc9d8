package model

import (
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// batch is one Forward under way: the rows of all spans one after another. Its tasks are the batch itself under other
// types, so that handing one to the team allocates nothing.
type batch struct {
	t     *Trunk
	cache *Cache
	spans []Span
	block moe.Block
	team  team.Team

	rows      []rowOf
	attention int           // keys that all rows see, about
	x         tensor.Matrix // residual stream
	h         tensor.Matrix // normalised input of the current block
	y         tensor.Matrix // output of the current block
	cos, sin  tensor.Matrix
	observe   func(layer, row, k int, ids []int32, weights []float32)
	judge     moe.Judge  // nil unless every span has a Lost
	trace     moe.Tracer // nil unless a span has a Trace

	l            int // the layer under way
	layer        *layer
	q, k, v, out tensor.Matrix
	norm         []float32 // weights of the norm that comes next
	grain        int       // rows of a piece
}

// begin lays out the rows and looks up their embeddings and rotary angles.
func (t *Trunk) begin(cache *Cache, spans []Span, block moe.Block, tm team.Team) *batch {
	c, s, b := t.cfg, &t.scratch, &t.batch
	*b = batch{t: t, cache: cache, spans: spans, block: block, team: tm}
	s.rows, s.tokens, s.positions = s.rows[:0], s.tokens[:0], s.positions[:0]
	b.judge = (*judging)(b)
	for i := range spans {
		if spans[i].Lost == nil {
			b.judge = nil
		}
		if spans[i].Route != nil && b.observe == nil {
			b.observe = b.route
		}
		if spans[i].Trace != nil {
			b.trace = (*tracing)(b)
		}
		for j, id := range spans[i].Tokens {
			s.rows = append(s.rows, rowOf{i, spans[i].Start + j})
			s.tokens = append(s.tokens, id)
			s.positions = append(s.positions, int32(spans[i].Start+j))
		}
	}
	n := len(s.rows)
	b.rows = s.rows
	b.x, b.h, b.y = s.x.matrix(n, c.Hidden), s.h.matrix(n, c.Hidden), s.y.matrix(n, c.Hidden)
	b.cos, b.sin = s.cos.matrix(n, c.HeadDim/2), s.sin.matrix(n, c.HeadDim/2)
	b.plan()
	b.norm = t.layers[0].attnNorm
	b.share(n, 2*c.Hidden+angleWork*c.HeadDim, (*embedding)(b))
	return b
}

// route passes a row's route on to its span.
func (b *batch) route(layer, row, k int, ids []int32, weights []float32) {
	at := b.rows[row]
	if f := b.spans[at.span].Route; f != nil && at.position >= b.spans[at.span].From {
		f(layer, at.position, ids, weights)
	}
}

// tracing is the batch as the tracer of its rows: each span hears of its own.
type tracing batch

// Traces implements moe.Tracer.
func (b *tracing) Traces(row int) bool {
	at := b.rows[row]
	s := &b.spans[at.span]
	return s.Trace != nil && at.position >= s.From
}

// Hop implements moe.Tracer.
func (b *tracing) Hop(row int, h *moe.Hop) {
	at := b.rows[row]
	b.spans[at.span].Trace(at.position, h)
}

// judging is the batch as the judge of its rows.
type judging batch

// Accept implements moe.Judge.
func (b *judging) Accept(row int) moe.Accept { return b.spans[b.rows[row].span].Accept }

// Lost implements moe.Judge.
func (b *judging) Lost(row int, o moe.Outcome) {
	at := b.rows[row]
	b.spans[at.span].Lost(b.l, at.position, o)
}

const (
	// smallWork is how many vector operations on single values pay for a team: some 10 us on one core, of which two
	// save half, when bringing them together costs 1 to 5.
	smallWork = 1 << 17
	// angleWork is how a sine compares with them.
	angleWork = 128
	// pieceRows are the most rows that a thread claims at once: a block of keys, which so has one writer.
	pieceRows = PageUnit
)

// do runs a task on the team, or on the caller alone if it is about less than smallWork.
func (b *batch) do(pieces, work int, task team.Task) {
	if work < smallWork {
		for i := range pieces {
			task.Run(0, i)
		}
		return
	}
	b.team.Do(pieces, task)
}

// share runs a task over rows, each of which is so much work.
func (b *batch) share(rows, work int, task team.Task) {
	b.grain = min(pieceRows, max(1, rows/(4*b.team.Threads())))
	b.do((rows+b.grain-1)/b.grain, rows*work, task)
}

// piece is the rows of a piece of a task that share runs.
func (b *batch) piece(i int) (from, to int) { return i * b.grain, min((i+1)*b.grain, len(b.rows)) }

// embedding is the task of looking up rows, with their angles, and of the first norm.
type embedding batch

func (b *embedding) Run(_, piece int) {
	c := b.t.cfg
	from, to := (*batch)(b).piece(piece)
	for r := from; r < to; r++ {
		x := b.x.Row(r)
		toFloats(x, b.t.embed, int(b.t.scratch.tokens[r])*c.Hidden)
		if c.embedScale != 1 {
			vec.Scale(x, x, c.embedScale)
		}
		c.rope.tables(b.rows[r].position, b.cos.Row(r), b.sin.Row(r))
		vec.RMSNorm(b.h.Row(r), x, b.norm, c.eps)
	}
}

// add adds the current block's output to the residual stream, and fills h with its norm if there is one to come.
func (b *batch) add(norm []float32) {
	b.norm = norm
	b.share(b.x.Rows, 4*b.x.Cols, (*adding)(b))
}

type adding batch

func (b *adding) Run(_, piece int) {
	c := b.t.cfg
	from, to := (*batch)(b).piece(piece)
	for r := from; r < to; r++ {
		x, y := b.x.Row(r), b.y.Row(r)
		if c.residual != 1 {
			vec.AddScaled(x, y, c.residual)
		} else {
			vec.Add(x, y)
		}
		if b.norm != nil {
			vec.RMSNorm(b.h.Row(r), x, b.norm, c.eps)
		}
	}
}

// states shows the spans that want it what the head gets of their tokens.
func (b *batch) states() {
	row := 0
	for i := range b.spans {
		s := &b.spans[i]
		if kept := s.keeps(); s.State != nil {
			y := b.t.scratch.last.matrix(1, b.t.cfg.Hidden).Row(0)
			for j := kept - s.shown(); j < kept; j++ {
				vec.RMSNorm(y, b.x.Row(row+j), b.t.norm, b.t.cfg.eps)
				s.State(b.rows[row+j].position, y)
			}
		}
		row += s.keeps()
	}
}

// finish computes the logits that were asked for.
func (b *batch) finish() []tensor.Matrix {
	c, s := b.t.cfg, &b.t.scratch
	s.logits = s.logits[:0]
	n := 0
	for i := range b.spans {
		n += b.spans[i].wants()
	}
	b.states()
	last, logits := s.last.matrix(n, c.Hidden), s.headLogits.matrix(n, c.Vocab)
	row, at := 0, 0
	for i := range b.spans {
		want := b.spans[i].wants()
		row += b.spans[i].keeps()
		for j := range want {
			vec.RMSNorm(last.Row(at+j), b.x.Row(row-want+j), b.t.norm, c.eps)
		}
		s.logits = append(s.logits, logits.Slice(at, at+want))
		at += want
	}
	if n == 0 {
		return s.logits
	}
	b.t.head.Apply(logits, last, b.team)
	if c.logits != 1 {
		for i := range logits.Data {
			logits.Data[i] /= c.logits
		}
	}
	return s.logits
}
