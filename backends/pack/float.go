package pack

import (
	"encoding/binary"

	"github.com/pimoe/pimoe/sdk/tensor"
)

func sizeN16(d tensor.DType, out, in int) int { return panels(out) * in * Panel * d.Size() }

func packN16(dst []byte, w tensor.View)   { eachN16(w.Shape, w.DType.Size(), dst, w.Data, true) }
func unpackN16(dst []byte, v tensor.View) { eachN16(v.Shape, v.DType.Size(), v.Data, dst, false) }

// eachN16 moves every element between its packed and its row-major place.
func eachN16(shape []int, size int, packed, rows []byte, pack bool) {
	out, in := shape[0], shape[1]
	for o := range out {
		at := (o/Panel*in*Panel + o%Panel) * size
		row := rows[o*in*size : (o+1)*in*size]
		for i := 0; i < len(row); i += size {
			if pack {
				copy(packed[at:at+size], row[i:i+size])
			} else {
				copy(row[i:i+size], packed[at:at+size])
			}
			at += Panel * size
		}
	}
}

func sizeN16K2(_ tensor.DType, out, in int) int { return panels(out) * ((in + 1) / 2) * Panel * 4 }

func packN16K2(dst []byte, w tensor.View) {
	eachN16K2(w.Shape, func(packed, row int) {
		binary.LittleEndian.PutUint16(dst[packed:], binary.LittleEndian.Uint16(w.Data[row:]))
	})
}

func unpackN16K2(dst []byte, v tensor.View) {
	eachN16K2(v.Shape, func(packed, row int) {
		binary.LittleEndian.PutUint16(dst[row:], binary.LittleEndian.Uint16(v.Data[packed:]))
	})
}

func eachN16K2(shape []int, move func(packed, row int)) {
	out, in := shape[0], shape[1]
	pairs := (in + 1) / 2
	for o := range out {
		for i := range in {
			move(((o/Panel*pairs+i/2)*Panel+o%Panel)*4+i%2*2, (o*in+i)*2)
		}
	}
}
