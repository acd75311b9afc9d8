package cpu

import (
	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/internal/reuse"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// ffn is an expert's block. Gate and up are multiplied together, and what goes into down never leaves the caches.
type ffn struct {
	gate, up matrix
	down     linear
	activate func(dst, gate, up []float32)
}

func (f *ffn) Hidden() int       { return f.gate.in }
func (f *ffn) Intermediate() int { return f.gate.out }

// Apply fills y.
func (f *ffn) Apply(y, x tensor.Matrix, t team.Team) {
	backends.CheckFFN(f, y, x)
	b := blocks.Take()
	rows := chunkRows(x.Rows, max(f.gate.in, f.gate.out))
	for r := 0; r < x.Rows; r += rows {
		end := min(r+rows, x.Rows)
		b.do(f, y.Slice(r, end), x.Slice(r, end), t)
	}
	b.from.data = nil // may be the caller's row
	blocks.Put(b)
}

// block is a block under way: the task of filling inner = act(gate x) * up x. It is used again and again, for its
// memory.
type block struct {
	from  gather
	inner batch
	down  product

	f       *ffn
	plan    plan
	workers []pair
}

// pair is a worker's results of gate and up, [rows of a piece][outputs of a piece].
type pair struct{ gate, up tail }

var blocks reuse.Pool[block]

func (b *block) do(f *ffn, y, x tensor.Matrix, t team.Team) {
	both := crew(t, x.Rows, 2*f.gate.out*f.gate.in, 2*len(f.gate.data))
	b.from.fill(x, &f.gate, both)
	b.inner.shape(x.Rows, f.gate.out, &f.gate)
	_, rows := b.inner.span(0)
	step := f.gate.kernel.Panels(rows) // of gate and up in turn
	if step%2 == 0 {
		step /= 2
	}
	b.f, b.plan = f, newPlan(f.gate.panels(), b.inner.tiles, both.Threads(), f.gate.group()/2, step)
	for len(b.workers) < both.Threads() {
		b.workers = append(b.workers, pair{})
	}
	both.Do(b.plan.pieces(), b)
	b.f = nil
	b.down.do(&f.down, &b.inner, y, crew(t, x.Rows, f.gate.out*f.gate.in, len(f.down.data)))
}

// Run computes a piece.
func (b *block) Run(worker, piece int) {
	f := b.f
	panel, end, tile, tileEnd := b.plan.piece(piece)
	from, _ := b.from.span(tile)
	_, to := b.from.span(tileEnd - 1)
	n := (end - panel) * kernel.Outputs
	gate, up := b.workers[worker].gate.sized((to-from)*n), b.workers[worker].up.sized((to-from)*n)

	var panels [maxGroup]kernel.Panel
	for i := range end - panel {
		panels[2*i] = kernel.Panel{W: f.gate.at(panel + i), Y: &gate[i*kernel.Outputs]}
		panels[2*i+1] = kernel.Panel{W: f.up.at(panel + i), Y: &up[i*kernel.Outputs]}
	}
	multiply(f.gate.kernel, panels[:2*(end-panel)], &b.from.batch, tile, tileEnd, n*4)

	f.activate(gate, gate, up)
	in := min(n, f.gate.out-panel*kernel.Outputs) // without what the matrices haven't
	for t := tile; t < tileEnd; t++ {
		r, _ := b.inner.span(t)
		b.inner.put(t, panel*kernel.Outputs, in, gate[(r-from)*n:], n)
	}
}

var _ backends.FFN = (*ffn)(nil)
