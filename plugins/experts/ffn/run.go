package ffn

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// check holds a call against the units, so that a caller's mistake does not become a panic of the process that serves it.
func (m *model) check(call *expert.Call) error {
	rows := 0
	for i, s := range call.Segments {
		switch {
		case m.units[expert.Unit{Layer: call.Layer, Expert: s.Expert}] == nil:
			return fmt.Errorf("%w: expert %d is not served here", sdk.ErrInvalid, s.Expert)
		case s.Rows < 1 || s.Rows > call.X.Rows-rows:
			return fmt.Errorf("%w: segment %d has %d rows of %d, %d before it", sdk.ErrInvalid, i, s.Rows, call.X.Rows, rows)
		case i > 0 && s.Expert <= call.Segments[i-1].Expert:
			return fmt.Errorf("%w: expert %d follows expert %d", sdk.ErrInvalid, s.Expert, call.Segments[i-1].Expert)
		}
		rows += s.Rows
	}
	if rows == 0 && call.X.Rows == 0 && call.Y.Rows == 0 {
		return nil
	}
	if err := m.checkMatrix("X", call.X, call.X.Rows); err != nil {
		return err
	}
	if err := m.checkMatrix("Y", call.Y, call.X.Rows); err != nil {
		return err
	}
	if rows != call.X.Rows {
		return fmt.Errorf("%w: segments have %d rows, X %d and Y %d", sdk.ErrInvalid, rows, call.X.Rows, call.Y.Rows)
	}
	return nil
}

func (m *model) checkMatrix(name string, t tensor.Matrix, rows int) error {
	if t.Cols != m.hidden || t.Rows != rows || t.Stride < t.Cols || len(t.Data) < (t.Rows-1)*t.Stride+t.Cols {
		return fmt.Errorf("%w: %s is %dx%d with stride %d and %d values, want %d columns", sdk.ErrInvalid, name,
			t.Rows, t.Cols, t.Stride, len(t.Data), m.hidden)
	}
	return nil
}

// gather is the call with its rows in memory that is used again: only a host that calls the expert directly leaves that to it.
func (m *model) gather(call *expert.Call) *expert.Call {
	g := gathers.Get().(*expert.Call)
	n, cols := len(call.From), call.X.Cols
	room := slices.Grow(g.X.Data[:0], n*cols)[:n*cols]
	for i, r := range call.From {
		copy(room[i*cols:(i+1)*cols], call.X.Row(int(r)))
	}
	*g = *call
	g.X, g.From = tensor.MatrixOf(n, cols, room), nil
	return g
}

var gathers = sync.Pool{New: func() any { return new(expert.Call) }}

// run computes the segments: all together if the backend can do that, else each by the whole team.
func (m *model) run(ctx context.Context, call *expert.Call, t team.Team) error {
	if m.grouped != nil && len(call.Segments) > 1 {
		return m.runTogether(ctx, call, t)
	}
	at := 0
	for _, s := range call.Segments {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		block := m.units[expert.Unit{Layer: call.Layer, Expert: s.Expert}]
		block.Apply(call.Y.Slice(at, at+s.Rows), call.X.Slice(at, at+s.Rows), t)
		at += s.Rows
	}
	return nil
}

func (m *model) runTogether(ctx context.Context, call *expert.Call, t team.Team) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	blocks, rows := make([]backends.FFN, len(call.Segments)), make([]int, len(call.Segments))
	for i, s := range call.Segments {
		blocks[i], rows[i] = m.units[expert.Unit{Layer: call.Layer, Expert: s.Expert}], s.Rows
	}
	m.grouped.ApplyAll(blocks, rows, call.Y, call.X, t)
	return nil
}
