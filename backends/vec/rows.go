package vec

import (
	"math"

	"github.com/pimoe/pimoe/backends/internal/fma"
)

// RMSNorm is y[i] = x[i] * r * w[i] with r = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019), products rounded once
// each, the sum of squares as Dot has it. y may be x.
func RMSNorm(y, x, w []float32, eps float32) {
	check(len(y), len(x), len(w))
	if len(y) == 0 {
		return
	}
	mean := dot(x, x) / float32(len(x))
	normScale(y, x, w, float32(1/math.Sqrt(float64(mean+eps))))
}

// Dot is the sum of x[i] * y[i]: each lane is a chain of fused multiply-adds from +0 on.
func Dot(x, y []float32) float32 {
	check(len(x), len(y))
	if len(x) == 0 {
		return 0
	}
	return dot(x, y)
}

// Add is y += x.
func Add(y, x []float32) {
	check(len(y), len(x))
	if len(y) > 0 {
		add(y, x)
	}
}

// AddScaled is y += w * x, fused.
func AddScaled(y, x []float32, w float32) {
	check(len(y), len(x))
	if len(y) > 0 {
		addScaled(y, x, w)
	}
}

// Scale is y = x * w. y may be x.
func Scale(y, x []float32, w float32) {
	check(len(y), len(x))
	if len(y) > 0 {
		scale(y, x, w)
	}
}

// Clamp cuts x to [-limit, limit]; NaN stays.
func Clamp(x []float32, limit float32) {
	if len(x) > 0 {
		clamp(x, limit)
	}
}

// Finite says whether no value is infinite or NaN.
func Finite(x []float32) bool { return len(x) == 0 || defects(x) == 0 }

// Rotate turns the heads of a row in place (Su et al. 2021): value i of a head's first half and value i of its second
// half by the angle of cos[i] and sin[i]; products and sums are rounded once each. x is [heads, 2 len(cos)].
func Rotate(x, cos, sin []float32) {
	check(len(cos), len(sin))
	if len(x) == 0 {
		return
	}
	if len(cos) == 0 || len(x)%(2*len(cos)) != 0 {
		panic(panicLength)
	}
	rotate(x, cos, sin)
}

func dotGeneric(x, y []float32) float32 {
	var sum [lanes]float32
	for i, v := range x {
		sum[i%lanes] = fma.F32(v, y[i], sum[i%lanes])
	}
	return fold(sum)
}

// fold adds up the lanes.
func fold(sum [lanes]float32) float32 {
	for half := lanes / 2; half > 0; half /= 2 {
		for j := range half {
			sum[j] += sum[j+half]
		}
	}
	return sum[0]
}

func normScaleGeneric(y, x, w []float32, r float32) {
	for i, v := range x {
		y[i] = float32(v*r) * w[i]
	}
}

func addGeneric(y, x []float32) {
	for i, v := range x {
		y[i] += v
	}
}

func addScaledGeneric(y, x []float32, w float32) {
	for i, v := range x {
		y[i] = fma.F32(v, w, y[i])
	}
}

func scaleGeneric(y, x []float32, w float32) {
	for i, v := range x {
		y[i] = v * w
	}
}

func clampGeneric(x []float32, limit float32) {
	for i, v := range x {
		if v < -limit {
			x[i] = -limit
		} else if v > limit {
			x[i] = limit
		}
	}
}

func defectsGeneric(x []float32) uint32 {
	for _, v := range x {
		if v-v != 0 {
			return 1
		}
	}
	return 0
}

func rotateGeneric(x, cos, sin []float32) {
	n := len(cos)
	for ; len(x) > 0; x = x[2*n:] {
		lo, hi := x[:n], x[n:2*n]
		for i, c := range cos {
			a, b := lo[i], hi[i]
			lo[i] = float32(a*c) - float32(b*sin[i])
			hi[i] = float32(b*c) + float32(a*sin[i])
		}
	}
}
