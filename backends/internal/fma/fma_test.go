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

// TestFlushed judges by exact arithmetic rounded to 24 bits with exponents of any size.
func TestFlushed(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	number := func(low, high int) float32 { // exponents from low to high
		bits := r.Uint32()&0x807fffff | uint32(127+low+r.IntN(high-low+1))<<23
		if r.IntN(3) == 0 {
			bits &= 0xfff00000
		}
		return math.Float32frombits(bits)
	}
	zero := func(v float32) float32 {
		if math.Abs(float64(v)) < 0x1p-126 {
			return float32(math.Copysign(0, float64(v)))
		}
		return v
	}
	check := func(x, y, z float32) {
		b := func(v float32) *big.Float { return new(big.Float).SetPrec(1000).SetFloat64(float64(zero(v))) }
		sum := new(big.Float).SetPrec(1000).Mul(b(x), b(y))
		sum.Add(sum, b(z))
		want, _ := new(big.Float).SetPrec(24).Set(sum).Float32()
		if sum.Sign() != 0 && new(big.Float).SetPrec(24).Set(sum).MantExp(nil) < -125 {
			want = float32(math.Copysign(0, float64(sum.Sign())))
		}
		if got := fma.Flushed(x, y, z); got != want || sum.Sign() != 0 && math.Signbit(float64(got)) != math.Signbit(float64(want)) {
			t.Fatalf("%g * %g + %g = %g, want %g", x, y, z, got, want)
		}
	}
	for range 200_000 {
		check(number(-66, -58), number(-66, -58), number(-127, -120))
		check(number(-127, -120), number(-3, 3), number(-127, -120))
		check(number(-20, 20), number(-20, 20), number(-40, 40))
	}
	// At the edge: 2^-126 - 2^-151 rounds to a normal number, the next below is tiny.
	edge := math.Float32frombits(0x3f7fffff) // 1 - 2^-24
	if got := fma.Flushed(edge, 0x1p-126, 0); got != 0 {
		t.Errorf("just below the normal numbers: %g", got)
	}
	if got := fma.Flushed(-0x1p-75, 0x1p-76, 0x1p-126); got != 0x1p-126 {
		t.Errorf("at the edge: %g", got)
	}
}
