package kernel_test

import (
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/isa"
)

// BenchmarkQuantize is about 512 rows of 2048 activations.
func BenchmarkQuantize(b *testing.B) {
	const blocks = 512 * 2048 / 64
	x := activations(rand.New(rand.NewPCG(9, 9)), blocks*64, false)
	q, g := make([]int8, len(x)), make([]kernel.Group, 2*blocks)
	for _, level := range append(levels(), isa.Generic) {
		b.Run(level.String(), func(b *testing.B) {
			b.SetBytes(int64(4 * len(x)))
			for b.Loop() {
				kernel.At(level).Quantize(&q[0], &g[0], &x[0], blocks)
			}
		})
	}
}
