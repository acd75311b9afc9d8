package kernel

import (
	"unsafe"

	"github.com/pimoe/pimoe/backends/pack"
)

// amx takes many rows to tile registers: 16 rows of activations times a panel's 16 outputs, a group of 32 inputs at a time. The
// integers of a group go through memory, since only vector instructions can scale them; the sums of 16 x 16 outputs stay in
// vector registers. Weights become signed bytes first, once for all rows, so that nothing has to be corrected.
//
// What binds on Sapphire Rapids, measured: while tile registers are in use, and some 200 cycles longer, 512-bit floating point has
// one port instead of two. The 48 instructions that convert, scale and add 16 x 16 outputs of a group so take 48 cycles, beside
// which the 26 of loading, multiplying and storing tiles nearly vanish: 1.3 TOP/s at best at 3.9 GHz. 0.8 are reached, 1.4 times
// what VNNI reaches: activations come from the second cache, and a panel's first rows wait for its weights.
//
// Tried and not quicker: the integers as bfloat16, which fills tile registers and spares the conversion (1.2 TOP/s with all in the
// first cache, 0.7 from the second, which it reads twice as much from; and widening weights costs four times what signing does);
// sums added two to four blocks after they were stored; fetching activations into the first cache; other shapes of a call.
var amx = Kernels{Quantize: quantizeAVX2, Shape: shapeAMX, Run: runAMX}

const (
	tileRows = 16
	// tileBlocks of signed weights stay in the first cache (16 KiB), beside as much of 16 rows' activations.
	tileBlocks = 16
	// fewRows beyond a multiple of 16 are quicker without tiles, which would be filled up with rows that are there already.
	fewRows = 5
	// tallest and widest keep a call of assembly, in which nothing can be preempted, at some 15 us.
	tallest, widest = 96, 8
)

// amxRun computes a tile of at least 16 rows and at most 16 blocks, and fetches lines of the weights that come next with each
// block of each 16 rows. It leaves no tile configured.
//
//go:noescape
func amxRun(t *Tile, rows, panels, lines int)

// shapeAMX leaves fewer than 16 rows to VNNI.
func shapeAMX(rows, panels int) (tall, wide int) {
	if rows < tileRows {
		return shapeVNNI(rows, panels)
	}
	return min(rows, tallest), min(panels, widest)
}

// runAMX takes a tile's inputs as many at a time as amxRun can, and leaves rows that fill too little of a tile to VNNI.
func runAMX(t *Tile, rows, panels int) {
	tiled := 0
	if rows >= tileRows {
		tiled = rows
		if rows%tileRows <= fewRows {
			tiled -= rows % tileRows
		}
		part := *t
		times := (tiled + tileRows - 1) / tileRows
		lines := (pack.BlockBytes/64 + times - 1) / times
		for left := t.Blocks; left > 0; left -= part.Blocks {
			part.Blocks = min(left, tileBlocks)
			amxRun(&part, tiled, panels, lines)
			part.W = unsafe.Add(part.W, part.Blocks*pack.BlockBytes)
			part.X = unsafe.Add(part.X, part.Blocks*pack.BlockIn)
			part.G = unsafe.Add(part.G, uintptr(part.Blocks*groups)*unsafe.Sizeof(Group{}))
			part.Resume = 1
		}
	}
	for r, tall := tiled, 0; r < rows; r += tall {
		part := *t
		part.X, part.G, part.Y = unsafe.Add(t.X, uintptr(r)*t.XStride), unsafe.Add(t.G, uintptr(r)*t.GStride), unsafe.Add(t.Y, uintptr(r)*t.YStride)
		var wide int
		for p := 0; p < panels; p += wide {
			tall, wide = shapeVNNI(rows-r, panels-p)
			runVNNI(&part, tall, wide)
			part.W = unsafe.Add(part.W, uintptr(wide)*t.WStride)
			part.Y = unsafe.Add(part.Y, wide*pack.Panel*4)
		}
	}
}
