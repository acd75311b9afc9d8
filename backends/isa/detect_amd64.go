package isa

import (
	"sync"

	"golang.org/x/sys/cpu"
)

var detect = sync.OnceValue(func() Level {
	x := &cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA || !x.HasF16C:
		return Generic
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL:
		return AVX2
	case !x.HasAVX512VNNI:
		return AVX512
	case !x.HasAMXTile || !x.HasAMXInt8 || !x.HasAMXBF16 || !tilesAllowed():
		return VNNI
	}
	return AMX
})

// vendor is the processor's maker: 12 letters.
func vendor() (b, d, c uint32)

// AMD says that the processor is one of AMD's, whose prefetches differ from Intel's.
func AMD() bool {
	b, d, c := vendor()
	return b == 0x68747541 && d == 0x69746e65 && c == 0x444d4163 // AuthenticAMD
}
