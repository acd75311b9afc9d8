package int8

import (
	"unsafe"

	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// matrix is packed weights, [out, in].
type matrix struct {
	out, in        int
	panels, blocks int // of 16 outputs, of 64 inputs
	data           []byte
}

// at is the address of a block.
func (m *matrix) at(panel, block int) unsafe.Pointer {
	return unsafe.Pointer(&m.data[(panel*m.blocks+block)*pack.BlockBytes])
}

func (m *matrix) panelBytes() int { return m.blocks * pack.BlockBytes }

// rows are quantised activations. They are an odd number of blocks apart, cache lines of integers and quarters of lines of groups,
// so that rows that are read together don't fall into the same sets of the first cache.
type rows struct {
	blocks int // of 64 activations
	stride int // blocks from a row to the next
	q      []byte
	groups []kernel.Group
}

const groupsPerBlock = pack.BlockIn / pack.Group

// size makes room for n rows of cols activations. What they hold is undefined. Memory doubles: batches of a server have any
// number of rows, and each new most would otherwise leave garbage behind.
func (a *rows) size(n, cols int) {
	a.blocks = ceil(cols, pack.BlockIn)
	a.stride = a.blocks | 1
	if need := n * a.stride * pack.BlockIn; need > len(a.q) {
		a.q = pack.Aligned(max(need, 2*len(a.q)))
	}
	if need := n * a.stride * groupsPerBlock; need > len(a.groups) {
		a.groups = make([]kernel.Group, max(need, 2*len(a.groups)))
	}
}

// q8 and group are the addresses of a block.
func (a *rows) q8(row, block int) *int8 {
	return (*int8)(unsafe.Pointer(&a.q[(row*a.stride+block)*pack.BlockIn]))
}
func (a *rows) group(row, block int) *kernel.Group {
	return &a.groups[(row*a.stride+block)*groupsPerBlock]
}

// worker is the memory of one thread of a call. The fields that kernels get the address of are here since what is passed to a
// function value must be on the heap.
type worker struct {
	tile kernel.Tile
	tail [pack.BlockIn]float32
	edge []float32 // outputs of a last panel that sticks out of the matrix
	gate []float32 // of some rows and panels, as is up
	up   []float32
	_    [64]byte // keeps two workers from sharing a line
}

// quantize fills row from block on with x; a rest shorter than a block is padded with zeros.
func (w *worker) quantize(k *kernel.Kernels, a *rows, row, block int, x []float32) {
	if whole := len(x) / pack.BlockIn; whole > 0 {
		k.Quantize(a.q8(row, block), a.group(row, block), &x[0], whole)
		block, x = block+whole, x[whole*pack.BlockIn:]
	}
	if len(x) > 0 {
		clear(w.tail[copy(w.tail[:], x):])
		k.Quantize(a.q8(row, block), a.group(row, block), &w.tail[0], 1)
	}
}

// span is a range of rows and panels. The thread's next one probably begins skip panels behind this one's end.
type span struct{ row, rows, panel, panels, skip int }

// deep is how many blocks of 64 inputs are taken at once when the rows fill more than one tile: two panels of them stay in
// the first cache (17 KiB), while the rows go by.
const deep = 8

// product computes the outputs of whole panels: y, rows of stride floats, begins at the span's first row and panel.
func (w *worker) product(k *kernel.Kernels, m *matrix, a *rows, s span, y []float32, stride int) {
	t := &w.tile
	t.WStride, t.XStride, t.GStride = uintptr(m.panelBytes()), uintptr(a.stride*pack.BlockIn), uintptr(a.stride*groupsPerBlock)*unsafe.Sizeof(kernel.Group{})
	t.YStride = uintptr(stride) * 4
	step := m.blocks
	if tall, _ := k.Shape(s.rows, s.panels); tall < s.rows {
		step = min(deep, m.blocks)
	}
	for block := 0; block < m.blocks; block += step {
		t.Blocks, t.Resume = min(step, m.blocks-block), min(block, 1)
		for p := 0; p < s.panels; {
			tall, wide := k.Shape(s.rows, s.panels-p)
			t.W = m.at(s.panel+p, block)
			next := m.next(s, p+wide, block, step) - (p*m.blocks + block)
			for r := 0; r < s.rows; r += tall {
				t.X, t.G = unsafe.Pointer(a.q8(s.row+r, block)), unsafe.Pointer(a.group(s.row+r, block))
				t.Y = unsafe.Pointer(&y[r*stride+p*pack.Panel])
				t.Next(wide, uintptr(next*pack.BlockBytes), r/tall, ceil(s.rows, tall))
				k.Run(t, min(tall, s.rows-r), wide)
			}
			p += wide
		}
	}
	*t = kernel.Tile{} // keeps no weights alive
}

// next is where weights are read after a tile that ends before panel p, counted from the span's first panel, in blocks after the
// span's first: in the panel beside it, in the next step's first one, or where the next span begins.
func (m *matrix) next(s span, p, block, step int) int {
	switch {
	case p < s.panels:
		return p*m.blocks + block
	case block+step < m.blocks:
		return block + step
	}
	return (s.panels + s.skip) * m.blocks
}

// outputs is product for panels of which the last may stick out of y.
func (w *worker) outputs(k *kernel.Kernels, m *matrix, a *rows, s span, y tensor.Matrix) {
	whole := min(s.panels, y.Cols/pack.Panel-s.panel)
	if whole > 0 {
		w.product(k, m, a, span{s.row, s.rows, s.panel, whole, s.skip}, y.Data[s.row*y.Stride+s.panel*pack.Panel:], y.Stride)
	}
	if whole == s.panels {
		return
	}
	last := s.panel + s.panels - 1
	w.edge = sized(w.edge, s.rows*pack.Panel)
	w.product(k, m, a, span{s.row, s.rows, last, 1, 0}, w.edge, pack.Panel)
	for r := range s.rows {
		copy(y.Row(s.row + r)[last*pack.Panel:], w.edge[r*pack.Panel:][:pack.Panel])
	}
}

// sized is a slice of n floats, s if it is long enough.
func sized(s []float32, n int) []float32 {
	if n > cap(s) {
		s = make([]float32, max(n, 2*cap(s)))
	}
	return s[:n]
}
