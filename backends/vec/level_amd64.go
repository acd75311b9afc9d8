package vec

import (
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Each operation goes to its kernel for the level. None of the slices is empty.

func siluMul(dst, gate, up []float32) {
	switch {
	case level >= isa.AVX512:
		siluMulAVX512(&dst[0], &gate[0], &up[0], len(dst))
	case level == isa.AVX2:
		siluMulAVX2(&dst[0], &gate[0], &up[0], len(dst))
	default:
		siluMulGeneric(dst, gate, up)
	}
}

func geluTanhMul(dst, gate, up []float32) {
	switch {
	case level >= isa.AVX512:
		geluTanhMulAVX512(&dst[0], &gate[0], &up[0], len(dst))
	case level == isa.AVX2:
		geluTanhMulAVX2(&dst[0], &gate[0], &up[0], len(dst))
	default:
		geluTanhMulGeneric(dst, gate, up)
	}
}

func dot(x, y []float32) float32 {
	switch {
	case level >= isa.AVX512:
		return dotAVX512(&x[0], &y[0], len(x))
	case level == isa.AVX2:
		return dotAVX2(&x[0], &y[0], len(x))
	}
	return dotGeneric(x, y)
}

func normScale(y, x, w []float32, r float32) {
	switch {
	case level >= isa.AVX512:
		normScaleAVX512(&y[0], &x[0], &w[0], r, len(y))
	case level == isa.AVX2:
		normScaleAVX2(&y[0], &x[0], &w[0], r, len(y))
	default:
		normScaleGeneric(y, x, w, r)
	}
}

func add(y, x []float32) {
	switch {
	case level >= isa.AVX512:
		addAVX512(&y[0], &x[0], len(y))
	case level == isa.AVX2:
		addAVX2(&y[0], &x[0], len(y))
	default:
		addGeneric(y, x)
	}
}

func addScaled(y, x []float32, w float32) {
	switch {
	case level >= isa.AVX512:
		addScaledAVX512(&y[0], &x[0], w, len(y))
	case level == isa.AVX2:
		addScaledAVX2(&y[0], &x[0], w, len(y))
	default:
		addScaledGeneric(y, x, w)
	}
}

func scale(y, x []float32, w float32) {
	switch {
	case level >= isa.AVX512:
		scaleAVX512(&y[0], &x[0], w, len(y))
	case level == isa.AVX2:
		scaleAVX2(&y[0], &x[0], w, len(y))
	default:
		scaleGeneric(y, x, w)
	}
}

func clamp(x []float32, limit float32) {
	switch {
	case level >= isa.AVX512:
		clampAVX512(&x[0], limit, len(x))
	case level == isa.AVX2:
		clampAVX2(&x[0], limit, len(x))
	default:
		clampGeneric(x, limit)
	}
}

func defects(x []float32) uint32 {
	switch {
	case level >= isa.AVX512:
		return defectsAVX512(&x[0], len(x))
	case level == isa.AVX2:
		return defectsAVX2(&x[0], len(x))
	}
	return defectsGeneric(x)
}

func rotate(x, cos, sin []float32) {
	switch {
	case level >= isa.AVX512:
		rotateAVX512(&x[0], &cos[0], &sin[0], len(cos), len(x)/(2*len(cos)))
	case level == isa.AVX2:
		rotateAVX2(&x[0], &cos[0], &sin[0], len(cos), len(x)/(2*len(cos)))
	default:
		rotateGeneric(x, cos, sin)
	}
}

func top(s []float32) float32 {
	switch {
	case level >= isa.AVX512:
		return topAVX512(&s[0], len(s)/lanes)
	case level == isa.AVX2:
		return topAVX2(&s[0], len(s)/lanes)
	}
	return topGeneric(s)
}

func expSum(s []float32, top float32, sum *[lanes]float32) {
	switch {
	case level >= isa.AVX512:
		expSumAVX512(&s[0], top, &sum[0], len(s)/lanes)
	case level == isa.AVX2:
		expSumAVX2(&s[0], top, &sum[0], len(s)/lanes)
	default:
		expSumGeneric(s, top, sum)
	}
}

func fromBF16(dst []float32, src []uint16) {
	switch {
	case level >= isa.AVX512:
		fromBF16AVX512(&dst[0], &src[0], len(dst)/lanes)
	case level == isa.AVX2:
		fromBF16AVX2(&dst[0], &src[0], len(dst)/lanes)
	default:
		fromBF16Generic(dst, src)
	}
}

func toBF16(dst []uint16, src []float32) {
	switch {
	case level >= isa.AVX512:
		toBF16AVX512(&dst[0], &src[0], len(dst)/lanes)
	case level == isa.AVX2:
		toBF16AVX2(&dst[0], &src[0], len(dst)/lanes)
	default:
		toBF16Generic(dst, src)
	}
}

func fromF16(dst []float32, src []uint16) {
	switch {
	case level >= isa.AVX512:
		fromF16AVX512(&dst[0], &src[0], len(dst)/lanes)
	case level == isa.AVX2:
		fromF16AVX2(&dst[0], &src[0], len(dst)/lanes)
	default:
		fromF16Generic(dst, src)
	}
}

func toF16(dst []uint16, src []float32) {
	switch {
	case level >= isa.AVX512:
		toF16AVX512(&dst[0], &src[0], len(dst)/lanes)
	case level == isa.AVX2:
		toF16AVX2(&dst[0], &src[0], len(dst)/lanes)
	default:
		toF16Generic(dst, src)
	}
}

func scores(s []float32, ld int, q []float32, dim int, k Store, at []int) {
	wide := level >= isa.AVX512
	switch {
	case level < isa.AVX2:
		scoresGeneric(s, ld, q, dim, k, at)
	case wide && k.DType == tensor.F32:
		scoresF32AVX512(&s[0], ld, &q[0], len(q)/dim, dim, &k.F[0], &at[0], len(at))
	case wide && k.DType == tensor.BF16:
		scoresBF16AVX512(&s[0], ld, &q[0], len(q)/dim, dim, &k.H[0], &at[0], len(at))
	case wide && k.DType == tensor.F16:
		scoresF16AVX512(&s[0], ld, &q[0], len(q)/dim, dim, &k.H[0], &at[0], len(at))
	case k.DType == tensor.F32:
		scoresF32AVX2(&s[0], ld, &q[0], len(q)/dim, dim, &k.F[0], &at[0], len(at))
	case k.DType == tensor.BF16:
		scoresBF16AVX2(&s[0], ld, &q[0], len(q)/dim, dim, &k.H[0], &at[0], len(at))
	default:
		scoresF16AVX2(&s[0], ld, &q[0], len(q)/dim, dim, &k.H[0], &at[0], len(at))
	}
}

func mix(out []float32, width int, p []float32, ld int, v Store, at []int, from, to int) {
	wide := level >= isa.AVX512
	switch {
	case level < isa.AVX2:
		mixGeneric(out, width, p, ld, v, at, from, to)
	case wide && v.DType == tensor.F32:
		mixF32AVX512(&out[0], width, &p[0], ld, len(out)/width, &v.F[0], &at[0], from, to)
	case wide && v.DType == tensor.BF16:
		mixBF16AVX512(&out[0], width, &p[0], ld, len(out)/width, &v.H[0], &at[0], from, to)
	case wide && v.DType == tensor.F16:
		mixF16AVX512(&out[0], width, &p[0], ld, len(out)/width, &v.H[0], &at[0], from, to)
	case v.DType == tensor.F32:
		mixF32AVX2(&out[0], width, &p[0], ld, len(out)/width, &v.F[0], &at[0], from, to)
	case v.DType == tensor.BF16:
		mixBF16AVX2(&out[0], width, &p[0], ld, len(out)/width, &v.H[0], &at[0], from, to)
	default:
		mixF16AVX2(&out[0], width, &p[0], ld, len(out)/width, &v.H[0], &at[0], from, to)
	}
}
