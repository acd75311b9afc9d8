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
	// Trace, if not nil, is called for each token in each layer with experts, when the layer is done. h is lent.
	Trace func(position int, h *moe.Hop)
	// State, if not nil, is called for each token with what the head gets: the last layer's output after the last norm. It is
	// lent the slice.
	State func(position int, state []float32)
	// From is the first position that Route, Trace and State are called for.
	From int

	// Lost, if not nil, is told of each token in each layer whose experts did not all answer, and Accept is what the span
	// takes then (moe.Judge). A token without an answer leaves the span's pages and logits unspecified, and no other span's.
	// If one span of a batch has no Lost, all wait for their experts.
	Lost   func(layer, position int, o moe.Outcome)
	Accept moe.Accept
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

// keeps is how many rows, the last ones, go all the way through the last layer.
func (s *Span) keeps() int {
	if s.Route != nil || s.Trace != nil || s.State != nil {
		return max(s.wants(), s.shown())
	}
	return s.wants()
}

// shown is how many of the tokens, the last ones, are at or behind From.
func (s *Span) shown() int { return min(max(s.Start+len(s.Tokens)-s.From, 0), len(s.Tokens)) }

// Forward computes all spans in one batch: it writes their keys and values into the cache and gives each span the
// logits it asks for, as 0, 1 or len(Tokens) rows that are valid until the next call. A row's bits depend on its own
// sequence alone. Two spans may share pages that both only read.
//
// In the last layer only rows whose logits or routes are asked for go beyond their keys and values.
//
// A done ctx is noticed before each layer. After an error the pages that the spans write are unspecified, and nothing
// else is.
func (t *Trunk) Forward(ctx context.Context, cache *Cache, spans []Span, block moe.Block, tm team.Team) ([]tensor.Matrix, error) {
	if err := t.checkSpans(cache, spans); err != nil {
		return nil, err
	}
	if len(spans) == 0 {
		return nil, nil
	}
	b := t.begin(cache, spans, block, tm)
	defer b.end()
	for b.l = range t.layers {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("before layer %d: %w", b.l, err)
		}
		if err := b.compute(ctx); err != nil {
			return nil, err
		}
	}
	return b.finish(), nil
}

// compute is one layer.
func (b *batch) compute(ctx context.Context) error {
	b.layer = &b.t.layers[b.l]
	b.attend()
	if b.x.Rows == 0 {
		return nil
	}
	b.add(b.layer.ffnNorm)
	if err := b.feed(ctx); err != nil {
		return err
	}
	var next []float32 // the last norm is of the rows alone that want logits
	if b.l+1 < len(b.t.layers) {
		next = b.t.layers[b.l+1].attnNorm
	}
	b.add(next)
	return nil
}

// feed is a layer's FFN or its experts.
func (b *batch) feed(ctx context.Context) error {
	if b.layer.dense != nil {
		b.layer.dense.Apply(b.y, b.h, b.team)
		return nil
	}
	s := &b.t.scratch
	in := moe.Input{Layer: b.l, X: b.h, Tokens: s.tokens, Positions: s.positions, Observe: b.observe, Judge: b.judge, Trace: b.trace}
	return b.t.sparse(ctx, in, b.block, b.y, b.team)
}

// end lets go of what was only lent.
func (b *batch) end() { *b = batch{} }

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
