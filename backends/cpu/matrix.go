package cpu

import (
	"fmt"
	"unsafe"

	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// matrix is packed weights, [out, in].
type matrix struct {
	out, in int
	format  kernel.Format
	kernel  kernel.Kernel
	data    []byte
	panel   int // bytes of one
}

// matrix packs checked weights, or keeps packed ones that are aligned.
func (b *Backend) matrix(class string, w tensor.View) (matrix, error) {
	if _, err := b.Class(w.DType, class); err != nil {
		return matrix{}, err
	}
	packing := b.Packing(class)
	switch w.Packing {
	case packing:
		if !pack.IsAligned(w.Data) {
			data := pack.Aligned(len(w.Data))
			copy(data, w.Data)
			w.Data = data
		}
	case "":
		var err error
		if w, err = pack.Pack(packing, w); err != nil {
			return matrix{}, err
		}
	default:
		return matrix{}, fmt.Errorf("%w: weights packed as %s, class %s takes %s", sdk.ErrUnsupported, w.Packing, class, packing)
	}
	f := formats[class]
	m := matrix{out: w.Shape[0], in: w.Shape[1], format: f, kernel: kernel.At(b.level, f), data: w.Data}
	m.panel = f.Bytes(m.in)
	return m, nil
}

// panels is how many panels there are; the last may have outputs that the matrix hasn't.
func (m *matrix) panels() int { return ceil(m.out, kernel.Outputs) }

// at is the address of a panel.
func (m *matrix) at(panel int) unsafe.Pointer { return unsafe.Pointer(&m.data[panel*m.panel]) }

const (
	// depth is how many inputs are multiplied before the next ones: with fewer, sums are stored and loaded more often, and
	// with more, a run of tiles (see runTiles) leaves the second cache before the next group of panels comes.
	depth = 1024
	// groupBytes is how much of the second cache the weights of a group may take: half. The rest is for rows.
	groupBytes = 512 << 10
	// maxGroup is a multiple of all that kernels have under way.
	maxGroup = 12
)

// group is how many panels of the matrix are multiplied with one tile after another, so that their weights are in the second
// cache for all but the first.
func (m *matrix) group() int {
	return min(max(groupBytes/m.kernel.Bytes(min(m.in, depth)), 4), maxGroup)
}

// multiply fills the results of panels, whose W are of matrices with b.in inputs, for tiles [from, to). stride is the
// bytes between two rows of results.
func multiply(k kernel.Kernel, panels []kernel.Panel, b *batch, from, to, stride int) {
	if len(panels) == 0 {
		return
	}
	first, _ := b.span(from)
	t := kernel.Tile{Panels: &panels[0], Count: len(panels), Stride: stride}
	for i := 0; i < b.in; i += depth {
		t.In, t.W = min(depth, b.in-i), k.Bytes(i)
		for tile := from; tile < to; tile++ {
			r, end := b.span(tile)
			t.Rows, t.X, t.Y = end-r, b.input(tile, i), (r-first)*stride
			k.Run(t)
		}
		t.Carry = 1
	}
}

func ceil(n, size int) int { return (n + size - 1) / size }
