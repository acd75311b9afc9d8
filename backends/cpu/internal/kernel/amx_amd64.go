package kernel

import "unsafe"

// tileConfig is what LDTILECFG reads.
type tileConfig struct {
	palette  uint8
	_        [15]uint8
	rowBytes [16]uint16
	rows     [16]uint8
}

// blockIn is how many inputs a tile of activations has, and a block of backends.BF16Class.
const blockIn = 32

// configure is for so many rows, at most two tiles of them, and inputs, at most a block.
func (c *tileConfig) configure(rows, in int) {
	first, rest := min(rows, 16), max(rows-16, 0)
	c.palette = 1
	for i, rows := range [8]int{first, first, rest, rest, first, rest, in / 2, in / 2} {
		c.rows[i], c.rowBytes[i] = uint8(rows), 0
		switch {
		case rows == 0: // no tile
		case i == 4 || i == 5:
			c.rowBytes[i] = uint16(2 * in)
		default:
			c.rowBytes[i] = 4 * Outputs
		}
	}
}

// amxBlocks computes so many blocks of a tile of one or two panels, of as many inputs each as config has. It leaves no tile
// configured. Nothing in it can be preempted: 64 blocks, of 2048 inputs, should take some 1.5 us.
//
//go:noescape
func amxBlocks(t *Tile, config *tileConfig, blocks int)

// tilesAMX computes whole blocks and then a last one of fewer inputs.
//
// With 32 rows and two panels, four products of 16 cycles a block and 64 loads, two a cycle, the tile unit would bind: 3.6 TFLOP/s
// are its measured peak on a core of Sapphire Rapids. From memory 0.5 are reached with 64 rows, a third more with 512: the first
// 32 rows wait for the weights, and the later ones read them, and all of them activations, from the second cache.
func tilesAMX(t *Tile) {
	var c tileConfig
	part := *t
	if n := t.In / blockIn; n > 0 {
		c.configure(t.Rows, blockIn)
		amxBlocks(&part, &c, n)
		part.X = (*float32)(unsafe.Add(unsafe.Pointer(part.X), n*t.Rows*blockIn*2))
		part.W += n * Blocks.Bytes(blockIn)
		part.Carry = 1
	}
	if rest := t.In % blockIn; rest > 0 {
		c.configure(t.Rows, rest)
		amxBlocks(&part, &c, 1)
	}
}
