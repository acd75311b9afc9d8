package int8

import (
	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// linear is one matrix.
type linear struct {
	backend *Backend
	w       *matrix
	bias    []float32 // nil if there is none
}

func (l *linear) Out() int { return l.w.out }
func (l *linear) In() int  { return l.w.in }

// Apply quantises x and shares the outputs.
func (l *linear) Apply(y, x tensor.Matrix, t team.Team) {
	backends.CheckApply(l, y, x)
	if x.Rows == 0 {
		return
	}
	j, t := l.backend.begin(y, x, x.Rows*len(l.w.data), t)
	defer j.end()
	j.multiply(l, &j.qx, t)
}

// multiply fills y with l times quantised rows.
func (j *job) multiply(l *linear, in *rows, t team.Team) {
	j.l, j.in, j.cut = l, in, newCut(j.y.Rows, l.w, t)
	t.Do(j.cut.pieces(), (*multiplying)(j))
}

// multiplying fills y, a span of outputs a piece.
type multiplying job

func (j *multiplying) Run(worker, piece int) {
	s := j.cut.span(piece)
	j.workers[worker].outputs(j.kernels, j.l.w, j.in, s, j.y)
	if j.l.bias == nil {
		return
	}
	from, to := s.outputs(j.l.w.out)
	for r := range s.rows {
		row := j.y.Row(s.row + r)[from:to]
		for o, b := range j.l.bias[from:to] {
			row[o] += b
		}
	}
}

var _ backends.Linear = (*linear)(nil)
