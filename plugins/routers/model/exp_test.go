package model

import (
	"hash/fnv"
	"math"
	"testing"
)

func TestExp(t *testing.T) {
	for x := float32(-103); x < 88.7; x += 0.00137 {
		if got, want := Exp(x), float32(math.Exp(float64(x))); math.Abs(float64(got)-float64(want)) > 1e-7*float64(want)+1e-45 {
			t.Fatalf("exp(%g) = %g, math has %g", x, got, want)
		}
	}
	inf := float32(math.Inf(1))
	for x, want := range map[float32]float32{0: 1, -709: 0, -105: 0, 89: inf, 710: inf, inf: inf, -inf: 0} {
		if got := Exp(x); got != want {
			t.Errorf("exp(%g) = %g, want %g", x, got, want)
		}
	}
	if nan := Exp(float32(math.NaN())); nan == nan {
		t.Error("exp(NaN) is a number")
	}
}

// TestExpBits pins every bit: this test passes on one machine if and only if it passes on all.
func TestExpBits(t *testing.T) {
	h := fnv.New64a()
	for bits := uint32(0); bits < 1<<20; bits++ { // numbers of every size
		v := math.Float32frombits(bits<<12 | 0x5a5)
		if v-v != 0 {
			continue
		}
		b := math.Float32bits(Exp(v))
		h.Write([]byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)})
	}
	if got, want := h.Sum64(), uint64(0x223dac3e4c9ef1f); got != want {
		t.Errorf("digest of all results is %#x, want %#x", got, want)
	}
}
