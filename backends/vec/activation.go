package vec

import (
	"math"

	"github.com/pimoe/pimoe/backends/internal/fma"
)

// SiLUMul is dst[i] = silu(gate[i]) * up[i] with silu(g) = g / (1 + e^-g): the exponential is Exp's, sum, quotient and
// product are rounded once each. dst may be gate or up.
func SiLUMul(dst, gate, up []float32) {
	check(len(dst), len(gate), len(up))
	if len(dst) > 0 {
		siluMul(dst, gate, up)
	}
}

// GELUTanhMul is dst[i] = gelu(gate[i]) * up[i] with the tanh form of GELU (Hendrycks and Gimpel 2016),
// 0.5 g (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))). It is computed as g / (1 + e^-2u), since (1 + tanh u) / 2 is the
// logistic function of 2u. dst may be gate or up.
func GELUTanhMul(dst, gate, up []float32) {
	check(len(dst), len(gate), len(up))
	if len(dst) > 0 {
		geluTanhMul(dst, gate, up)
	}
}

// The bounds of Exp's argument: below, the result is 0, above, infinite, both by its own arithmetic.
const expLow, expHigh = -104, 100

// Exp is e^x within 2 units in the last place of a normal result, and within one of the smallest subnormals below.
//
// x = k ln 2 + r with |r| <= ln 2 / 2, so e^x = 2^k e^r. ln 2 comes in two parts (Cody and Waite 1980); e^r is a
// polynomial of degree 6, 1 + r + the minimax polynomial of what is left, 3.1e-9 off at most. 2^k is multiplied in two
// halves, so that a subnormal result is rounded once.
func Exp(x float32) float32 {
	// Written so that a NaN stays one.
	if x < expLow {
		x = expLow
	} else if x > expHigh {
		x = expHigh
	}
	const shift = 0x1.8p23 // adding it rounds to an integer, which then stands in the last bits
	t := fma.F32(x, 0x1.715476p0, shift)
	n := t - shift
	r := fma.F32(n, -0x1.62e430p-1, x)
	r = fma.F32(n, 0x1.05c610p-29, r)
	p := float32(0x1.6a2434p-10)
	p = fma.F32(p, r, 0x1.1239e2p-7)
	p = fma.F32(p, r, 0x1.5558f2p-5)
	p = fma.F32(p, r, 0x1.555492p-3)
	p = fma.F32(p, r, 0x1.fffffcp-2)
	p = fma.F32(p, r, 1)
	p = fma.F32(p, r, 1)
	k := int32(math.Float32bits(t)) - 0x4b400000
	half := k >> 1
	p *= math.Float32frombits(uint32(half+127) << 23)
	return p * math.Float32frombits(uint32(k-half+127)<<23)
}

// Logistic is 1 / (1 + e^-x).
func Logistic(x float32) float32 { return 1 / (1 + Exp(0-x)) }

func siluMulGeneric(dst, gate, up []float32) {
	for i, g := range gate {
		dst[i] = float32(g/(1+Exp(0-g))) * up[i]
	}
}

func geluTanhMulGeneric(dst, gate, up []float32) {
	const twice = -2 * 0.7978845608028654 // -2 sqrt(2/pi)
	for i, g := range gate {
		u := fma.F32(g, float32(float32(g*g)*0.044715), g)
		dst[i] = float32(g/(1+Exp(u*twice))) * up[i]
	}
}
