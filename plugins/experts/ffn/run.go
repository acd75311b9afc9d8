package ffn

import (
	"context"
	"fmt"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// piece is some rows of one segment.
type piece struct {
	ffn  backends.FFN
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

// run computes the pieces, each by the whole team.
func (m *model) run(ctx context.Context, pieces []piece, t team.Team) error {
	for _, p := range pieces {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		p.ffn.Apply(p.y, p.x, t)
	}
	return nil
}
