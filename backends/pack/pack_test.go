package pack_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func random(d tensor.DType, out, in int) tensor.View {
	r := rand.New(rand.NewPCG(uint64(out), uint64(in)))
	v := tensor.View{DType: d, Shape: []int{out, in}, Data: make([]byte, out*in*d.Size())}
	for i := range v.Data {
		v.Data[i] = byte(r.Uint32())
	}
	return v
}

// TestRoundTrip: what is packed comes back, and every byte is where the packing's comment says.
func TestRoundTrip(t *testing.T) {
	for _, c := range []struct {
		packing string
		d       tensor.DType
		at      func(o, i, in int) int // of the element in the packed bytes
	}{
		{pack.N16, tensor.F32, func(o, i, in int) int { return ((o/16*in+i)*16 + o%16) * 4 }},
		{pack.N16, tensor.F16, func(o, i, in int) int { return ((o/16*in+i)*16 + o%16) * 2 }},
		{pack.N16K2, tensor.BF16, func(o, i, in int) int { return (((o/16*((in+1)/2)+i/2)*16+o%16)*2 + i%2) * 2 }},
	} {
		for _, s := range [][2]int{{1, 1}, {16, 2}, {17, 3}, {33, 65}, {48, 64}} {
			w := random(c.d, s[0], s[1])
			v, err := pack.Pack(c.packing, w)
			if err != nil {
				t.Fatal(err)
			}
			if err := pack.Check(v); err != nil || !pack.IsAligned(v.Data) || v.Packing != c.packing || v.DType != c.d {
				t.Errorf("%s %v: %v, aligned %t, %+v", c.packing, s, err, pack.IsAligned(v.Data), v.DType)
			}
			size, sum := c.d.Size(), 0
			for o := range s[0] {
				for i := range s[1] {
					at, from := c.at(o, i, s[1]), (o*s[1]+i)*size
					if !bytes.Equal(v.Data[at:at+size], w.Data[from:from+size]) {
						t.Fatalf("%s %v: element [%d, %d] is not at %d", c.packing, s, o, i, at)
					}
				}
			}
			for _, b := range v.Data {
				sum += int(b)
			}
			for _, b := range w.Data {
				sum -= int(b)
			}
			if sum != 0 {
				t.Errorf("%s %v: the padding is not zero", c.packing, s)
			}
			if back, err := pack.Unpack(v); err != nil || !bytes.Equal(back.Data, w.Data) || back.Packing != "" {
				t.Errorf("%s %v: Unpack: %v", c.packing, s, err)
			}
		}
	}
}

// TestInt8Error: every value comes back within half a step of its group, which is at most absmax/127 rounded up to bf16.
func TestInt8Error(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	const out, in = 37, 150
	w := tensor.View{DType: tensor.F32, Shape: []int{out, in}}
	values := make([]float32, out*in)
	for i := range values {
		values[i] = float32(r.NormFloat64() * math.Exp(r.NormFloat64()*3))
		if i/in == 5 {
			values[i] = 0
		}
		w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(values[i]))
	}
	v, err := pack.Pack(pack.G32N16, w)
	if err != nil {
		t.Fatal(err)
	}
	back, err := pack.Unpack(v)
	if err != nil {
		t.Fatal(err)
	}
	for o := range out {
		for g := 0; g < in; g += 32 {
			top := 0.0
			for i := g; i < min(g+32, in); i++ {
				top = max(top, math.Abs(float64(values[o*in+i])))
			}
			for i := g; i < min(g+32, in); i++ {
				got := float64(math.Float32frombits(binary.LittleEndian.Uint32(back.Data[4*(o*in+i):])))
				if diff := math.Abs(got - float64(values[o*in+i])); diff > top/127*(1+1.0/64)/2*(1+1e-6) {
					t.Fatalf("[%d, %d] = %g came back as %g, absmax of the group %g", o, i, values[o*in+i], got, top)
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		packing string
		change  func(*tensor.View)
		class   error
	}{
		"unknown":  {"n17", func(*tensor.View) {}, sdk.ErrUnsupported},
		"type":     {pack.N16K2, func(*tensor.View) {}, sdk.ErrUnsupported},
		"packed":   {pack.N16, func(v *tensor.View) { v.Packing = pack.N16 }, sdk.ErrInvalid},
		"flat":     {pack.N16, func(v *tensor.View) { v.Shape = []int{24} }, sdk.ErrInvalid},
		"short":    {pack.N16, func(v *tensor.View) { v.Data = v.Data[1:] }, sdk.ErrInvalid},
		"negative": {pack.N16, func(v *tensor.View) { v.Shape = []int{-4, -6} }, sdk.ErrInvalid},
		"huge":     {pack.N16, func(v *tensor.View) { v.Shape = []int{1 << 40, 1 << 40} }, sdk.ErrInvalid},
	} {
		v := random(tensor.F32, 4, 6)
		c.change(&v)
		if _, err := pack.Pack(c.packing, v); !errors.Is(err, c.class) {
			t.Errorf("%s: %v, want %v", name, err, c.class)
		}
	}
	v, err := pack.Pack(pack.N16, random(tensor.F32, 4, 6))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(v *tensor.View){
		"short": func(v *tensor.View) { v.Data = v.Data[4:] }, "shape": func(v *tensor.View) { v.Shape = []int{4, 7} },
		"type": func(v *tensor.View) { v.DType = tensor.BF16 }, "row-major": func(v *tensor.View) { v.Packing = "" },
	} {
		c := v
		change(&c)
		if _, err := pack.Unpack(c); err == nil {
			t.Errorf("Unpack took a view with a wrong %s", name)
		}
	}
}
