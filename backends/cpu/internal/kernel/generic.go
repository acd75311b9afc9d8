package kernel

import (
	"math"
	"unsafe"

	"github.com/pimoe/pimoe/backends/internal/fma"
)

// generic is Tile's loop in pure Go: the oracle of the assembly, and what other processors run.
func generic(f Format, t *Tile) {
	x := unsafe.Slice(t.X, f.Words(t.In)*t.Rows)
	for _, panel := range unsafe.Slice(t.Panels, t.Count) {
		w := unsafe.Add(panel.W, t.W)
		for r := range t.Rows {
			y := (*[Outputs]float32)(unsafe.Add(unsafe.Pointer(panel.Y), t.Y+r*t.Stride))
			if t.Carry == 0 {
				*y = [Outputs]float32{}
			}
			switch f {
			case Blocks:
				genericBlocks(y, w, x[r:], t.In, t.Rows)
			case Tiles:
				genericTiles(y, w, x[r*blockWords:], t.In, t.Rows)
			case Dots:
				genericDots(y, w, x[r:], t.In, t.Rows)
			default:
				genericFloat(f, y, w, x[r:], t.In, t.Rows)
			}
		}
	}
}

// genericFloat adds a row's products to y; its input i is x[i*stride].
func genericFloat(f Format, y *[Outputs]float32, w unsafe.Pointer, x []float32, in, stride int) {
	for i := range in {
		var line [Outputs]float32
		if f == F32 {
			line = *(*[Outputs]float32)(unsafe.Add(w, i*Outputs*4))
		} else {
			for o := range line {
				line[o] = weight(f, w, i, o)
			}
		}
		xi := x[i*stride]
		for o := range y {
			y[o] = fma.F32(line[o], xi, y[o])
		}
	}
}

// genericBlocks is the same for Blocks.
func genericBlocks(y *[Outputs]float32, w unsafe.Pointer, x []float32, in, stride int) {
	for from := 0; from < in; from += 32 {
		var even, odd [Outputs]float32
		for i := from; i < min(from+32, in); i += 2 {
			for o := range y {
				even[o] = fma.Flushed(weight(BF16, w, i, o), x[i*stride], even[o])
				odd[o] = fma.Flushed(weight(BF16, w, i+1, o), x[(i+1)*stride], odd[o])
			}
		}
		for o := range y {
			y[o] = fma.Flushed(1, y[o], fma.Flushed(1, even[o], odd[o]))
		}
	}
}

// genericTiles is Blocks for a row whose block b is the 32 bfloat16 of x[b*stride*blockWords:].
func genericTiles(y *[Outputs]float32, w unsafe.Pointer, x []float32, in, stride int) {
	for from := 0; from < in; from += 32 {
		var block [32]float32
		for i, pair := range x[from/32*stride*blockWords:][:blockWords] {
			block[2*i], block[2*i+1] = math.Float32frombits(math.Float32bits(pair)<<16), math.Float32frombits(math.Float32bits(pair)&0xffff0000)
		}
		genericBlocks(y, unsafe.Add(w, Tiles.Bytes(from)), block[:], min(in-from, 32), 1)
	}
}

// blockWords is how many float32 take the room of a row's 32 inputs in Tiles.
const blockWords = 16

// genericDots is the same for pairs: inputs 2j and 2j+1 are the lower and the upper half of x[j*stride].
func genericDots(y *[Outputs]float32, w unsafe.Pointer, x []float32, in, stride int) {
	for i := 0; i < in; i += 2 {
		pair := math.Float32bits(x[i/2*stride])
		even, odd := math.Float32frombits(pair<<16), math.Float32frombits(pair&0xffff0000)
		for o := range y {
			y[o] = fma.Flushed(weight(BF16, w, i, o), even, fma.Flushed(weight(BF16, w, i+1, o), odd, y[o]))
		}
	}
}

// weight is the weight of input i for output o of a panel of 16-bit weights.
func weight(f Format, w unsafe.Pointer, i, o int) float32 {
	if f == F16 {
		return Half(*(*uint16)(unsafe.Add(w, (i*Outputs+o)*2)))
	}
	return math.Float32frombits(uint32(*(*uint16)(unsafe.Add(w, (i/2*Outputs+o)*4+i%2*2))) << 16)
}

// Half is the value of an IEEE 754 binary16.
func Half(h uint16) float32 {
	sign, magnitude := uint32(h)&0x8000<<16, uint32(h)&0x7fff<<13
	v := math.Float32frombits(magnitude) * 0x1p112 // moves the bias of the exponent from 15 to 127, exactly
	if h&0x7c00 == 0x7c00 {                        // infinity and NaN keep their fraction
		v = math.Float32frombits(0xff<<23 | magnitude)
	}
	return math.Float32frombits(math.Float32bits(v) | sign)
}
