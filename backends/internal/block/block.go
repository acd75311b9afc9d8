// Package block is the expert block as its definition says it, over any backend's Linear: ref serves it as the oracle,
// and a backend without a fused block uses it. It refuses to be fast.
package block

import (
	"fmt"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// FFN is y = down(act(gate x) * up x), with act the SiLU of SwiGLU blocks (Shazeer 2020) or the tanh form of GELU.
type FFN struct {
	gate, up, down backends.Linear
	activate       func(dst, gate, up []float32)
}

// New prepares the three matrices with be.
func New(be backends.Backend, class, activation string, gate, up, down tensor.View) (*FFN, error) {
	f := &FFN{}
	switch activation {
	case "silu":
		f.activate = vec.SiLUMul
	case "gelu_tanh":
		f.activate = vec.GELUTanhMul
	default:
		return nil, fmt.Errorf("%w: activation %q, known are silu and gelu_tanh", sdk.ErrUnsupported, activation)
	}
	for _, m := range []struct {
		name string
		w    tensor.View
		to   *backends.Linear
	}{{"gate", gate, &f.gate}, {"up", up, &f.up}, {"down", down, &f.down}} {
		l, err := be.Linear(class, m.w, tensor.View{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.name, err)
		}
		*m.to = l
	}
	if f.up.In() != f.gate.In() || f.up.Out() != f.gate.Out() || f.down.In() != f.gate.Out() || f.down.Out() != f.gate.In() {
		return nil, fmt.Errorf("%w: gate %v, up %v and down %v are no block", sdk.ErrInvalid, gate.Shape, up.Shape, down.Shape)
	}
	return f, nil
}

// Hidden is the width of x and y.
func (f *FFN) Hidden() int { return f.gate.In() }

// Intermediate is the inner width.
func (f *FFN) Intermediate() int { return f.gate.Out() }

// Apply fills y.
func (f *FFN) Apply(y, x tensor.Matrix, t team.Team) {
	backends.CheckFFN(f, y, x)
	g, u := tensor.NewMatrix(x.Rows, f.gate.Out()), tensor.NewMatrix(x.Rows, f.gate.Out())
	f.gate.Apply(g, x, t)
	f.up.Apply(u, x, t)
	f.activate(g.Data, g.Data, u.Data)
	f.down.Apply(y, g, t)
}

// RowMajor is a view without its packing, if it has one.
func RowMajor(w tensor.View) (tensor.View, error) {
	if w.Packing == "" {
		return w, nil
	}
	return pack.Unpack(w)
}

var _ backends.FFN = (*FFN)(nil)
