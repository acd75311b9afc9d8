package int8

import (
	"testing"
	"unsafe"

	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/pack"
)

// TestNextTile: whatever the shape, a tile says where the weights of the one behind it are, and the passes of rows by the same
// weights fetch all of these between them.
func TestNextTile(t *testing.T) {
	for _, c := range []struct {
		in, out, rows, panel, panels, skip int
		shape                              func(rows, panels int) (tall, wide int)
	}{
		{64 * 20, 16 * 12, 1, 0, 4, 4, func(rows, _ int) (int, int) { return rows, 1 }},
		{64 * 20, 16 * 12, 32, 0, 8, 0, func(_, panels int) (int, int) { return 6, min(panels, 2) }},
		{64 * 20, 16 * 15, 96, 3, 5, 5, func(_, panels int) (int, int) { return 6, min(panels, 2) }},
		{64 * 8, 16 * 8, 13, 2, 4, 0, func(_, panels int) (int, int) { return 5, min(panels, 2) }},
		{64 * 9, 16 * 8, 40, 0, 8, 0, func(rows, panels int) (int, int) { return min(rows, 16), min(panels, 8) }},
	} {
		m := &matrix{out: c.out, in: c.in, panels: c.out / pack.Panel, blocks: ceil(c.in, pack.BlockIn)}
		m.data = pack.Aligned(m.panels * m.panelBytes())
		var a rows
		a.size(c.rows, c.in)
		var tiles []kernel.Tile
		var widths []int
		k := &kernel.Kernels{Shape: c.shape, Run: func(tile *kernel.Tile, _, panels int) {
			tiles, widths = append(tiles, *tile), append(widths, panels)
		}}
		y := make([]float32, c.rows*c.panels*pack.Panel)
		new(worker).product(k, m, &a, span{0, c.rows, c.panel, c.panels, c.skip}, y, c.panels*pack.Panel)

		passes := 0 // of the tile before
		fetched := map[uintptr]bool{}
		for i, tile := range tiles {
			passes++
			for line := range tile.Lines * tile.Blocks {
				fetched[tile.Ahead+uintptr(line*64)] = true
			}
			after := uintptr(unsafe.Pointer(unsafe.SliceData(m.data))) + uintptr((c.panel+c.panels+c.skip)*m.panelBytes())
			if i+1 < len(tiles) {
				after = uintptr(tiles[i+1].W)
			}
			if after == uintptr(tile.W) {
				continue
			}
			if got := uintptr(tile.W) + tile.Follow; got != after {
				t.Fatalf("tile %d of %d is followed by weights at %#x, it says %#x: %+v", i, len(tiles), after, got, c)
			}
			for line := range tile.Blocks * pack.BlockBytes / 64 {
				if widths[i] == 2 && !fetched[tile.Follow+uintptr(line*64)] {
					t.Fatalf("%d passes up to tile %d leave line %d behind: %+v", passes, i, line, c)
				}
			}
			passes, fetched = 0, map[uintptr]bool{}
		}
	}
}
