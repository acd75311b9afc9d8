package cpu

import (
	"sync"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

const (
	// blockOut x blockRows outputs are one piece of work for a thread. Smaller pieces would be claimed, and half
	// weights widened, more often; larger ones leave threads idle at the end.
	blockOut  = 8 * kernel.Outputs
	blockRows = 64
	// widenRows is from how many rows on half weights are converted once, into a panel that all rows of a block
	// share, instead of once for each row.
	widenRows = 3
	// threadWork is how many multiplications pay for one more goroutine. They take about 50 us, of which sharing them
	// saves half; waking a sleeping core for it cost 4 to 20 us on two cores. With half as many the gain was gone.
	threadWork = 200_000
)

// linear is one matrix: float or half has the weights, [out, in].
type linear struct {
	out, in int
	float   []float32
	half    []uint16
	table   *kernel.Table // of half
	bias    []float32     // nil if there is none
}

func (l *linear) Out() int { return l.out }
func (l *linear) In() int  { return l.in }

// Apply cuts y into blocks, which up to threads goroutines claim one by one; the caller's goroutine is one of them.
func (l *linear) Apply(y, x tensor.Matrix, t team.Team) {
	backends.CheckApply(l, y, x)
	cols, rows := blocks(l.out, blockOut), blocks(x.Rows, blockRows)
	threads := min(t.Threads(), cols*rows, 1+x.Rows*l.out*l.in/threadWork)
	if threads <= 1 {
		for i := range cols * rows {
			l.block(y, x, i)
		}
		return
	}
	t.Limit(threads).Do(cols*rows, &product{l, y, x})
}

// product is a product under way, shared by a team.
type product struct {
	l    *linear
	y, x tensor.Matrix
}

func (p *product) Run(_, i int) { p.l.block(p.y, p.x, i) }

// block computes block i of y: the outputs vary fastest, so that threads that run together read the same rows.
func (l *linear) block(y, x tensor.Matrix, i int) {
	cols := blocks(l.out, blockOut)
	from, r := i%cols*blockOut, i/cols*blockRows
	to := min(from+blockOut, l.out)
	x, y = x.Slice(r, min(r+blockRows, x.Rows)), y.Slice(r, min(r+blockRows, y.Rows))
	switch {
	case l.half == nil:
		l.tiles(y, x, from, to, nil)
	case x.Rows >= widenRows:
		p := panels.Get().(*panel)
		l.tiles(y, x, from, to, p.sized(kernel.Outputs*l.in))
		panels.Put(p)
	default:
		for r := range x.Rows {
			kernel.Half(y.Row(r)[from:to], x.Row(r), l.half[from*l.in:to*l.in], l.table)
		}
	}
	if l.bias == nil {
		return
	}
	for r := range y.Rows {
		row := y.Row(r)[from:to]
		for o, b := range l.bias[from:to] {
			row[o] += b
		}
	}
}

// tiles walks outputs [from, to) in steps of the kernel and takes all rows at each, so that its weights stay in the
// first cache. Half weights are converted into buf on the way.
func (l *linear) tiles(y, x tensor.Matrix, from, to int, buf []float32) {
	for o := from; o < to; o += kernel.Outputs {
		o := max(from, min(o, to-kernel.Outputs)) // the last step overlaps: a full tile is faster than its rest
		end := min(o+kernel.Outputs, to)
		var w []float32
		if l.half == nil {
			w = l.float[o*l.in : end*l.in]
		} else {
			w = buf[:(end-o)*l.in]
			kernel.Widen(w, l.half[o*l.in:end*l.in], l.table)
		}
		for r := range x.Rows {
			kernel.Float(y.Row(r)[o:end], x.Row(r), w)
		}
	}
}

// panel is the float32 twin of a few rows of half weights.
type panel struct{ w []float32 }

var panels = sync.Pool{New: func() any { return new(panel) }}

func (p *panel) sized(n int) []float32 {
	if cap(p.w) < n {
		p.w = make([]float32, n)
	}
	return p.w[:n]
}

// blocks is how many pieces of size at most n has.
func blocks(n, size int) int { return (n + size - 1) / size }

var _ backends.Linear = (*linear)(nil)
