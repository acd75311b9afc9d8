// Package ref is the oracle among the backends: the definition of the numeric classes as nested loops on one thread.
// Tests hold every other backend to it, and pimoe-expert-ref serves it, so that an answer can be checked at the speed of
// a proof. The classes are those of backends.FloatClass and, for whoever asks for it, bf16 and bf16dot.
//
// It refuses to be fast: whoever wants to optimise something here wants package cpu.
package ref

import (
	"encoding/binary"
	"math"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/internal/block"
	"github.com/pimoe/pimoe/backends/internal/fma"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Backend computes naively. The zero value is ready to use.
type Backend struct{}

// New makes the backend.
func New() *Backend { return &Backend{} }

// Name is "ref".
func (*Backend) Name() string { return "ref" }

// Class is that of backends.FloatClass, or bf16 or bf16dot for BF16.
func (*Backend) Class(dtype tensor.DType, asked string) (string, error) {
	return backends.HalfClass(dtype, asked)
}

// Packing is none: the loops walk rows.
func (*Backend) Packing(string) string { return "" }

// Linear converts the weights and the bias to float32; it keeps no reference to either view.
func (b *Backend) Linear(class string, w, bias tensor.View) (backends.Linear, error) {
	if err := backends.CheckLinear(w, bias); err != nil {
		return nil, err
	}
	w, err := block.RowMajor(w)
	if err != nil {
		return nil, err
	}
	if _, err := b.Class(w.DType, class); err != nil {
		return nil, err
	}
	l := &linear{out: w.Shape[0], in: w.Shape[1], w: floats(w), dot: dot}
	switch class {
	case backends.BF16Class:
		l.dot = dotBF16
	case backends.BF16DotClass:
		l.dot = dotPairs
	}
	if len(bias.Data) > 0 {
		l.bias = floats(bias)
	}
	return l, nil
}

// FFN is three Linears and an activation.
func (b *Backend) FFN(class, activation string, gate, up, down tensor.View) (backends.FFN, error) {
	return block.New(b, class, activation, gate, up, down)
}

type linear struct {
	out, in int
	w, bias []float32 // bias is nil if there is none
	dot     func(w, x []float32) float32
}

func (l *linear) Out() int { return l.out }
func (l *linear) In() int  { return l.in }

// Apply ignores the team: one thread is within every bound.
func (l *linear) Apply(y, x tensor.Matrix, _ team.Team) {
	backends.CheckApply(l, y, x)
	for r := range x.Rows {
		yr := y.Row(r)
		for o := range yr {
			yr[o] = l.dot(l.w[o*l.in:(o+1)*l.in], x.Row(r))
			if l.bias != nil {
				yr[o] += l.bias[o]
			}
		}
	}
}

// dot is the sum of the classes of backends.FloatClass.
func dot(w, x []float32) float32 {
	var sum float32
	for i := range w {
		sum = fma.F32(w[i], x[i], sum)
	}
	return sum
}

// dotBF16 is the sum of backends.BF16Class.
func dotBF16(w, x []float32) float32 {
	var sum float32
	for from := 0; from < len(w); from += 32 {
		var part [2]float32 // of even and of odd inputs
		for i := from; i < min(from+32, len(w)); i++ {
			part[i%2] = fma.Flushed(w[i], rounded(x[i]), part[i%2])
		}
		if len(w)%2 == 1 && from+32 > len(w) {
			part[1] = fma.Flushed(0, 0, part[1]) // beside an odd last input there is a zero
		}
		sum = fma.Flushed(1, sum, fma.Flushed(1, part[0], part[1]))
	}
	return sum
}

// dotPairs is the sum of backends.BF16DotClass.
func dotPairs(w, x []float32) float32 {
	var sum float32
	for i := 0; i < len(w); i += 2 {
		if i+1 < len(w) {
			sum = fma.Flushed(w[i+1], rounded(x[i+1]), sum)
		} else {
			sum = fma.Flushed(0, 0, sum)
		}
		sum = fma.Flushed(w[i], rounded(x[i]), sum)
	}
	return sum
}

// rounded is the nearest bfloat16, ties to even.
func rounded(x float32) float32 {
	if x != x {
		return x
	}
	bits := math.Float32bits(x)
	bits += 0x7fff + bits>>16&1
	return math.Float32frombits(bits & 0xffff0000)
}

// floats converts a checked view exactly.
func floats(v tensor.View) []float32 {
	f := make([]float32, v.Elems())
	for i := range f {
		switch v.DType {
		case tensor.F32:
			f[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Data[4*i:]))
		case tensor.BF16: // the upper half of a float32
			f[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(v.Data[2*i:])) << 16)
		case tensor.F16:
			f[i] = half(binary.LittleEndian.Uint16(v.Data[2*i:]))
		}
	}
	return f
}

// half is the value of an IEEE 754 binary16: sign, 5 bits of exponent, 10 bits of fraction.
func half(h uint16) float32 {
	exponent, fraction := int(h>>10&31), float64(h&1023)
	var v float64
	switch exponent {
	case 0: // zero and subnormal numbers
		v = math.Ldexp(fraction, -24)
	case 31:
		v = math.Inf(1)
		if fraction != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(1024+fraction, exponent-25)
	}
	if h>>15 == 1 {
		v = math.Copysign(v, -1)
	}
	return float32(v)
}

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Linear  = (*linear)(nil)
)
