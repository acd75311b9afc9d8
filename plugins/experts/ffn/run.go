package ffn

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	// minRows is how many rows of a segment are worth a piece of their own: each piece reads the unit's weights
	// again, and from about this many rows on that is lost in the arithmetic.
	minRows = 16
	// parallelWork is the multiplications in a call from which a second goroutine pays: about 50 us of work, against up
	// to 20 us for waking a core.
	parallelWork = 200_000
)

// piece is some rows of one segment.
type piece struct {
	unit unit
	y, x tensor.Matrix
}

// plan checks a call and cuts it at its segments.
func (m *model) plan(call *expert.Call) ([]piece, error) {
	rows := 0
	pieces := make([]piece, 0, len(call.Segments))
	for i, s := range call.Segments {
		u, ok := m.units[expert.Unit{Layer: call.Layer, Expert: s.Expert}]
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: expert %d is not served here", sdk.ErrInvalid, s.Expert)
		case s.Rows < 1 || s.Rows > call.X.Rows-rows:
			return nil, fmt.Errorf("%w: segment %d has %d rows of %d, %d before it", sdk.ErrInvalid, i, s.Rows, call.X.Rows, rows)
		case i > 0 && s.Expert <= call.Segments[i-1].Expert:
			return nil, fmt.Errorf("%w: expert %d follows expert %d", sdk.ErrInvalid, s.Expert, call.Segments[i-1].Expert)
		case i == 0:
			if err := m.checkMatrices(call); err != nil {
				return nil, err
			}
		}
		pieces = append(pieces, piece{u, call.Y.Slice(rows, rows+s.Rows), call.X.Slice(rows, rows+s.Rows)})
		rows += s.Rows
	}
	if rows != call.X.Rows || rows != call.Y.Rows {
		return nil, fmt.Errorf("%w: segments have %d rows, X %d and Y %d", sdk.ErrInvalid, rows, call.X.Rows, call.Y.Rows)
	}
	return pieces, nil
}

// checkMatrices keeps a caller's mistake from becoming a panic of the process that serves it.
func (m *model) checkMatrices(call *expert.Call) error {
	for name, t := range map[string]tensor.Matrix{"X": call.X, "Y": call.Y} {
		if t.Cols != m.hidden || t.Rows != call.X.Rows || t.Stride < t.Cols || len(t.Data) < (t.Rows-1)*t.Stride+t.Cols {
			return fmt.Errorf("%w: %s is %dx%d with stride %d and %d values, want %d columns", sdk.ErrInvalid, name,
				t.Rows, t.Cols, t.Stride, len(t.Data), m.hidden)
		}
	}
	return nil
}

// run computes the pieces. With enough rows to go round, threads take pieces of rows and never wait for each other;
// with few, as when one token is decoded, the threads share each matrix product.
func (m *model) run(ctx context.Context, pieces []piece, threads int) error {
	if cut := m.cut(pieces, threads); len(cut) >= threads && threads > 1 {
		return m.spread(ctx, cut, threads)
	}
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		m.forward(p.unit, p.y, p.x, threads)
	}
	return nil
}

// cut divides long segments so that threads can share them evenly. It gives nothing where a call is too small to share.
func (m *model) cut(pieces []piece, threads int) []piece {
	rows := 0
	for _, p := range pieces {
		rows += p.x.Rows
	}
	if rows*3*m.hidden*m.intermediate < parallelWork {
		return nil
	}
	size := max(minRows, (rows+2*threads-1)/(2*threads))
	var cut []piece
	for _, p := range pieces {
		n := max(1, p.x.Rows/size) // parts of nearly the same size, none below minRows
		for i := range n {
			from, to := p.x.Rows*i/n, p.x.Rows*(i+1)/n
			cut = append(cut, piece{p.unit, p.y.Slice(from, to), p.x.Slice(from, to)})
		}
	}
	return cut
}

// spread lets the caller's goroutine and threads-1 others claim pieces, each computed by one thread.
func (m *model) spread(ctx context.Context, pieces []piece, threads int) error {
	var next atomic.Int64
	claim := func() {
		for i := int(next.Add(1)) - 1; i < len(pieces) && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
			m.forward(pieces[i].unit, pieces[i].y, pieces[i].x, 1)
		}
	}
	var others sync.WaitGroup
	for range threads - 1 {
		others.Go(claim)
	}
	claim()
	others.Wait()
	if int(next.Load()) < len(pieces)+threads { // somebody stopped early
		return fmt.Errorf("forward: %w", ctx.Err())
	}
	return nil
}
