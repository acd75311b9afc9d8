package vec

import (
	"fmt"
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends/isa"
)

// levels runs a test on every level above generic that the machine has.
func levels(t *testing.T, f func(t *testing.T)) {
	defer func(l isa.Level) { level = l }(level)
	for _, l := range isa.Available()[1:] {
		if l <= isa.AVX512 {
			level = l
			t.Run(l.String(), f)
		}
	}
}

const guard = float32(-777.25)

// guarded is n values of a sequence of every size and sign, in the middle of a guard band.
func guarded(n int, seed uint32) (all, mid []float32) {
	all = make([]float32, n+64)
	for i := range all {
		all[i] = guard
	}
	mid = all[32 : 32+n : 32+n]
	for i := range mid {
		seed = seed*1664525 + 1013904223
		scale := math.Exp2(float64(int(seed>>9)%14 - 8))
		mid[i] = float32(float64(int32(seed*2654435761)) / (1 << 31) * scale)
	}
	return all, mid
}

func intact(t *testing.T, what string, all []float32) {
	t.Helper()
	for i := range 32 {
		if all[i] != guard || all[len(all)-1-i] != guard {
			t.Fatalf("%s wrote beyond its slice", what)
		}
	}
}

// equal fails unless two slices have the same bits, or NaN in the same places.
func equal(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i, g := range got {
		if w := want[i]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
			t.Fatalf("%s: value %d of %d is %g (%08x), want %g (%08x)", what, i, len(got), g, math.Float32bits(g), w, math.Float32bits(w))
		}
	}
}

var odd = []float32{0, float32(math.Copysign(0, -1)), 1, -1, 87.3, -87.3, 88.72, 88.73, -103.9, -104.1, 1e30, -1e30, 1e-40, -1e-40, 5, -5,
	float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), math.MaxFloat32, -math.MaxFloat32, 0.5, -0.5, 20, -20}

func TestActivations(t *testing.T) {
	for name, op := range map[string]struct{ fast, twin func(dst, gate, up []float32) }{
		"SiLUMul": {SiLUMul, siluMulGeneric}, "GELUTanhMul": {GELUTanhMul, geluTanhMulGeneric},
	} {
		levels(t, func(t *testing.T) {
			for n := range 70 {
				_, gate := guarded(n, uint32(n))
				_, up := guarded(n, uint32(n)+100)
				if n > 40 {
					copy(gate, odd)
				}
				all, got := guarded(n, 1)
				want := make([]float32, n)
				op.fast(got, gate, up)
				op.twin(want, gate, up)
				equal(t, name, got, want)
				intact(t, name, all)
				op.fast(gate, gate, up)
				equal(t, name+" in place", gate, want)
			}
		})
	}
}

// floats calls f with finite numbers of every size.
func floats(f func(float32)) {
	for bits := uint32(0); bits < 1<<20; bits++ {
		if v := math.Float32frombits(bits<<12 | 0x5a5); v-v == 0 {
			f(v)
		}
	}
}

// TestExp: the bound that Exp states.
func TestExp(t *testing.T) {
	worst := 0.0
	try := func(x float32) {
		want := math.Exp(float64(x))
		got := float64(Exp(x))
		if want > math.MaxFloat32*(1+1e-7) {
			if !math.IsInf(got, 1) {
				t.Fatalf("Exp(%g) = %g", x, got)
			}
			return
		}
		unit := math.Ldexp(1, max(-149, int(math.Floor(math.Log2(max(want, 1e-60))))-23))
		e := math.Abs(got-want) / unit
		if worst = max(worst, e); e > 2 {
			t.Fatalf("Exp(%g) = %g is %.2f units off %g", x, got, e, want)
		}
	}
	floats(try)
	for x := float32(-105); x < 89; x += 0.00037 {
		try(x)
	}
	t.Logf("at most %.3f units in the last place", worst)
	if Exp(float32(math.Inf(-1))) != 0 || !math.IsInf(float64(Exp(float32(math.Inf(1)))), 1) || Exp(0) != 1 || Exp(float32(math.NaN())) == Exp(float32(math.NaN())) {
		t.Error("special values")
	}
}

// TestActivationValues: against package math, within a few units in the last place: the exponential's, and those of
// the error of its argument.
func TestActivationValues(t *testing.T) {
	one := []float32{1}
	worst := map[string]float64{}
	near := func(name string, x, got float32, want float64) {
		bound := 4e-7 + 3e-7*math.Min(math.Abs(float64(x)*float64(x)), 100)
		e := math.Max(math.Abs(float64(got)-want)-1e-36, 0) / (math.Abs(want) + 1e-37) // the logistic function is 0 below -88.7
		if worst[name] = max(worst[name], e); e > bound {
			t.Fatalf("%s(%g) = %g, want %g", name, x, got, want)
		}
	}
	floats(func(v float32) {
		x := float64(v)
		got := []float32{v}
		SiLUMul(got, got, one)
		near("SiLU", v, got[0], x/(1+math.Exp(-x)))
		got[0] = v
		GELUTanhMul(got, got, one)
		near("GELUTanh", v, got[0], x/(1+math.Exp(-2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))))
	})
	t.Log(worst)
}

func BenchmarkSiLUMul(b *testing.B) {
	defer func(l isa.Level) { level = l }(level)
	x, y, z := make([]float32, 1024), make([]float32, 1024), make([]float32, 1024)
	for i := range x {
		x[i], y[i] = float32(i)*0.01-5, 1
	}
	for _, level = range isa.Available()[:3] {
		b.Run(fmt.Sprint(level), func(b *testing.B) {
			for b.Loop() {
				SiLUMul(z, x, y)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/value")
		})
	}
}
