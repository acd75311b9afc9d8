package int8

import (
	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// ffn is an expert's block.
type ffn struct {
	backend  *Backend
	gate, up *matrix // [intermediate, hidden]
	down     linear  // [hidden, intermediate]
	activate func(dst, gate, up []float32)
}

func (f *ffn) Hidden() int       { return f.gate.in }
func (f *ffn) Intermediate() int { return f.gate.out }

// Apply quantises x, then fills the integers of the inner activations and multiplies them.
func (f *ffn) Apply(y, x tensor.Matrix, t team.Team) {
	backends.CheckFFN(f, y, x)
	if x.Rows == 0 {
		return
	}
	j, t := f.backend.begin(y, x, x.Rows*(len(f.gate.data)+len(f.up.data)+len(f.down.w.data)), t)
	defer j.end()
	j.f, j.cut = f, newCut(x.Rows, f.gate, t)
	j.qh.size(x.Rows, f.Intermediate())
	t.Do(j.cut.pieces(), (*gating)(j))
	j.multiply(&f.down, &j.qh, t)
}

// gating computes integers of activation(gate x) * up x, a span a piece. Its spans begin at blocks.
type gating job

func (j *gating) Run(worker, piece int) {
	w, s := j.workers[worker], j.cut.span(piece)
	width := s.panels * pack.Panel
	w.gate, w.up = sized(w.gate, s.rows*width), sized(w.up, s.rows*width)
	w.product(j.kernels, j.f.gate, &j.qx, s, w.gate, width)
	w.product(j.kernels, j.f.up, &j.qx, s, w.up, width)
	from, to := s.outputs(j.f.gate.out)
	for r := range s.rows {
		// What sticks out of the matrix is zero weights, but not zero if x is not finite: it stays behind.
		h := w.gate[r*width:][:to-from]
		j.f.activate(h, h, w.up[r*width:][:to-from])
		w.quantize(j.kernels, &j.qh, s.row+r, s.panel/unit, h)
	}
}

// outputs are the span's columns of a matrix with so many.
func (s span) outputs(out int) (from, to int) {
	return s.panel * pack.Panel, min((s.panel+s.panels)*pack.Panel, out)
}

var _ backends.FFN = (*ffn)(nil)
