package wire

import "golang.org/x/sys/cpu"

var hasAVX2 = cpu.X86.HasAVX2

// copyFiniteLines copies whole lines of 16 values from the start, loading each value once. It returns how many values it
// copied, or -1 if one of them is not finite; all are stored in both cases.
func copyFiniteLines(dst, src []float32) int {
	n := len(dst) &^ 15
	if !hasAVX2 || n == 0 {
		return 0
	}
	if !copyFiniteAVX2(&dst[0], &src[0], n) {
		return -1
	}
	return n
}

// copyFiniteAVX2 copies n values, a multiple of 16, and reports whether all are finite.
//
//go:noescape
func copyFiniteAVX2(dst, src *float32, n int) bool
