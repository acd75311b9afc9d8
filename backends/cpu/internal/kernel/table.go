package kernel

import (
	"math"
	"sync"
)

// Table has the float32 value of every 16-bit pattern of a format.
type Table [1 << 16]float32

// BF16 is the table of bfloat16:
//
//	table[h] = math.Float32frombits(uint32(h) << 16)
var BF16 = sync.OnceValue(func() *Table {
	t := new(Table)
	for h := range t {
		t[h] = math.Float32frombits(uint32(h) << 16)
	}
	return t
})

// F16 is the table of IEEE 754 binary16:
//
//	table[h] = sign * 2^(exponent-15) * 1.fraction    (subnormal: sign * 2^-14 * 0.fraction)
var F16 = sync.OnceValue(func() *Table {
	t := new(Table)
	for h := range t {
		sign, magnitude := uint32(h)&0x8000<<16, uint32(h)&0x7fff<<13
		v := math.Float32frombits(magnitude) * 0x1p112 // moves the bias of the exponent from 15 to 127, exactly
		if h&0x7c00 == 0x7c00 {                        // infinity and NaN keep their fraction
			v = math.Float32frombits(0xff<<23 | magnitude)
		}
		t[h] = math.Float32frombits(math.Float32bits(v) | sign)
	}
	return t
})
