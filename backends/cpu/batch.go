package cpu

import (
	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// batch is rows of activations as kernels take them: cut into tiles of nearly the same number of rows, each [in][rows].
type batch struct {
	rows, in, tiles int           // in is even, with a zero beside an odd last input, where values are rounded to bfloat16
	format          kernel.Format // of the weights that are multiplied
	data            []float32
	own             []float32 // memory for data
}

// shape makes b one of so many rows of in values, for a matrix, with room for its values.
func (b *batch) shape(rows, in int, m *matrix) {
	if b.format = m.kernel.Format(); b.rounded() {
		in += in % 2
	}
	b.rows, b.in, b.tiles = rows, in, ceil(rows, m.kernel.MaxRows())
	n := rows * b.format.Words(in)
	if cap(b.own) < n {
		b.own = make([]float32, max(n, 2*cap(b.own))) // doubled, so that batches of all sizes leave little behind
	}
	b.data = b.own[:n]
}

// rounded is whether values are rounded to bfloat16.
func (b *batch) rounded() bool {
	return b.format == kernel.Blocks || b.format == kernel.Dots || b.format == kernel.Tiles
}

// span is the rows of a tile.
func (b *batch) span(tile int) (from, to int) {
	return tile * b.rows / b.tiles, (tile + 1) * b.rows / b.tiles
}

// input is where a tile's values of input i are.
func (b *batch) input(tile, i int) *float32 {
	from, to := b.span(tile)
	return &b.data[from*b.format.Words(b.in)+b.format.Words(i)*(to-from)]
}

// put fills n inputs of a tile, from input i on, an even number, with x, whose rows are stride apart. The last ones of a
// tile bring the zero beside an odd one along.
func (b *batch) put(tile, i, n int, x []float32, stride int) {
	from, to := b.span(tile)
	rows, words := to-from, b.format.Words(b.in)
	if b.format == kernel.Tiles {
		for r := range rows {
			putTiles(b.data[from*words:to*words], x[r*stride:][:n], i, r, rows)
		}
		return
	}
	dst := b.data[from*words+b.format.Words(i)*rows : to*words]
	if b.format == kernel.Dots {
		for r := range rows {
			putPairs(dst[r:], x[r*stride:][:n], rows)
		}
		return
	}
	kernel.Gather(dst, x, rows, n, stride)
	if b.format == kernel.Blocks {
		round(dst[:n*rows])
		if i+n == b.in-1 {
			clear(dst[n*rows:])
		}
	}
}

// roundSize is how many values are rounded at a time, in memory on the stack.
const roundSize = 256

// round rounds values to bfloat16.
func round(v []float32) {
	var half [roundSize]uint16
	for len(v) > 0 {
		n := min(len(v), roundSize)
		vec.ToBF16(half[:n], v[:n])
		vec.FromBF16(v[:n], half[:n])
		v = v[n:]
	}
}

// putPairs puts the values of one of so many rows, rounded, where their tile has them.
func putPairs(dst, x []float32, rows int) {
	var half [roundSize]uint16
	for i := 0; i < len(x); i += roundSize {
		n := min(len(x)-i, roundSize)
		vec.ToBF16(half[:n], x[i:i+n])
		kernel.GatherPairs(dst[i/2*rows:], half[:n], rows)
	}
}

// putTiles puts the values of row r of so many, rounded, where their tile has them, from input i on.
func putTiles(dst, x []float32, i, r, rows int) {
	var half [roundSize]uint16
	for len(x) > 0 {
		n := min(len(x), roundSize)
		vec.ToBF16(half[:n], x[:n])
		kernel.GatherTiles(dst[r*kernel.Tiles.Words(1):], half[:n], i, rows)
		x, i = x[n:], i+n
	}
}

// gather is the task that fills a batch with x, tile by tile.
type gather struct {
	batch
	x tensor.Matrix
}

// gatherShare is the number of values that pay for a second thread: some microseconds of copying.
const gatherShare = 10_000

// fill makes the batch for a matrix. It is valid as long as x is.
func (g *gather) fill(x tensor.Matrix, m *matrix, t team.Team) {
	g.shape(x.Rows, x.Cols, m)
	if x.Rows == 1 && !g.rounded() { // a row is its own tile
		g.data = x.Row(0)
		return
	}
	g.x = x
	t.Limit(1+x.Rows*x.Cols/gatherShare).Do(g.tiles, g)
	g.x = tensor.Matrix{}
}

// Run fills a tile.
func (g *gather) Run(_, tile int) {
	from, _ := g.span(tile)
	g.put(tile, 0, g.x.Cols, g.x.Data[from*g.x.Stride:], g.x.Stride)
}

// plan cuts the outputs of all rows into pieces of group panels and run tiles.
type plan struct{ panels, group, tiles, run int }

const (
	// runTiles bounds the rows of a piece, so that few outputs of many rows are shared, too. Depth inputs of so many tiles of 12
	// rows take 1 MiB, which stays in the second cache while the panels go by; with fewer tiles weights are read more often.
	runTiles = 22
	// share is how many pieces each thread should find, for an even end.
	share = 8
)

// newPlan is a plan for so many threads, with groups of at most most panels, which the kernel takes step at a time.
func newPlan(panels, tiles, threads, most, step int) plan {
	p := plan{panels, max(most/step, 1) * step, tiles, min(tiles, runTiles)}
	if threads > 1 {
		for p.group > step && p.pieces() < threads*share {
			p.group -= step
		}
		for p.run > 1 && p.pieces() < threads*share {
			p.run = ceil(p.run, 2)
		}
	}
	return p
}

func (p plan) pieces() int { return ceil(p.panels, p.group) * ceil(p.tiles, p.run) }

// piece is the panels and tiles of a piece: panels vary fastest, so that threads that run together share rows.
func (p plan) piece(i int) (panel, panelEnd, tile, tileEnd int) {
	n := ceil(p.panels, p.group)
	panel, tile = i%n*p.group, i/n*p.run
	return panel, min(panel+p.group, p.panels), tile, min(tile+p.run, p.tiles)
}

const (
	// chunk is how many activations are gathered at most at a time: 8 MiB.
	chunk = 1 << 21
	// threadTime is the time of one thread's work, in ns, that pays for another thread: handing work out costs the caller
	// less than half a microsecond while workers are awake, and some microseconds where one has to be woken.
	threadTime = 5_000
	// bytesPerNs and flopsPerNs are about what a core reads and computes in a nanosecond.
	bytesPerNs, flopsPerNs = 16, 100
)

// crew is as much of a team as the product of rows and so many weights of so many bytes is worth.
func crew(t team.Team, rows, weights, bytes int) team.Team {
	return t.Limit(1 + max(bytes/bytesPerNs, 2*rows*weights/flopsPerNs)/threadTime)
}

// chunkRows is how many of the rows of in values go at a time: all, or parts of nearly the same size.
func chunkRows(rows, in int) int {
	parts := ceil(rows, max(chunk/in, 1))
	return ceil(rows, max(parts, 1))
}
