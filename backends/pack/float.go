package pack

import (
	"encoding/binary"

	"github.com/pimoe/pimoe/sdk/tensor"
)

func sizeN16(d tensor.DType, out, in int) int { return panels(out) * in * Panel * d.Size() }

func packN16(dst []byte, w tensor.View) {
	eachPanel(w.Shape, w.DType.Size(), w.DType.Size(), dst, w.Data, true)
}
func unpackN16(dst []byte, v tensor.View) {
	eachPanel(v.Shape, v.DType.Size(), v.DType.Size(), v.Data, dst, false)
}

func sizeN16K2(_ tensor.DType, out, in int) int { return panels(out) * ((in + 1) / 2) * Panel * 4 }

// Two bfloat16 of a row are one little-endian word of n16k2, the even input in its lower half.
func packN16K2(dst []byte, w tensor.View)   { eachPanel(w.Shape, 2, 4, dst, w.Data, true) }
func unpackN16K2(dst []byte, v tensor.View) { eachPanel(v.Shape, 2, 4, v.Data, dst, false) }

// tile is how many words of each of a panel's 16 rows are moved before the next ones: 16 x tile words of both sides
// stay in the first-level cache.
const tile = 64

// eachPanel moves every word of unit bytes, one or two elements of a row, between its packed and its row-major place.
func eachPanel(shape []int, elem, unit int, packed, rows []byte, pack bool) {
	out, in := shape[0], shape[1]
	stride := in * elem                // bytes of a row
	whole := stride / unit             // words of a row
	step := (stride + unit - 1) / unit // words of a panel's row, an odd last element included
	for p := range panels(out) {
		panel := packed[p*step*Panel*unit : (p+1)*step*Panel*unit]
		for from := 0; from < whole; from += tile {
			n := min(tile, whole-from)
			for lane := range min(Panel, out-p*Panel) {
				row := rows[(p*Panel+lane)*stride+from*unit:][:n*unit]
				at := panel[(from*Panel+lane)*unit:]
				switch {
				case unit == 4 && pack:
					spread32(at, row)
				case unit == 4:
					gather32(row, at)
				case pack:
					spread16(at, row)
				default:
					gather16(row, at)
				}
			}
		}
		if step == whole {
			continue
		}
		for lane := range min(Panel, out-p*Panel) { // the odd last element, with zero beside it
			row := rows[(p*Panel+lane)*stride+whole*unit:][:elem]
			at := panel[(whole*Panel+lane)*unit:][:elem]
			if pack {
				copy(at, row)
			} else {
				copy(row, at)
			}
		}
	}
}

func spread32(panel, row []byte) {
	for len(row) >= 4 {
		binary.LittleEndian.PutUint32(panel, binary.LittleEndian.Uint32(row))
		row, panel = row[4:], panel[min(4*Panel, len(panel)):]
	}
}

func gather32(row, panel []byte) {
	for len(row) >= 4 {
		binary.LittleEndian.PutUint32(row, binary.LittleEndian.Uint32(panel))
		row, panel = row[4:], panel[min(4*Panel, len(panel)):]
	}
}

func spread16(panel, row []byte) {
	for len(row) >= 2 {
		binary.LittleEndian.PutUint16(panel, binary.LittleEndian.Uint16(row))
		row, panel = row[2:], panel[min(2*Panel, len(panel)):]
	}
}

func gather16(row, panel []byte) {
	for len(row) >= 2 {
		binary.LittleEndian.PutUint16(row, binary.LittleEndian.Uint16(panel))
		row, panel = row[2:], panel[min(2*Panel, len(panel)):]
	}
}
