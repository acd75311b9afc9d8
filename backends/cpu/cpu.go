// Package cpu is the fast backend: the same bits as package ref, from blocked loops in pure Go on several threads.
// Weights are used where they lie, also in a read-only file mapping.
//
// The engine's trunk and pimoe-expert-cpu use it. It refuses types other than F32, BF16 and F16.
package cpu

import (
	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/internal/block"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Backend computes on the processor's cores. The zero value is ready to use.
type Backend struct{}

// New makes the backend.
func New() *Backend { return &Backend{} }

// Name is "cpu".
func (*Backend) Name() string { return "cpu" }

// Class is that of backends.FloatClass.
func (*Backend) Class(dtype tensor.DType, asked string) (string, error) {
	return backends.FloatClass(dtype, asked)
}

// Packing is none yet.
func (*Backend) Packing(string) string { return "" }

// FFN is three Linears and an activation.
func (b *Backend) FFN(class, activation string, gate, up, down tensor.View) (backends.FFN, error) {
	return block.New(b, class, activation, gate, up, down)
}

// Linear keeps w.Data, unless its bytes are not aligned for their type, and copies bias.
func (*Backend) Linear(_ string, w, bias tensor.View) (backends.Linear, error) {
	w, err := block.RowMajor(w)
	if err != nil {
		return nil, err
	}
	if err := backends.CheckLinear(w, bias); err != nil {
		return nil, err
	}
	l := &linear{out: w.Shape[0], in: w.Shape[1], bias: floats(bias)}
	if w.DType == tensor.F32 {
		l.float = words[float32](w.Data)
	} else {
		l.half, l.table = words[uint16](w.Data), tableOf(w.DType)
	}
	return l, nil
}

var _ backends.Backend = (*Backend)(nil)
