package model

import (
	"context"
	"fmt"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Span is a run of consecutive tokens of one sequence: a chunk of its prompt, or the one token of a decode step.
type Span struct {
	Pages     []int32 // page ids of the sequence, in order, covering Start+len(Tokens) tokens
	Start     int     // position of Tokens[0]; keys and values of the positions before it are in the cache
	Tokens    []int32
	Logits    bool // of the last token
	AllLogits bool // of every token
	// Route, if not nil, is called for each token in each layer with experts. It is lent the slices.
	Route func(layer, position int, ids []int32, weights []float32)
}

// wants is how many rows of logits the span asks for.
func (s *Span) wants() int {
	switch {
	case s.AllLogits:
		return len(s.Tokens)
	case s.Logits:
		return 1
	}
	return 0
}

// Forward computes all spans in one batch: it writes their keys and values into the cache and gives each span the
// logits it asks for, as 0, 1 or len(Tokens) rows that are valid until the next call. A row's bits depend on its own
// sequence alone. Two spans may share pages that both only read.
//
// A done ctx is noticed before each layer. After an error the pages that the spans write are unspecified, and nothing
// else is.
func (t *Trunk) Forward(ctx context.Context, cache *Cache, spans []Span, block moe.Block, tm team.Team) ([]tensor.Matrix, error) {
	if err := t.checkSpans(cache, spans); err != nil {
		return nil, err
	}
	b := t.begin(cache, spans, tm)
	for l := range t.layers {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("before layer %d: %w", l, err)
		}
		b.attend(l)
		if err := b.feed(ctx, l, block); err != nil {
			return nil, err
		}
	}
	return b.finish(), nil
}

func (t *Trunk) checkSpans(cache *Cache, spans []Span) error {
	c := t.cfg
	if cache == nil || cache.kvHeads != c.KVHeads || cache.headDim != c.HeadDim || len(cache.layers) != c.Layers {
		return fmt.Errorf("forward: the cache was made for another model: %w", sdk.ErrInvalid)
	}
	for i := range spans {
		s := &spans[i]
		end := s.Start + len(s.Tokens)
		switch {
		case len(s.Tokens) == 0:
			return fmt.Errorf("forward: span %d has no tokens: %w", i, sdk.ErrInvalid)
		case s.Start < 0 || end > c.MaxPositions:
			return fmt.Errorf("forward: span %d is positions %d to %d of %d: %w", i, s.Start, end, c.MaxPositions, sdk.ErrInvalid)
		case len(s.Pages)*cache.spec.PageTokens < end:
			return fmt.Errorf("forward: span %d has %d pages for %d tokens: %w", i, len(s.Pages), end, sdk.ErrInvalid)
		}
		for _, p := range s.Pages[:(end+cache.spec.PageTokens-1)/cache.spec.PageTokens] {
			if p < 0 || int(p) >= cache.spec.Pages {
				return fmt.Errorf("forward: span %d names page %d of %d: %w", i, p, cache.spec.Pages, sdk.ErrInvalid)
			}
		}
		for _, id := range s.Tokens {
			if id < 0 || int(id) >= c.Vocab {
				return fmt.Errorf("forward: token id %d is not in a vocabulary of %d: %w", id, c.Vocab, sdk.ErrInvalid)
			}
		}
	}
	return nil
}

// batch is one Forward under way: the rows of all spans one after another.
type batch struct {
	t       *Trunk
	cache   *Cache
	spans   []Span
	team    team.Team
	x       tensor.Matrix // residual stream
	h       tensor.Matrix // normalised input of the current block
	y       tensor.Matrix // output of the current block
	rows    []rowOf
	cos     tensor.Matrix
	sin     tensor.Matrix
	observe func(layer, row, k int, ids []int32, weights []float32)
}

// begin lays out the rows and looks up their embeddings and rotary angles.
func (t *Trunk) begin(cache *Cache, spans []Span, tm team.Team) *batch {
	c, s := t.cfg, &t.scratch
	b := &batch{t: t, cache: cache, spans: spans, team: tm}
	s.rows, s.tokens, s.positions = s.rows[:0], s.tokens[:0], s.positions[:0]
	for i := range spans {
		if spans[i].Route != nil {
			b.observe = b.route
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
	for r := range n {
		x := b.x.Row(r)
		toFloats(x, t.embed, int(s.tokens[r])*c.Hidden)
		if c.embedScale != 1 {
			for i := range x {
				x[i] *= c.embedScale
			}
		}
		c.rope.tables(b.rows[r].position, b.cos.Row(r), b.sin.Row(r))
	}
	b.plan()
	return b
}

// route passes a row's route on to its span.
func (b *batch) route(layer, row, k int, ids []int32, weights []float32) {
	at := b.rows[row]
	if f := b.spans[at.span].Route; f != nil {
		f(layer, at.position, ids, weights)
	}
}

// normalise fills h with the norm of the residual stream.
func (b *batch) normalise(w []float32) {
	parallel(b.team, b.x.Rows, 2*b.x.Rows*b.x.Cols, func(_, r int) {
		rmsNorm(b.h.Row(r), b.x.Row(r), w, b.t.cfg.eps)
	})
}

// add adds the current block's output to the residual stream.
func (b *batch) add() {
	scale := b.t.cfg.residual
	parallel(b.team, b.x.Rows, b.x.Rows*b.x.Cols, func(_, r int) {
		x := b.x.Row(r)
		y := b.y.Row(r)[:len(x)]
		if scale != 1 {
			addScaled(x, y, scale)
			return
		}
		for i, v := range y {
			x[i] += v
		}
	})
}

// feed is the second half of a layer: norm, FFN or experts, residual.
func (b *batch) feed(ctx context.Context, l int, block moe.Block) error {
	layer := &b.t.layers[l]
	b.normalise(layer.ffnNorm)
	if layer.dense != nil {
		b.t.ffn(layer.dense, b.h, b.y, b.team)
	} else {
		s := &b.t.scratch
		in := moe.Input{Layer: l, X: b.h, Tokens: s.tokens, Positions: s.positions, Observe: b.observe}
		if err := b.t.sparse(ctx, l, in, block, b.y, b.team); err != nil {
			return err
		}
	}
	b.add()
	return nil
}

// finish computes the logits that were asked for.
func (b *batch) finish() []tensor.Matrix {
	c, s := b.t.cfg, &b.t.scratch
	s.logits = s.logits[:0]
	n := 0
	for i := range b.spans {
		n += b.spans[i].wants()
	}
	last, logits := s.last.matrix(n, c.Hidden), s.headLogits.matrix(n, c.Vocab)
	row, at := 0, 0
	for i := range b.spans {
		want := b.spans[i].wants()
		row += len(b.spans[i].Tokens)
		for j := range want {
			rmsNorm(last.Row(at+j), b.x.Row(row-want+j), b.t.norm, c.eps)
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
