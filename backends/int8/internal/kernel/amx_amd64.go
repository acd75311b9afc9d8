package kernel

import (
	"unsafe"

	"github.com/pimoe/pimoe/backends/pack"
)

// amx takes many rows to tile registers: 16 rows of activations times a panel's 16 outputs, a group of 32 inputs at a time. The
// integers of a group go through memory, since only vector instructions can scale them; the sums of 16 x 16 outputs stay in
// vector registers. Weights become signed bytes first, once for all rows, so that nothing has to be corrected.
//
// What Sapphire Rapids should do, by counting and not measured: 16 x 16 outputs of a group are 16 cycles of the tile unit and 16
// of the port that stores 64 bytes, but 48 instructions (convert, scale, add) for the two ports with 512-bit arithmetic and 56
// loads for two ports. That bounds a group at 28 cycles: 585 operations a cycle, 1.8 TOP/s at 3.1 GHz. A panel's first 16 rows
// take 4 cycles more, for the signed weights.
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

// amxRun computes a tile of at least 16 rows and at most 16 blocks. It leaves no tile configured.
//
//go:noescape
func amxRun(t *Tile, rows, panels int)

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
		part.Ahead = t.next()
		for left := t.Blocks; left > 0; left -= part.Blocks {
			part.Blocks = min(left, tileBlocks)
			amxRun(&part, tiled, panels)
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
