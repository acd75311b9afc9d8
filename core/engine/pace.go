package engine

import (
	"context"
	"time"
)

// pace chooses how many prompt tokens go beside decoding rows, so that a step takes about as long as a stream may be
// silent. It learns from the steps' times. What it answers never shows in a result, only in when it comes.
type pace struct {
	fixed int           // the answer, if it was configured
	row   time.Duration // of a step with prompts, per row; 0 = none measured yet
}

const (
	// stepTime is how long a step with prompts and streams should take: one that is twice as slow still leaves a reader
	// less than a tenth of a second without a token, and enough rows fit into it to make the weights' way from memory cheap.
	stepTime = 50 * time.Millisecond
	// leastChunk keeps a slow machine reading prompts: fewer rows cost nearly as much as these.
	leastChunk = 32
	// firstChunk is what is tried before anything was measured.
	firstChunk = 128
	// chunkGrain is what chunks are multiples of, for kernels that work in blocks of rows.
	chunkGrain = 16
)

// chunk is the most prompt tokens in a step with so many decoding rows.
func (p *pace) chunk(rows int) int {
	switch {
	case p.fixed > 0:
		return p.fixed
	case p.row == 0:
		return firstChunk
	}
	return max((int(stepTime/p.row)-rows)/chunkGrain*chunkGrain, leastChunk)
}

// took notes a step with prompts: so many rows in all, in so much time. Slow steps count more than fast ones, because a
// chunk that is too long is heard and one that is too short is not.
func (p *pace) took(rows int, d time.Duration) {
	row := max(d/time.Duration(rows), 1)
	switch {
	case p.row == 0:
		p.row = row
	case row > p.row:
		p.row += (row - p.row) / 2
	default:
		p.row -= (p.row - row) / 8
	}
}

// patience is the context of steps: one of package context that is used again as long as its deadline suits.
type patience struct {
	ctx      context.Context // nil = none
	cancel   context.CancelFunc
	deadline time.Time
}

// get gives a context whose deadline is in [from, to]: to, if a new one is needed.
func (p *patience) get(from, to, now time.Time) (context.Context, time.Time) {
	if p.ctx == nil || p.ctx.Err() != nil || p.deadline.Before(from) || p.deadline.After(to) {
		p.drop()
		p.ctx, p.cancel = context.WithTimeout(context.Background(), to.Sub(now))
		p.deadline = to
	}
	return p.ctx, p.deadline
}

// drop ends the context.
func (p *patience) drop() {
	if p.ctx != nil {
		p.cancel()
		p.ctx = nil
	}
}
