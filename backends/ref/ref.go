// Package ref is the oracle among the backends: the definition of the classes f32, bf16w-f32 and f16w-f32 as three
// nested loops on one thread. Tests hold every other backend to it, and pimoe-expert-ref serves it, so that an answer
// can be checked at the speed of a proof.
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

// Class is that of backends.FloatClass.
func (*Backend) Class(dtype tensor.DType, asked string) (string, error) {
	return backends.FloatClass(dtype, asked)
}

// Packing is none: the loops walk rows.
func (*Backend) Packing(string) string { return "" }

// Linear converts the weights and the bias to float32; it keeps no reference to either view.
func (*Backend) Linear(_ string, w, bias tensor.View) (backends.Linear, error) {
	w, err := block.RowMajor(w)
	if err != nil {
		return nil, err
	}
	if err := backends.CheckLinear(w, bias); err != nil {
		return nil, err
	}
	l := &linear{out: w.Shape[0], in: w.Shape[1], w: floats(w)}
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
}

func (l *linear) Out() int { return l.out }
func (l *linear) In() int  { return l.in }

// Apply ignores the team: one thread is within every bound.
func (l *linear) Apply(y, x tensor.Matrix, _ team.Team) {
	backends.CheckApply(l, y, x)
	for r := range x.Rows {
		xr, yr := x.Row(r), y.Row(r)
		for o := range l.out {
			var sum float32
			for i := range l.in {
				sum = fma.F32(l.w[o*l.in+i], xr[i], sum)
			}
			if l.bias != nil {
				sum += l.bias[o]
			}
			yr[o] = sum
		}
	}
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
