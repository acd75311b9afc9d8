// Package ffn is the feed-forward expert of Mixture-of-Experts models over any backend: for each row x of a unit,
//
//	y = down(act(gate x) * up x)
//
// with act the SiLU of SwiGLU blocks (Shazeer 2020) or the tanh form of GELU. It implements sdk/expert; the programs
// pimoe-expert-NAME serve it, and `--isolation inproc` calls it directly.
//
// It refuses weights of mixed numeric classes, units it was not given, and parameters: it has none.
package ffn

import (
	"context"
	"fmt"
	"sync"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/scalar"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Options are what a program knows of itself.
type Options struct {
	Name    string // the NAME of pimoe-expert-NAME; empty = the backend's
	Version string // free text for people
}

// Expert computes units. Make it with New.
type Expert struct {
	backend backends.Backend
	info    sdk.Info

	mu    sync.RWMutex // guards model and, in Info, info.NumericClass
	model *model       // nil before Load and after Close
}

// model is what Load has made; it does not change.
type model struct {
	hidden, intermediate int
	activation           func(float32) float32
	units                map[expert.Unit]unit
}

// unit is one expert of one layer.
type unit struct{ gate, up, down backends.Linear }

// New makes an expert that computes with be.
func New(be backends.Backend, o Options) *Expert {
	if o.Name == "" {
		o.Name = be.Name()
	}
	return &Expert{backend: be, info: sdk.Info{Name: o.Name, Kind: sdk.KindExpert, Version: o.Version}}
}

// Info has the numeric class once Load has succeeded.
func (e *Expert) Info() sdk.Info {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.info
}

// Load prepares all units. It succeeds at most once.
func (e *Expert) Load(ctx context.Context, spec expert.Spec) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.model != nil {
		return fmt.Errorf("%w: load: the expert is loaded already", sdk.ErrInvalid)
	}
	m, class, err := load(ctx, e.backend, spec)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	e.model, e.info.NumericClass = m, class
	return nil
}

// Forward fills call.Y. Once the context is done it stops before the next piece of work.
func (e *Expert) Forward(ctx context.Context, call *expert.Call) error {
	e.mu.RLock()
	m := e.model
	e.mu.RUnlock()
	if m == nil {
		return fmt.Errorf("%w: forward: no weights are loaded", sdk.ErrUnavailable)
	}
	pieces, err := m.plan(call)
	if err != nil {
		return fmt.Errorf("forward: layer %d: %w", call.Layer, err)
	}
	return m.run(ctx, pieces, max(call.Threads, 1))
}

// Close lets go of the weights.
func (e *Expert) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.model = nil
	return nil
}

// activations by their name in expert.Spec.
var activations = map[string]func(float32) float32{"silu": scalar.SiLU, "gelu_tanh": scalar.GELUTanh}

// forward computes rows of one unit. The rows' bits don't depend on each other or on threads, because those of a
// Linear don't.
func (m *model) forward(u unit, y, x tensor.Matrix, threads int) {
	s := scratch.Get().(*buffers)
	defer scratch.Put(s)
	gate, up := s.matrices(x.Rows, m.intermediate)
	u.gate.Apply(gate, x, threads)
	u.up.Apply(up, x, threads)
	for i, g := range gate.Data {
		gate.Data[i] = m.activation(g) * up.Data[i]
	}
	u.down.Apply(y, gate, threads)
}

// buffers hold the inner activations of a piece. They keep the size of the largest that came by; the plane's slots
// bound that.
type buffers struct{ data []float32 }

var scratch = sync.Pool{New: func() any { return new(buffers) }}

func (b *buffers) matrices(rows, cols int) (gate, up tensor.Matrix) {
	n := rows * cols
	if cap(b.data) < 2*n {
		b.data = make([]float32, 2*n)
	}
	return tensor.MatrixOf(rows, cols, b.data[:n]), tensor.MatrixOf(rows, cols, b.data[n:2*n])
}

var _ expert.Expert = (*Expert)(nil)
