package cpu

import (
	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/internal/reuse"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// linear is one matrix and perhaps a bias.
type linear struct {
	matrix
	bias []float32 // nil if there is none
}

func (l *linear) Out() int { return l.out }
func (l *linear) In() int  { return l.in }

// Apply gathers rows into tiles and multiplies them piece by piece.
func (l *linear) Apply(y, x tensor.Matrix, t team.Team) {
	backends.CheckApply(l, y, x)
	p := products.Take()
	most := chunkRows(x.Rows, l.in)
	for r := 0; r < x.Rows; r += most {
		end := min(r+most, x.Rows)
		t := crew(t, end-r, l.out*l.in, len(l.data))
		p.from.fill(x.Slice(r, end), &l.matrix, t)
		p.do(l, &p.from.batch, y.Slice(r, end), t)
	}
	p.from.data = nil // may be the caller's row
	products.Put(p)
}

// product is a product under way: the task of filling y from a batch. It is used again and again, for its memory.
type product struct {
	from gather // of a Linear's x

	l     *linear
	b     *batch
	y     tensor.Matrix
	plan  plan
	tails []tail // of each worker
}

// tail is room for the results of a panel of which the matrix has only some outputs.
type tail struct{ y []float32 }

var products reuse.Pool[product]

// do fills y with the products of b.
func (p *product) do(l *linear, b *batch, y tensor.Matrix, t team.Team) {
	p.l, p.b, p.y = l, b, y
	_, rows := b.span(0)
	p.plan = newPlan(l.panels(), b.tiles, t.Threads(), l.group(), l.kernel.Panels(rows))
	for len(p.tails) < t.Threads() {
		p.tails = append(p.tails, tail{})
	}
	t.Do(p.plan.pieces(), p)
	p.l, p.b, p.y = nil, nil, tensor.Matrix{}
}

// Run computes a piece.
func (p *product) Run(worker, piece int) {
	l, b := p.l, p.b
	panel, end, tile, tileEnd := p.plan.piece(piece)
	from, _ := b.span(tile)
	_, to := b.span(tileEnd - 1)
	y := p.y.Slice(from, to)

	var panels [maxGroup]kernel.Panel
	full := min(end, l.out/kernel.Outputs) // panels of which all outputs exist
	for i := panel; i < full; i++ {
		panels[i-panel] = kernel.Panel{W: l.at(i), Y: &y.Data[i*kernel.Outputs]}
	}
	multiply(l.kernel, panels[:max(full-panel, 0)], b, tile, tileEnd, y.Stride*4)
	if full < end {
		rest := p.tails[worker].sized((to - from) * kernel.Outputs)
		panels[0] = kernel.Panel{W: l.at(full), Y: &rest[0]}
		multiply(l.kernel, panels[:1], b, tile, tileEnd, kernel.Outputs*4)
		for r := range y.Rows {
			copy(y.Row(r)[full*kernel.Outputs:], rest[r*kernel.Outputs:])
		}
	}
	if l.bias == nil {
		return
	}
	o, oEnd := panel*kernel.Outputs, min(end*kernel.Outputs, l.out)
	for r := range y.Rows {
		row := y.Row(r)[o:oEnd]
		for i, v := range l.bias[o:oEnd] {
			row[i] += v
		}
	}
}

func (t *tail) sized(n int) []float32 {
	if cap(t.y) < n {
		t.y = make([]float32, max(n, 2*cap(t.y)))
	}
	return t.y[:n]
}

var _ backends.Linear = (*linear)(nil)
