package kernel

import (
	"math"
	"unsafe"

	"github.com/pimoe/pimoe/backends/internal/fma"
)

// generic is Tile's loop in pure Go: the oracle of the assembly, and what other processors run.
func generic(f Format, t *Tile) {
	x := unsafe.Slice(t.X, t.In*t.Rows)
	for _, panel := range unsafe.Slice(t.Panels, t.Count) {
		w := unsafe.Add(panel.W, t.W)
		for r := range t.Rows {
			y := (*[Outputs]float32)(unsafe.Add(unsafe.Pointer(panel.Y), t.Y+r*t.Stride))
			if t.Carry == 0 {
				*y = [Outputs]float32{}
			}
			for i := range t.In {
				xi := x[i*t.Rows+r]
				for o := range y {
					y[o] = fma.F32(weight(f, w, i, o), xi, y[o])
				}
			}
		}
	}
}

// weight is the weight of input i for output o of a panel.
func weight(f Format, w unsafe.Pointer, i, o int) float32 {
	switch f {
	case F32:
		return *(*float32)(unsafe.Add(w, (i*Outputs+o)*4))
	case F16:
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
