// Package fma is the fused multiply-add of float32 in pure Go, for the twins that vector kernels are held to. The
// backends and their tests use it. It refuses to depend on what the processor has: the bits are the same everywhere.
package fma

import "math"

// F32 is x*y + z, rounded once, to nearest, ties to even.
func F32(x, y, z float32) float32 {
	s := float64(float64(x)*float64(y)) + float64(z)
	// Rounding s, too, is one rounding too many only if s lies halfway between two float32: with 29 bits more than they have,
	// where they are normal.
	if u := math.Float64bits(s); u&(1<<29-1) != 1<<28 && u<<1 >= (1023-126)<<53 {
		return float32(s)
	}
	return float32(odd(x, y, z))
}

// Flushed is F32 as vector units compute it that know no subnormal numbers: one that comes in is a zero of its sign, and
// so is a result that is tiny. Tiny is, as on x86 (with DAZ and FTZ set) and in AMX, what would be below the normal
// numbers if it were rounded with exponents of any size.
func Flushed(x, y, z float32) float32 {
	s := odd(normal(x), normal(y), normal(z))
	if math.Abs(s) < 0x1p-126-0x1p-151 {
		return float32(math.Copysign(0, s))
	}
	return float32(s)
}

func normal(x float32) float32 {
	if bits := math.Float32bits(x); bits&0x7f800000 == 0 {
		return math.Float32frombits(bits & 0x80000000)
	}
	return x
}

// odd is x*y + z in float64, rounded to odd, after which a rounding to float32 is the only one that shows (Boldo and
// Melquiond, Emulation of a FMA and correctly rounded sums, IEEE Transactions on Computers 57(4), 2008). The product of
// two float32 is exact in float64.
func odd(x, y, z float32) float64 {
	p, c := float64(float64(x)*float64(y)), float64(z)
	s := p + c
	// The error of the sum, exactly (Knuth's two-sum). The conversions keep the compiler from fusing.
	b := float64(s - p)
	e := float64(p-float64(s-b)) + float64(c-b)
	if e != 0 && e == e { // inexact: make the last bit odd, by a step towards the exact sum where it is even
		if u := math.Float64bits(s); u&1 == 0 {
			if (e > 0) == (s > 0) {
				u++
			} else {
				u--
			}
			s = math.Float64frombits(u)
		}
	}
	return s
}
