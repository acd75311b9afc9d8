package cpu_test

import (
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/backendtest"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// packing is how the backend wants weights of a type.
func packing(d tensor.DType) string {
	class, err := cpu.New().Class(d, "")
	if err != nil {
		panic(err)
	}
	return cpu.New().Packing(class)
}

// linearOf prepares weights in their default class.
func linearOf(w, bias tensor.View) (backends.Linear, error) {
	be := cpu.New()
	class, err := be.Class(w.DType, "")
	if err != nil {
		return nil, err
	}
	return be.Linear(class, w, bias)
}

func TestBackend(t *testing.T) {
	for _, l := range isa.Available() {
		if l != isa.VNNI { // adds nothing here
			t.Run(l.String(), func(t *testing.T) {
				backendtest.Test(t, func() backends.Backend { return cpu.At(l) })
			})
		}
	}
}

// TestInPlace: aligned packed weights are not copied, so that processes share the pages of a mapped file; whoever changes them
// afterwards, against the contract, sees the change.
func TestInPlace(t *testing.T) {
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		w, err := pack.Pack(packing(d), weights(d, 8, 16))
		if err != nil {
			t.Fatal(err)
		}
		l, err := linearOf(w, tensor.View{})
		if err != nil {
			t.Fatal(err)
		}
		clear(w.Data)
		x, y := tensor.NewMatrix(4, 16), tensor.NewMatrix(4, 8)
		for i := range x.Data {
			x.Data[i], y.Data[i/2] = 1, 1
		}
		l.Apply(y, x, team.Team{})
		for i, v := range y.Data {
			if v != 0 {
				t.Fatalf("%v: y[%d] = %g: the weights were copied", d, i, v)
			}
		}
	}
}

// weights fall off like a normal distribution's, as a model's do.
func weights(d tensor.DType, out, in int) tensor.View {
	v := tensor.View{DType: d, Shape: []int{out, in}}
	seed := uint32(1)
	for range out * in {
		sum := float32(0)
		for range 6 {
			seed = seed*1664525 + 1013904223
			sum += float32(int32(seed)) / (1 << 31)
		}
		bits := math.Float32bits(sum * 0.02)
		switch d {
		case tensor.F32:
			v.Data = append(v.Data, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
		case tensor.BF16:
			v.Data = append(v.Data, byte(bits>>16), byte(bits>>24))
		case tensor.F16: // the fraction is cut, and numbers too small for the format become 0
			h := bits >> 31 << 15
			if e := int(bits>>23&255) - 112; e > 0 {
				h |= uint32(e)<<10 | bits>>13&1023
			}
			v.Data = append(v.Data, byte(h), byte(h>>8))
		}
	}
	return v
}
