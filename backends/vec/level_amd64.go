package vec

import "github.com/pimoe/pimoe/backends/internal/isa"

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
