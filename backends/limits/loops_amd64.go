package limits

import (
	"golang.org/x/sys/cpu"

	"github.com/pimoe/pimoe/backends/isa"
)

// Each loop keeps more sums under way than one takes time, in registers alone.

//go:noescape
func fmaAVX2(rounds int) // 12 x 8 multiply-adds a round

//go:noescape
func fmaAVX512(rounds int) // 24 x 16

//go:noescape
func vnniAVX512(rounds int) // 24 x 64

//go:noescape
func bf16AVX512(rounds int) // 12 x 32

//go:noescape
func int8AMX(rounds int) // 4 x 16 x 16 x 64, with tiles of its own configuration

//go:noescape
func bf16AMX(rounds int) // 4 x 16 x 16 x 32

//go:noescape
func readAVX2(at *byte, stride, n int) // n bytes, a multiple of 256, at each of at + 0, 1, 2, 3 strides

//go:noescape
func readAVX512(at *byte, stride, n int)

func fma(l Level) (loop func(int), flops int) {
	switch {
	case l >= isa.AVX512:
		return fmaAVX512, 2 * 24 * 16
	case l >= isa.AVX2:
		return fmaAVX2, 2 * 12 * 8
	}
	return fmaGeneric, 2 * 4
}

func vnni() (loop func(int), ops int) {
	if isa.Active() < isa.VNNI {
		return nil, 0
	}
	return vnniAVX512, 2 * 24 * 64
}

func bf16dot() (loop func(int), flops int) {
	if isa.Active() < isa.AVX512 || !cpu.X86.HasAVX512BF16 {
		return nil, 0
	}
	return bf16AVX512, 2 * 12 * 32
}

func int8tiles() (loop func(int), ops int) {
	if isa.Active() < isa.AMX {
		return nil, 0
	}
	return int8AMX, 2 * 4 * 16 * 16 * 64
}

func bf16tiles() (loop func(int), flops int) {
	if isa.Active() < isa.AMX {
		return nil, 0
	}
	return bf16AMX, 2 * 4 * 16 * 16 * 32
}

func read4(b []byte, at, stride, n int) {
	switch n = n / 256 * 256; {
	case n == 0:
	case isa.Active() >= isa.AVX512:
		readAVX512(&b[at], stride, n)
	case isa.Active() >= isa.AVX2:
		readAVX2(&b[at], stride, n)
	default:
		readGeneric(b, at, stride, n)
	}
}
