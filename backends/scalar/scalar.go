// Package scalar holds the elementary functions between matrix products: the exponential and the activations of
// feed-forward blocks. They have the same bits on every machine, which package math does not promise: its exponential
// is assembly with or without fused multiply-add, as the processor has it.
//
// plugins/experts/ffn, the routers and the trunk use it. It refuses vectors and threads: callers loop.
package scalar

import "math"

// Exp is e^x to better than 1e-13, far below half a unit of the float32 that callers round it to. It is 0 below -708
// and +Inf above 709, where float64 ends.
//
// x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r, and e^r is its Taylor polynomial of degree 11. ln 2 comes in two parts, of
// which the first has so few bits that k times it is exact (Cody and Waite 1980).
func Exp(x float64) float64 {
	switch {
	case x != x:
		return x
	case x < -708:
		return 0
	case x > 709:
		return math.Inf(1)
	}
	const (
		ln2High, ln2Low = 0x1.62e42feep-1, 0x1.a39ef35793c76p-33
		shift           = 0x1.8p52 // adding it rounds to an integer, which then stands in the last bits
	)
	t := float64(x*math.Log2E) + shift
	k := t - shift
	r := x - float64(k*ln2High) - float64(k*ln2Low)
	// The polynomial by pairs of terms (Estrin 1960), so that its products don't wait for one another; the conversions
	// keep compilers from fusing.
	r2 := r * r
	r4 := r2 * r2
	low := (1 + r) + float64(r2*(1.0/2+float64(r*(1.0/6))))
	mid := (1.0/24 + float64(r*(1.0/120))) + float64(r2*(1.0/720+float64(r*(1.0/5040))))
	high := (1.0/40320 + float64(r*(1.0/362880))) + float64(r2*(1.0/3628800+float64(r*(1.0/39916800))))
	e := low + float64(r4*(mid+float64(r4*high)))
	return e * math.Float64frombits((math.Float64bits(t)+1023)<<52)
}

// SiLU is g / (1 + e^-g), rounded once.
func SiLU(g float32) float32 {
	return float32(float64(g) / (1 + Exp(-float64(g))))
}

// GELUTanh is the tanh form of GELU (Hendrycks and Gimpel 2016), 0.5 g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))),
// rounded once. It is computed as g / (1 + e^-2u), since (1 + tanh u) / 2 is the logistic function of 2u.
func GELUTanh(g float32) float32 {
	const twice = 2 * 0.79788456080286535588 // 2 sqrt(2/pi)
	x := float64(g)
	u := x + float64(float64(float64(0.044715*x)*x)*x)
	return float32(x / (1 + Exp(-float64(twice*u))))
}
