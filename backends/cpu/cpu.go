// Package cpu is the fast backend: the same bits as package ref, from vector instructions on the threads of a team.
// Packed weights are used where they lie, also in a read-only file mapping.
//
// The engine's trunk and pimoe-expert-cpu use it. It refuses types other than F32, BF16 and F16.
package cpu

import (
	"fmt"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Backend computes on the processor's cores.
type Backend struct{ level isa.Level }

// New makes the backend with the best instructions that the machine has and the operator allows.
func New() *Backend { return At(isa.Active()) }

// At makes it with those of a level, which the machine must have.
func At(level isa.Level) *Backend { return &Backend{level} }

// Name is "cpu".
func (*Backend) Name() string { return "cpu" }

// Class is that of backends.FloatClass, or bf16 or bf16dot for BF16.
func (*Backend) Class(dtype tensor.DType, asked string) (string, error) {
	return backends.HalfClass(dtype, asked)
}

var formats = map[string]kernel.Format{"f32": kernel.F32, "bf16w-f32": kernel.BF16, "f16w-f32": kernel.F16, backends.BF16Class: kernel.Blocks,
	backends.BF16DotClass: kernel.Dots}

// Packing is panels of 16 outputs.
func (*Backend) Packing(class string) string {
	switch class {
	case "f32", "f16w-f32":
		return pack.N16
	case "bf16w-f32", backends.BF16Class, backends.BF16DotClass:
		return pack.N16K2
	}
	return ""
}

// Linear copies bias, and weights that aren't packed and aligned.
func (b *Backend) Linear(class string, w, bias tensor.View) (backends.Linear, error) {
	if err := backends.CheckLinear(w, bias); err != nil {
		return nil, err
	}
	m, err := b.matrix(class, w)
	if err != nil {
		return nil, err
	}
	l := &linear{matrix: m}
	if len(bias.Data) > 0 {
		l.bias = make([]float32, m.out)
		pack.Widen(l.bias, bias.Data, bias.DType)
	}
	return l, nil
}

var activations = map[string]func(dst, gate, up []float32){"silu": vec.SiLUMul, "gelu_tanh": vec.GELUTanhMul}

// FFN copies weights that aren't packed and aligned.
func (b *Backend) FFN(class, activation string, gate, up, down tensor.View) (backends.FFN, error) {
	if err := backends.CheckBlock(gate, up, down); err != nil {
		return nil, err
	}
	f := &ffn{activate: activations[activation]}
	if f.activate == nil {
		return nil, fmt.Errorf("%w: activation %q, known are silu and gelu_tanh", sdk.ErrUnsupported, activation)
	}
	for _, m := range []struct {
		name string
		w    tensor.View
		to   *matrix
	}{{"gate", gate, &f.gate}, {"up", up, &f.up}, {"down", down, &f.down.matrix}} {
		var err error
		if *m.to, err = b.matrix(class, m.w); err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return f, nil
}

var _ backends.Backend = (*Backend)(nil)
