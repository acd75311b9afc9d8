package scalar_test

import (
	"hash/fnv"
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends/scalar"
)

func TestExp(t *testing.T) {
	for x := -707.9; x < 709; x += 0.0137 {
		if got, want := scalar.Exp(x), math.Exp(x); math.Abs(got-want) > 1e-13*want {
			t.Fatalf("Exp(%g) = %g, math has %g", x, got, want)
		}
	}
	for x, want := range map[float64]float64{0: 1, -709: 0, 710: math.Inf(1), math.Inf(1): math.Inf(1), math.Inf(-1): 0} {
		if got := scalar.Exp(x); got != want {
			t.Errorf("Exp(%g) = %g, want %g", x, got, want)
		}
	}
	if !math.IsNaN(scalar.Exp(math.NaN())) {
		t.Error("Exp(NaN) is a number")
	}
}

// floats calls f with numbers of every size: all values of the upper 20 bits that are finite.
func floats(f func(float32)) {
	for bits := uint32(0); bits < 1<<20; bits++ {
		v := math.Float32frombits(bits<<12 | 0x5a5)
		if v == v && !math.IsInf(float64(v), 0) {
			f(v)
		}
	}
}

func TestActivations(t *testing.T) {
	near := func(name string, x, got float32, want float64) {
		if diff := math.Abs(float64(got) - want); diff > 1e-6*math.Abs(want)+1e-44 {
			t.Fatalf("%s(%g) = %g, want %g", name, x, got, want)
		}
	}
	floats(func(v float32) {
		x := float64(v)
		near("SiLU", v, scalar.SiLU(v), x/(1+math.Exp(-x)))
		if x > -3 { // further down 1 + tanh cancels, which is why it isn't computed so
			near("GELUTanh", v, scalar.GELUTanh(v), 0.5*x*(1+math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))))
		}
	})
	for _, f := range []func(float32) float32{scalar.SiLU, scalar.GELUTanh} {
		if math.Float32bits(f(0)) != 0 || f(-1e30) != 0 || f(1e30) != 1e30 {
			t.Errorf("at 0, -1e30, 1e30: %g, %g, %g", f(0), f(-1e30), f(1e30))
		}
	}
}

// TestBits pins every bit: this test passes on one machine if and only if it passes on all.
func TestBits(t *testing.T) {
	h := fnv.New64a()
	floats(func(v float32) {
		for _, r := range []float32{float32(scalar.Exp(float64(v))), scalar.SiLU(v), scalar.GELUTanh(v)} {
			b := math.Float32bits(r)
			h.Write([]byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)})
		}
	})
	if got, want := h.Sum64(), uint64(0xbe811af2bda92b54); got != want {
		t.Errorf("digest of all results is %#x, want %#x", got, want)
	}
}

func BenchmarkSiLU(b *testing.B) {
	v := make([]float32, 1024)
	for b.Loop() {
		for i := range v {
			v[i] = scalar.SiLU(float32(i)*0.01 - 5)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1024, "ns/value")
}
