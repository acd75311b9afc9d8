package kernel

import (
	"slices"
	"unsafe"

	"github.com/pimoe/pimoe/backends/isa"
)

// Outputs is how many outputs a panel of packed weights has.
const Outputs = 16

// Format is how the weights of a panel are stored, see package pack.
type Format uint8

// The formats.
const (
	F32    Format = iota // n16: [in][16] float32
	F16                  // n16: [in][16] binary16
	BF16                 // n16k2: [in/2][16][2] bfloat16
	Blocks               // the same, computed as backends.BF16Class says, of activations that are rounded
	Dots                 // the same, computed as backends.BF16DotClass says, of activations in pairs of bfloat16
	Tiles                // Blocks with activations as tile registers take them; At chooses it
)

// Bytes is the size of a panel's first inputs; for the last four of an even number of them or of all.
func (f Format) Bytes(inputs int) int {
	switch f {
	case F32:
		return inputs * Outputs * 4
	case F16:
		return inputs * Outputs * 2
	}
	return (inputs + 1) / 2 * Outputs * 4
}

// Words is how many float32 take the room of a row's first inputs, a multiple of 32 of them or all.
func (f Format) Words(inputs int) int {
	switch f {
	case Dots:
		return inputs / 2
	case Tiles:
		return (inputs + 31) / 32 * blockWords
	}
	return inputs
}

// Panel is 16 outputs: where their packed weights begin and where the first row's 16 results go.
type Panel struct {
	W unsafe.Pointer
	Y *float32
}

// Tile is one step of a product: the next In inputs of Count panels times Rows rows.
//
//	for p, panel := range panels {
//		for r := range Rows {
//			for o := range 16 {
//				sum := float32(0), or y[p][r][o] if Carry
//				for i := range In {
//					sum = fma(w[p][i][o], x[i][r], sum)
//				}
//				y[p][r][o] = sum
//			}
//		}
//	}
//
// For Blocks and Tiles the inner loop is two sums for each 32 inputs, for Dots an odd input comes before the even one beside it, as
// package ref has them.
type Tile struct {
	Panels *Panel   // Count of them
	Count  int      // at least 1
	Rows   int      // at least 1, at most MaxRows of the kernel
	In     int      // at least 1; even for Blocks, Dots and Tiles; until the matrix ends, even for BF16 and a multiple of 32 for Blocks and Tiles
	W      int      // bytes from the start of every panel to the first of these inputs
	X      *float32 // [In][Rows]; for Dots the bits of [In/2][Rows][2]uint16, for Tiles of [In/32][Rows][32]uint16, In rounded up
	Y      int      // bytes from every panel's Y to the tile's first row
	Stride int      // bytes between two rows of y
	Carry  int      // 0: sums start at zero, 1: at what is in y
}

// Kernel is the code for a format on a level.
type Kernel struct {
	level  isa.Level
	format Format
}

// At is the kernel of a level; the ones above AVX-512 add nothing for float32. AMX takes Blocks as Tiles.
func At(level isa.Level, f Format) Kernel {
	if f == Blocks && level == isa.AMX {
		f = Tiles
	}
	return Kernel{lower(level, f), f}
}

// Format is how the kernel takes weights and activations.
func (k Kernel) Format() Format { return k.format }

// Bytes is that of the kernel's format.
func (k Kernel) Bytes(inputs int) int { return k.format.Bytes(inputs) }

// MaxRows is the largest number of rows of a tile.
func (k Kernel) MaxRows() int { return len(k.panels()) }

// Panels is how many panels the kernel has under way at once for a number of rows.
func (k Kernel) Panels(rows int) int { return k.panels()[rows-1] }

func (k Kernel) panels() []int {
	if k.format == Tiles {
		return tilesPanels
	}
	return panelsOf(k.level, k.format)
}

// Run computes a tile of any number of panels.
func (k Kernel) Run(t Tile) {
	most := k.Panels(t.Rows)
	for left := t.Count; ; {
		switch { // the sizes that the assembly has
		case left >= most:
			t.Count = most
		case left >= 2:
			t.Count = 2
		default:
			t.Count = 1
		}
		run(k.level, k.format, &t)
		if left -= t.Count; left == 0 {
			return
		}
		t.Panels = (*Panel)(unsafe.Add(unsafe.Pointer(t.Panels), t.Count*int(unsafe.Sizeof(Panel{}))))
	}
}

// genericPanels is the table of the pure-Go kernel: it gains nothing from tiles, these sizes let tests see several.
var genericPanels = []int{3, 3, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1}

// tilesPanels is two for each of up to 32 rows: four tiles of sums, so that what is loaded is multiplied twice.
var tilesPanels = slices.Repeat([]int{2}, 32)
