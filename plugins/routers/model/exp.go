package model

import "math"

// Exp is e^x, rounded once. It has the same bits on every machine, which package math does not promise: its exponential
// is assembly with or without fused multiply-add, as the processor has it. Beyond the range of float64 it is 0 and +Inf.
//
// In float64 x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r, and e^r is its Taylor polynomial of degree 11, better
// than 1e-13. ln 2 comes in two parts, of which the first has so few bits that k times it is exact (Cody and Waite 1980).
func Exp(v float32) float32 {
	x := float64(v)
	switch {
	case x != x:
		return v
	case x < -708:
		return 0
	case x > 709:
		return float32(math.Inf(1))
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
	return float32(e * math.Float64frombits((math.Float64bits(t)+1023)<<52))
}
