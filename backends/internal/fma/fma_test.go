package fma_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/backends/internal/fma"
)

// exact rounds x*y + z once, by arithmetic of any precision.
func exact(x, y, z float32) float32 {
	b := func(v float32) *big.Float { return new(big.Float).SetPrec(1000).SetFloat64(float64(v)) }
	sum := new(big.Float).SetPrec(1000).Mul(b(x), b(y))
	f, _ := sum.Add(sum, b(z)).Float32()
	return f
}

func TestF32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	number := func(spread int) float32 {
		for {
			bits := r.Uint32()&0x807fffff | uint32(127-spread+r.IntN(2*spread+1))<<23
			if r.IntN(4) == 0 {
				bits &= 0xfffff000 // few bits, so that sums meet halfway cases
			}
			if v := math.Float32frombits(bits); v == v && !math.IsInf(float64(v), 0) {
				return v
			}
		}
	}
	for i := range 400_000 {
		spread := []int{2, 14, 60, 126}[i%4]
		x, y := number(spread), number(spread)
		z := number(spread)
		if i%5 == 0 { // near cancellation
			z = -x * y
		}
		got, want := fma.F32(x, y, z), exact(x, y, z)
		if got != want {
			t.Fatalf("%g * %g + %g = %g, want %g", x, y, z, got, want)
		}
	}
}

func TestSpecial(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range [][4]float32{{inf, 1, 1, inf}, {-inf, 2, 0, -inf}, {1, 1, inf, inf}, {math.MaxFloat32, math.MaxFloat32, 0, inf},
		{math.MaxFloat32, math.MaxFloat32, -inf, -inf}, {0x1p-149, 0x1p-149, 1, 1}, {0x1p-149, 0.5, 0, 0}, {0x1p-149, 0.5, 0x1p-149, 0x1p-148}} {
		if got := fma.F32(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%g * %g + %g = %g, want %g", c[0], c[1], c[2], got, c[3])
		}
	}
	for _, c := range [][3]float32{{nan, 1, 1}, {1, 1, nan}, {inf, 0, 1}, {inf, 1, -inf}} {
		if got := fma.F32(c[0], c[1], c[2]); got == got {
			t.Errorf("%g * %g + %g = %g, want NaN", c[0], c[1], c[2], got)
		}
	}
}

func BenchmarkF32(b *testing.B) {
	var s float32
	for i := range b.N {
		s = fma.F32(float32(i), 0.37, s)
	}
	_ = s
}
