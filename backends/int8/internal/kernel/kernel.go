// Package kernel has the loops of the class int8g32: quantising activations, and tiles of a product of 8-bit integers in the
// packing g32n16. Package backends/int8 walks matrices with them. Every level of instructions gives the same bits; the pure Go
// of generic.go is the definition.
//
// It refuses to check what it is given, to allocate and to know threads.
package kernel

import (
	"unsafe"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/pack"
)

//go:generate sh -c "cd _asm && go run . -dir .."

// Group is what one group of 32 activations of a row carries beside its 8-bit integers q.
type Group struct {
	Scale   float32 // x is about q * Scale; NaN if the group has a NaN or an infinity
	Correct int32   // -128 * sum of q: where an integer sum begins, since weights are stored as q + 128
}

// Tile is a rectangle of outputs: y = x W^T over some blocks of 64 inputs. Its kernels know how many rows and panels it has.
// The fields are read by assembly at fixed offsets.
type Tile struct {
	W       unsafe.Pointer // 0: the first block of the first panel, at a multiple of 64 bytes
	WStride uintptr        // 8: bytes from a panel to the next
	X       unsafe.Pointer // 16: int8 activations of the first row
	XStride uintptr        // 24: bytes from a row to the next
	G       unsafe.Pointer // 32: *Group of the first row
	GStride uintptr        // 40: bytes from a row to the next
	Y       unsafe.Pointer // 48: *float32, 16 outputs a panel
	YStride uintptr        // 56: bytes from a row to the next
	Blocks  int            // 64: at least 1
	Resume  int            // 72: 1 = the sums go on from what y has, 0 = they begin at zero
	Jump    uintptr        // 80: see Ahead
	Ahead   uintptr        // 88: bytes from W to where prefetches begin; with one panel, Jump is added when they have reached its end
	Follow  uintptr        // 96: bytes from W to where the next tile begins, for kernels that fetch it panel by panel
	Lines   int            // 104: with two panels, how many lines of each are fetched with a block
}

// Next says that a tile of so many panels is followed by one whose weights begin at bytes after W, and that it is one, pass, of
// so many passes of rows by the same weights. It is a hint: kernels prefetch them.
func (t *Tile) Next(panels int, bytes uintptr, pass, passes int) {
	t.Ahead, t.Jump, t.Follow, t.Lines = bytes, 0, bytes, 0
	switch {
	case panels > 1: // each pass its part
		t.Lines = (pack.BlockBytes/64 + passes - 1) / passes
		t.Ahead += uintptr(pass * t.Lines * t.Blocks * 64)
		if pass*t.Lines >= pack.BlockBytes/64 {
			t.Lines = 0
		}
	case t.Blocks > ahead:
		t.Ahead = ahead * pack.BlockBytes
		t.Jump = bytes - uintptr(t.Blocks*pack.BlockBytes)
	}
}

// ahead is how many blocks prefetches of one panel are before what is multiplied.
const ahead = 16

// Kernels are the loops of one level of instructions.
type Kernels struct {
	// Quantize makes integers and groups of blocks x 64 activations.
	Quantize func(q *int8, g *Group, x *float32, blocks int)
	// Shape is the tile to cut so many rows and panels into: how many rows, at least 1, and panels, at least 1, it has at most.
	Shape func(rows, panels int) (tall, wide int)
	// Run computes a tile as wide as Shape said and at most as tall.
	Run func(t *Tile, rows, panels int)
}

// At are the kernels of a level, or of the best level below it that has its own.
func At(l isa.Level) *Kernels { return at(l) }

// tiny is the largest magnitude of a group that counts as zero: the inverse of its scale is beyond float32.
const tiny = 127 * 0x1p-128

var generic = Kernels{Quantize: quantizeGeneric, Shape: func(int, int) (int, int) { return 1, 1 }, Run: runGeneric}

const (
	groups     = pack.BlockIn / pack.Group // of a block
	lines      = pack.Group / 4            // of a group
	lineBytes  = 4 * pack.Panel
	scaleBytes = 2 * pack.Panel // of a group
)
