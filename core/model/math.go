package model

import (
	"math"

	"github.com/pimoe/pimoe/backends/scalar"
)

// sincos has the same bits on every machine, unlike package math's, which compilers may fuse. It is sin and cos of x for 0 <= x < 2^25 to about 1e-15 absolute: x = n pi/2 + r with pi/2 in two parts, then Taylor.
func sincos(x float64) (sin, cos float64) {
	// The first part has 25 bits, so that n times it is exact for n < 2^28.
	const a, b = 1.57079631090164184570e+00, 1.58932547735281966916e-08
	n := math.Floor(float64(x*(2/math.Pi)) + 0.5)
	r := x - float64(n*a)
	r -= float64(n * b)
	z := float64(r * r)
	s := -1.0 / 1307674368000
	s = float64(s*z) + 1.0/6227020800
	s = float64(s*z) - 1.0/39916800
	s = float64(s*z) + 1.0/362880
	s = float64(s*z) - 1.0/5040
	s = float64(s*z) + 1.0/120
	s = float64(s*z) - 1.0/6
	s = r + float64(float64(s*z)*r)
	q := -1.0 / 87178291200
	q = float64(q*z) + 1.0/479001600
	q = float64(q*z) - 1.0/3628800
	q = float64(q*z) + 1.0/40320
	q = float64(q*z) - 1.0/720
	q = float64(q*z) + 1.0/24
	q = float64(q*z) - 0.5
	q = float64(q*z) + 1
	switch int64(n) & 3 {
	case 0:
		return s, q
	case 1:
		return q, -s
	case 2:
		return -s, -q
	}
	return -q, s
}

// sigmoid is 1 / (1 + e^-x), rounded once.
func sigmoid(x float32) float32 { return float32(1 / (1 + scalar.Exp(-float64(x)))) }

// toBF16 and toF16 round to nearest, ties to even.
func toBF16(dst []uint16, src []float32) {
	src = src[:len(dst)]
	for i, f := range src {
		b := math.Float32bits(f)
		if f != f {
			dst[i] = uint16(b>>16) | 0x40
			continue
		}
		dst[i] = uint16((b + 0x7fff + (b>>16)&1) >> 16)
	}
}

func fromBF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
	for i, h := range src {
		dst[i] = math.Float32frombits(uint32(h) << 16)
	}
}

func toF16(dst []uint16, src []float32) {
	src = src[:len(dst)]
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

func fromF16(dst []float32, src []uint16) {
	dst = dst[:len(src)]
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
