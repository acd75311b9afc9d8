package vec

import "math"

// ToBF16 rounds to bfloat16, to nearest, ties to even.
func ToBF16(dst []uint16, src []float32) {
	check(len(dst), len(src))
	whole := len(src) &^ (lanes - 1)
	if whole > 0 {
		toBF16(dst[:whole], src[:whole])
	}
	toBF16Generic(dst[whole:], src[whole:])
}

// FromBF16 is exact.
func FromBF16(dst []float32, src []uint16) {
	check(len(dst), len(src))
	whole := len(src) &^ (lanes - 1)
	if whole > 0 {
		fromBF16(dst[:whole], src[:whole])
	}
	fromBF16Generic(dst[whole:], src[whole:])
}

// ToF16 rounds to binary16, to nearest, ties to even; what is too large becomes infinite.
func ToF16(dst []uint16, src []float32) {
	check(len(dst), len(src))
	whole := len(src) &^ (lanes - 1)
	if whole > 0 {
		toF16(dst[:whole], src[:whole])
	}
	toF16Generic(dst[whole:], src[whole:])
}

// FromF16 is exact.
func FromF16(dst []float32, src []uint16) {
	check(len(dst), len(src))
	whole := len(src) &^ (lanes - 1)
	if whole > 0 {
		fromF16(dst[:whole], src[:whole])
	}
	fromF16Generic(dst[whole:], src[whole:])
}

func toBF16Generic(dst []uint16, src []float32) {
	for i, f := range src {
		b := math.Float32bits(f)
		if f != f {
			dst[i] = uint16(b>>16) | 0x40
			continue
		}
		dst[i] = uint16((b + 0x7fff + (b>>16)&1) >> 16)
	}
}

func fromBF16Generic(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = math.Float32frombits(uint32(h) << 16)
	}
}

func toF16Generic(dst []uint16, src []float32) {
	for i, f := range src {
		dst[i] = f16Bits(f)
	}
}

func f16Bits(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN
		return sign | 0x7e00
	case b >= 0x477ff000: // rounds past 65504
		return sign | 0x7c00
	case b < 0x38800000: // below 2^-14: a subnormal; adding 0.5 lets the adder round at bit 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(b)+0.5)-0x3f000000)
	}
	b += 0xfff + (b>>13)&1 // nearest, ties to even
	return sign | uint16((b-0x38000000)>>13)
}

func fromF16Generic(dst []float32, src []uint16) {
	for i, h := range src {
		dst[i] = f16Float(h)
	}
}

func f16Float(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	if h&0x7c00 == 0x7c00 {
		return math.Float32frombits(sign | 0x7f800000 | uint32(h&0x3ff)<<13)
	}
	// The exponent's bias is put right by an exact multiplication, which normalises subnormals too.
	return math.Float32frombits(sign | math.Float32bits(math.Float32frombits(uint32(h&0x7fff)<<13)*0x1p112))
}
