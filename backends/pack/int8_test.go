package pack_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func halfOf(bits uint16) float32 {
	e, m := int(bits>>10&31), float64(bits&1023)
	v := math.Ldexp(m, -24)
	switch {
	case e == 31 && m != 0:
		v = math.NaN()
	case e == 31:
		v = math.Inf(1)
	case e > 0:
		v = math.Ldexp(1024+m, e-25)
	}
	if bits>>15 == 1 {
		v = -v
	}
	return float32(v)
}

func TestWiden(t *testing.T) {
	src, dst := make([]byte, 2<<16), make([]float32, 1<<16)
	for i := range dst {
		binary.LittleEndian.PutUint16(src[2*i:], uint16(i))
	}
	same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b }
	pack.Widen(dst, src, tensor.F16)
	for i, v := range dst {
		if want := halfOf(uint16(i)); !same(v, want) {
			t.Fatalf("F16 %04x is %g, want %g", i, v, want)
		}
	}
	pack.Widen(dst, src, tensor.BF16)
	for i, v := range dst {
		if math.Float32bits(v) != uint32(i)<<16 {
			t.Fatalf("BF16 %04x is %g", i, v)
		}
	}
}

// checkInt8 holds the packed form of a row-major matrix to the packing's definition, element by element.
func checkInt8(t *testing.T, d tensor.DType, out, in int, data []byte) {
	t.Helper()
	v, err := pack.Pack(pack.G32N16, tensor.View{DType: d, Shape: []int{out, in}, Data: data})
	if err != nil {
		t.Fatal(err)
	}
	back, err := pack.Unpack(v)
	if err != nil {
		t.Fatal(err)
	}
	values := make([]float32, out*in)
	pack.Widen(values, data, d)
	blocks := (in + 63) / 64
	for o := range (out + 15) / 16 * 16 {
		for g := range blocks * 2 {
			block := v.Data[(o/16*blocks+g/2)*1088:][:1088]
			scale := float64(math.Float32frombits(uint32(binary.LittleEndian.Uint16(block[1024+(g%2*16+o%16)*2:])) << 16))
			top, finite := 0.0, true
			for i := g * 32; i < min(g*32+32, in) && o < out; i++ {
				x := math.Abs(float64(values[o*in+i]))
				top, finite = max(top, x), finite && x <= math.MaxFloat32
			}
			// Up to bf16 is by less than one of 128 parts, or one subnormal step.
			if finite && (scale < top/127*(1-1e-7)-0x1p-149 || scale > top/127*(1+1.0/128)*(1+1e-7)+0x1p-133) || finite != (scale == scale) {
				t.Fatalf("output %d, group %d: scale %g of at most %g", o, g, scale, top)
			}
			for i := g * 32; i < g*32+32; i++ {
				q := int(block[i%64/4*64+o%16*4+i%4]) - 128
				if o >= out || i >= in || !finite || scale == 0 {
					if q != 0 {
						t.Fatalf("[%d, %d] is %d without a weight", o, i, q)
					}
					if o < out && i < in && finite != (float32At(back, o*in+i) == 0) {
						t.Fatalf("[%d, %d] came back as %g", o, i, float32At(back, o*in+i))
					}
					continue
				}
				x := float64(values[o*in+i])
				if diff := math.Abs(x/scale - float64(q)); diff > 0.5+1e-5 || q < -127 {
					t.Fatalf("[%d, %d] = %g in steps of %g is %d", o, i, x, scale, q)
				}
				if got := float64(float32At(back, o*in+i)); got != float64(q)*scale {
					t.Fatalf("[%d, %d] came back as %g, want %d * %g", o, i, got, q, scale)
				}
			}
		}
	}
}

func float32At(v tensor.View, i int) float32 {
	return math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:]))
}

// TestInt8 packs random bits, which are often NaN, huge or tiny, and numbers of one size.
func TestInt8(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, s := range [][2]int{{1, 1}, {16, 64}, {17, 63}, {15, 65}, {33, 31}, {5, 32}, {3, 97}, {40, 200}} {
			checkInt8(t, d, s[0], s[1], random(d, s[0], s[1]).Data)
			data := make([]byte, 0, s[0]*s[1]*4)
			for range s[0] * s[1] {
				bits := math.Float32bits(float32(r.NormFloat64()))
				switch d {
				case tensor.F32:
					data = binary.LittleEndian.AppendUint32(data, bits)
				case tensor.BF16:
					data = binary.LittleEndian.AppendUint16(data, uint16(bits>>16))
				default:
					data = binary.LittleEndian.AppendUint16(data, uint16(r.IntN(0x4000)|r.IntN(2)<<15))
				}
			}
			checkInt8(t, d, s[0], s[1], data)
		}
	}
}

func FuzzInt8(f *testing.F) {
	f.Add(uint8(0), uint8(3), []byte("weights of some kind or other"))
	f.Add(uint8(1), uint8(1), []byte{0xff, 0x7f, 0, 0x80, 1, 0})
	f.Add(uint8(2), uint8(33), make([]byte, 200))
	f.Fuzz(func(t *testing.T, kind, width uint8, data []byte) {
		d := []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}[kind%3]
		in := int(width)%130 + 1
		out := len(data) / d.Size() / in
		if out == 0 {
			return
		}
		checkInt8(t, d, out, in, data[:out*in*d.Size()])
	})
}

func BenchmarkInt8(b *testing.B) {
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		b.Run(d.String(), func(b *testing.B) {
			w := tensor.View{DType: d, Shape: []int{1024, 2048}, Data: make([]byte, 1024*2048*d.Size())}
			for i := range w.Data {
				w.Data[i] = byte(i*7) & 0x7f
				if i%d.Size() == d.Size()-1 { // the exponents of weights
					w.Data[i] = 0x3a + byte(i/d.Size()&1)<<7
				}
			}
			b.SetBytes(int64(len(w.Data)))
			for b.Loop() {
				if _, err := pack.Pack(pack.G32N16, w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
