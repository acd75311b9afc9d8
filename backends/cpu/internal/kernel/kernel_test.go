package kernel_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
)

// The loops below are those of the kernels' comments.

func naive(y, x []float32, w func(i int) float32) {
	for o := range y {
		var sum float32
		for i := range x {
			sum += float32(x[i] * w(o*len(x)+i))
		}
		y[o] = sum
	}
}

// values are not exact in few bits, so that every rounding counts.
func values(n int, seed uint32) []float32 {
	v := make([]float32, n)
	for i := range v {
		seed = seed*1664525 + 1013904223 // Numerical Recipes' generator
		v[i] = float32(int32(seed)) / (1 << 31)
	}
	return v
}

func bits(n int) []uint16 {
	h := make([]uint16, n)
	for i, v := range values(n, 7) {
		h[i] = uint16(math.Float32bits(v) >> 16)
	}
	return h
}

const guard = 4

// guarded gives room for n values with poison on both sides, which intact finds again.
func guarded(n int) []float32 {
	f := make([]float32, n+2*guard)
	for i := range f {
		f[i] = float32(math.Inf(-1))
	}
	return f
}

func intact(f []float32) bool {
	for i := range guard {
		if !math.IsInf(float64(f[i]), -1) || !math.IsInf(float64(f[len(f)-1-i]), -1) {
			return false
		}
	}
	return true
}

func TestKernels(t *testing.T) {
	for out := range 20 {
		for in := range 20 {
			x, f, h := values(in, 1), values(out*in, 2), bits(out*in)
			for name, c := range map[string]struct {
				fast func(y []float32)
				w    func(i int) float32
			}{
				"Float":     {func(y []float32) { kernel.Float(y, x, f) }, func(i int) float32 { return f[i] }},
				"Half BF16": {func(y []float32) { kernel.Half(y, x, h, kernel.BF16()) }, func(i int) float32 { return kernel.BF16()[h[i]] }},
				"Half F16":  {func(y []float32) { kernel.Half(y, x, h, kernel.F16()) }, func(i int) float32 { return kernel.F16()[h[i]] }},
			} {
				got, want := guarded(out), make([]float32, out)
				c.fast(got[guard : guard+out : guard+out])
				naive(want, x, c.w)
				for o, v := range want {
					if g := got[guard+o]; math.Float32bits(g) != math.Float32bits(v) && (g == g || v == v) {
						t.Fatalf("%s %dx%d: output %d is %g, want %g", name, out, in, o, g, v)
					}
				}
				if !intact(got) {
					t.Fatalf("%s %dx%d: wrote beside y", name, out, in)
				}
			}
		}
	}
}

func TestWiden(t *testing.T) {
	for n := range 20 {
		h, got := bits(n), guarded(n)
		kernel.Widen(got[guard:guard+n], h, kernel.BF16())
		for i, v := range h {
			if want := kernel.BF16()[v]; got[guard+i] != want {
				t.Fatalf("%d values: [%d] = %g, want %g", n, i, got[guard+i], want)
			}
		}
		if !intact(got) {
			t.Fatalf("%d values: wrote beside dst", n)
		}
	}
}

// TestTables checks every pattern by the definition of the formats, in float64.
func TestTables(t *testing.T) {
	for name, f := range map[string]struct {
		table              *kernel.Table
		exponent, fraction int // bits
	}{"BF16": {kernel.BF16(), 8, 7}, "F16": {kernel.F16(), 5, 10}} {
		for h, got := range f.table {
			top := 1<<f.exponent - 1
			e, m := h>>f.fraction&top, float64(h&(1<<f.fraction-1))
			var want float64
			switch {
			case e == 0:
				want = math.Ldexp(m, 2-(top+1)/2-f.fraction)
			case e < top:
				want = math.Ldexp(m+float64(int(1)<<f.fraction), e-(top-1)/2-f.fraction)
			case m == 0:
				want = math.Inf(1)
			default:
				want = math.NaN()
			}
			want = math.Copysign(want, 0.5-float64(h>>15))
			if same := float64(got) == want || got != got && want != want; !same || math.Signbit(float64(got)) != math.Signbit(want) {
				t.Fatalf("%s: %04x is %g, want %g", name, h, got, want)
			}
		}
	}
}

func BenchmarkKernels(b *testing.B) {
	for _, s := range [][2]int{{192, 256}, {256, 192}, {1024, 1024}, {1024, 2048}} {
		out, in := s[0], s[1]
		x, y, f, h := values(in, 1), make([]float32, out), values(out*in, 2), bits(out*in)
		for _, k := range []struct {
			name string
			run  func()
		}{
			{"Float", func() { kernel.Float(y, x, f) }},
			{"Half", func() { kernel.Half(y, x, h, kernel.BF16()) }},
			{"Naive", func() { naive(y, x, func(i int) float32 { return f[i] }) }},
		} {
			b.Run(fmt.Sprintf("%s/%dx%d", k.name, out, in), func(b *testing.B) {
				for b.Loop() {
					k.run()
				}
				b.ReportMetric(2*float64(out*in)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
