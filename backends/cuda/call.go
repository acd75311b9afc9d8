package cuda

import "unsafe"

// shape is what a call multiplies by: a block, or a matrix, which has no inner width.
type shape struct {
	kind           *kind
	in, inner, out int
	act            uint64
}

// part is rows of one unit.
type part struct {
	unit unit
	rows int
}

// split takes the first rows of parts.
func split(parts []part, rows int) (first, rest []part) {
	for i, p := range parts {
		if p.rows >= rows {
			first = append(first, part{p.unit, rows})
			if p.rows == rows {
				return first, parts[i+1:]
			}
			rest = append([]part{{p.unit, p.rows - rows}}, parts[i+1:]...)
			return first, rest
		}
		first = append(first, p)
		rows -= p.rows
	}
	return first, nil
}

// variant is what computes parts: as many rows of an expert at a time as most of them have.
func (k *kind) variant(sm int, parts []part) variant {
	most := 0
	for _, p := range parts {
		most = max(most, p.rows)
	}
	all := k.available(sm)
	for _, v := range all {
		if v.rows >= most {
			return v
		}
	}
	return all[len(all)-1]
}

// tile is what the kernels' type of the same name is.
type tile struct {
	at        [4]uint64
	row, rows uint32
	_         [2]uint32
}

const tileBytes = int(unsafe.Sizeof(tile{}))

// tilesOf cuts parts into tiles of a variant.
func tilesOf(parts []part, rows int) (out []tile) {
	at := 0
	for _, p := range parts {
		for r := 0; r < p.rows; r += rows {
			out = append(out, tile{at: p.unit.at, row: uint32(at + r), rows: uint32(min(rows, p.rows-r))})
		}
		at += p.rows
	}
	return out
}

func bytesOfTiles(t []tile) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(t))), len(t)*tileBytes)
}

// places are where a chunk's data lies in its stage's memory on the device: the tiles, x, what the kernels take instead of it,
// the inner activations, what they take instead of those, and y.
type places struct{ x, cx, h, ch, y, end int }

// stride is how far apart rows of float32 are on the device.
func stride(cols int) int { return roundUp(cols, 16) }

// rowBytes is what rows of float32 take there.
func rowBytes(rows, cols int) int { return rows * stride(cols) * 4 }

func (s shape) places(tiles, rows int) (p places) {
	at := roundUp(tiles*tileBytes, 256)
	next := func(bytes int) int {
		at += roundUp(rows*bytes, 256)
		return at
	}
	p.x = at
	p.cx = next(stride(s.in) * 4)
	p.h = next(s.converted(s.in))
	p.ch = next(stride(s.inner) * 4)
	p.y = next(s.converted(s.inner))
	p.end = next(stride(s.out) * 4)
	return p
}

// converted are the bytes of a row as the kernels take it instead of float32; 0 = they take that.
func (s shape) converted(cols int) int {
	if s.kind.convert == nil {
		return 0
	}
	return s.kind.convert(cols)
}
