// Package int8 is the backend of numeric class int8g32: weights are 8-bit integers with a scale for every 32 inputs of an
// output, activations are quantised the same way when they come in. It reads half the bytes of BF16 weights and multiplies
// several times as fast where the processor has dot products of bytes (AVX512_VNNI); with AVX2, or in pure Go, it is slower
// and has the same bits.
//
// The class: a row's activations in groups of 32 become integers q = x * (127 / absmax), rounded to nearest, ties to even, with
// the scale absmax / 127, in float32; a group whose absmax is at most 127 * 2^-128 is zero, one with a NaN or an infinity makes
// the outputs NaN. Weights are quantised by package pack (g32n16). For each output one float32 accumulator starts at +0; groups
// ascend, those of the padding to 64 inputs included; the products of a group's integers are summed exactly and added by one
// fused multiply-add with the product of the two scales, rounded to float32. The bias comes last. In a block,
// activation(gate) * up is that of package vec, and is quantised again before down.
//
// pimoe-expert-int8 and the trunk use it. It refuses to compute in any other class.
package int8

import (
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/internal/reuse"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Class is the numeric class's name.
const Class = "int8g32"

// Backend computes with the instructions of one level. Make it with New.
type Backend struct {
	kernels *kernel.Kernels
	jobs    reuse.Pool[job] // the memory of calls, which all matrices share
}

// New takes the best level that the machine has, or the one that package isa is forced to.
func New() *Backend { return At(isa.Active()) }

// At takes a level that the machine must have, for tests.
func At(l isa.Level) *Backend {
	return &Backend{kernels: kernel.At(l)}
}

// Name is "int8".
func (*Backend) Name() string { return "int8" }

var types = []tensor.DType{tensor.F32, tensor.BF16, tensor.F16, tensor.I8}

// Class is int8g32 for F32, BF16, F16 and packed I8.
func (*Backend) Class(dtype tensor.DType, asked string) (string, error) {
	if !slices.Contains(types, dtype) {
		return "", fmt.Errorf("%w: weights of type %v in 8-bit integers", sdk.ErrUnsupported, dtype)
	}
	if asked != "" && asked != "auto" && asked != Class {
		return "", fmt.Errorf("%w: numeric class %s, this backend computes in %s alone", sdk.ErrUnsupported, asked, Class)
	}
	return Class, nil
}

// Packing is g32n16.
func (*Backend) Packing(string) string { return pack.G32N16 }

// Linear keeps packed weights that are aligned, and packs or copies all others. bias is copied.
func (b *Backend) Linear(class string, w, bias tensor.View) (backends.Linear, error) {
	if err := backends.CheckLinear(w, bias); err != nil {
		return nil, err
	}
	m, err := b.matrix(class, w)
	if err != nil {
		return nil, err
	}
	l := &linear{backend: b, w: m}
	if len(bias.Data) > 0 {
		l.bias = make([]float32, m.out)
		pack.Widen(l.bias, bias.Data, bias.DType)
	}
	return l, nil
}

// activations by name: dst = act(gate) * up.
var activations = map[string]func(dst, gate, up []float32){"silu": vec.SiLUMul, "gelu_tanh": vec.GELUTanhMul}

// FFN treats the three matrices as Linear does.
func (b *Backend) FFN(class, activation string, gate, up, down tensor.View) (backends.FFN, error) {
	f := &ffn{backend: b, activate: activations[activation]}
	if f.activate == nil {
		return nil, fmt.Errorf("%w: activation %q, known are silu and gelu_tanh", sdk.ErrUnsupported, activation)
	}
	if err := backends.CheckBlock(gate, up, down); err != nil {
		return nil, err
	}
	for _, m := range []struct {
		name string
		w    tensor.View
		to   **matrix
	}{{"gate", gate, &f.gate}, {"up", up, &f.up}, {"down", down, &f.down.w}} {
		var err error
		if *m.to, err = b.matrix(class, m.w); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return f, nil
}

// matrix takes checked weights.
func (b *Backend) matrix(class string, w tensor.View) (*matrix, error) {
	if class != Class {
		return nil, fmt.Errorf("%w: numeric class %q, this backend computes in %s alone", sdk.ErrUnsupported, class, Class)
	}
	var err error
	if w.Packing != "" && w.Packing != pack.G32N16 {
		if w, err = pack.Unpack(w); err != nil {
			return nil, err
		}
	}
	if w.Packing == "" {
		if w, err = pack.Pack(pack.G32N16, w); err != nil {
			return nil, err
		}
	}
	data := w.Data
	if !pack.IsAligned(data) {
		data = pack.Aligned(len(w.Data))
		copy(data, w.Data)
	}
	out, in := w.Shape[0], w.Shape[1]
	return &matrix{out: out, in: in, panels: ceil(out, pack.Panel), blocks: ceil(in, pack.BlockIn), data: data}, nil
}

// ceil is how many pieces of size hold n.
func ceil(n, size int) int { return (n + size - 1) / size }

var _ backends.Backend = (*Backend)(nil)
