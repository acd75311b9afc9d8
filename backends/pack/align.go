package pack

import "unsafe"

// Align is where packed weights begin: at a multiple of a cache line.
const Align = 64

// Aligned is n zero bytes at a multiple of Align.
func Aligned(n int) []byte {
	b := make([]byte, n+Align-1)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (Align - 1)
	return b[skip : skip+n : skip+n]
}

// IsAligned reports whether weights can be used where they lie.
func IsAligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%Align == 0
}
