// Package fma is the fused multiply-add of float32 in pure Go, for the twins that vector kernels are held to. The
// backends and their tests use it. It refuses to depend on what the processor has: the bits are the same everywhere.
package fma

import "math"

// F32 is x*y + z, rounded once, to nearest, ties to even. The product of two float32 is exact in float64; the sum is
// rounded to odd there, after which the rounding to float32 is the only one that shows (Boldo and Melquiond, Emulation
// of a FMA and correctly rounded sums, IEEE Transactions on Computers 57(4), 2008).
func F32(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
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
	return float32(s)
}
