package backendtest

import (
	"encoding/binary"
	"math"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// random is splitmix64 (Steele, Lea, Flood 2014): the same cases on every machine.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9E3779B97F4A7C15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xBF58476D1CE4E5B9
	z = (z ^ z>>27) * 0x94D049BB133111EB
	return z ^ z>>31
}

// weight is a multiple of 2^-11 in [-1/16, 1/16): it is exact in F32, BF16 and F16 alike.
func (r *random) weight() float32 { return float32(int64(r.next()>>56)-128) / 2048 }

// activation is any float32 in [-2, 2).
func (r *random) activation() float32 { return float32(int64(r.next()>>40)-1<<23) / (1 << 22) }

func activations(r *random, rows, cols int) tensor.Matrix {
	m := tensor.NewMatrix(rows, cols)
	for i := range m.Data {
		m.Data[i] = r.activation()
	}
	return m
}

// weights gives a view and, as float64, the values that are in it.
func weights(r *random, d tensor.DType, shape ...int) (tensor.View, []float64) {
	v := tensor.View{DType: d, Shape: shape}
	values := make([]float64, v.Elems())
	for i := range values {
		w := r.weight()
		values[i] = float64(w)
		v.Data = appendValue(v.Data, d, w)
	}
	return v, values
}

// appendValue stores a value that is exact and normal, or zero, in the type.
func appendValue(b []byte, d tensor.DType, v float32) []byte {
	bits := math.Float32bits(v)
	switch d {
	case tensor.F32:
		return binary.LittleEndian.AppendUint32(b, bits)
	case tensor.BF16:
		return binary.LittleEndian.AppendUint16(b, uint16(bits>>16))
	case tensor.F16:
		if v == 0 {
			return append(b, 0, 0)
		}
		exponent := bits>>23&255 - 127 + 15
		return binary.LittleEndian.AppendUint16(b, uint16(bits>>31<<15|exponent<<10|bits>>13&1023))
	}
	panic("backendtest: no encoding for " + d.String())
}

// patterns is a view of arbitrary bits: every exponent, subnormal numbers, infinities and NaNs.
func patterns(r *random, d tensor.DType, shape ...int) tensor.View {
	v := tensor.View{DType: d, Shape: shape}
	v.Data = make([]byte, v.Elems()*d.Size())
	for i := range v.Data {
		v.Data[i] = byte(r.next() >> 32)
	}
	return v
}
