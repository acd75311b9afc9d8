package model

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/scalar"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Trunk computes a model but for its routed experts. It has one user at a time, the engine's loop: its scratch memory
// is reused from call to call.
type Trunk struct {
	cfg      *Config
	embed    tensor.View
	layers   []layer
	norm     []float32
	head     backends.Linear
	activate func(float32) float32
	scratch  scratch
}

// layer is one transformer layer's weights.
type layer struct {
	attnNorm, ffnNorm []float32
	q, k, v, o        backends.Linear
	qNorm, kNorm      []float32 // nil if there are none

	gate       backends.Linear // nil in a layer without a router
	dense      *ffn            // the layer's FFN, where it has no experts
	shared     *ffn            // the shared expert
	sharedGate backends.Linear
}

// ffn is down(activation(gate x) * up x).
type ffn struct{ gate, up, down backends.Linear }

// Load prepares a trunk from its file, which must stay open as long as the trunk is used.
func Load(cfg *Config, trunk *weights.File, be backends.Backend) (*Trunk, error) {
	l := loader{cfg: cfg, file: trunk, backend: be}
	for _, t := range cfg.trunkTensors() {
		l.check(t)
	}
	if err := errors.Join(l.problems...); err != nil {
		return nil, fmt.Errorf("load %s trunk: %w", cfg.ModelType, err)
	}
	t := &Trunk{cfg: cfg, embed: l.view(embedName), norm: l.vector(normName), activate: scalar.SiLU}
	if cfg.Activation == "gelu_tanh" {
		t.activate = scalar.GELUTanh
	}
	t.head = l.linear(headName, "")
	if cfg.Tied {
		t.head = l.linear(embedName, "")
	}
	for i := range cfg.Layers {
		t.layers = append(t.layers, l.layer(i))
	}
	if err := errors.Join(l.problems...); err != nil {
		return nil, fmt.Errorf("load %s trunk: %w", cfg.ModelType, err)
	}
	return t, nil
}

// Config is what the trunk was loaded with.
func (t *Trunk) Config() *Config { return t.cfg }

// loader turns tensors into prepared weights and collects what goes wrong.
type loader struct {
	cfg      *Config
	file     *weights.File
	backend  backends.Backend
	problems []error
}

func (l *loader) fail(class error, format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), class))
}

func (l *loader) check(t wanted) {
	v, ok := l.file.Tensor(t.name)
	if !ok {
		l.fail(sdk.ErrInvalid, "tensor %s is missing", t.name)
		return
	}
	checkView(t, v, l.fail)
}

func (l *loader) view(name string) tensor.View {
	v, _ := l.file.Tensor(name)
	return v
}

// vector converts a norm's weights to float32.
func (l *loader) vector(name string) []float32 {
	v, ok := l.file.Tensor(name)
	if !ok {
		return nil
	}
	f := make([]float32, v.Elems())
	toFloats(f, v, 0)
	return f
}

// linear prepares a matrix; bias may be empty. A tensor that is not there gives nil: check has seen those that must be.
func (l *loader) linear(name, bias string) backends.Linear {
	v, ok := l.file.Tensor(name)
	if !ok {
		return nil
	}
	var b tensor.View
	if bias != "" {
		b = l.view(bias)
	}
	m, err := l.linearOf(v, b)
	if err != nil {
		l.problems = append(l.problems, fmt.Errorf("tensor %s: %w", name, err))
		return nil
	}
	return m
}

func (l *loader) linearOf(w, bias tensor.View) (backends.Linear, error) {
	class, err := l.backend.Class(w.DType, "")
	if err != nil {
		return nil, err
	}
	return l.backend.Linear(class, w, bias)
}

func (l *loader) projection(i int, name string, bias bool) backends.Linear {
	if bias {
		return l.linear(in(i, name+".weight"), in(i, name+".bias"))
	}
	return l.linear(in(i, name+".weight"), "")
}

func (l *loader) ffn(i int, names layout) *ffn {
	return &ffn{l.linear(in(i, names.gate), ""), l.linear(in(i, names.up), ""), l.linear(in(i, names.down), "")}
}

func (l *loader) layer(i int) layer {
	c := l.cfg
	y := layer{
		attnNorm: l.vector(in(i, attnNorm)), ffnNorm: l.vector(in(i, ffnNorm)),
		q: l.projection(i, "self_attn.q_proj", c.qkvBias), k: l.projection(i, "self_attn.k_proj", c.qkvBias),
		v: l.projection(i, "self_attn.v_proj", c.qkvBias), o: l.projection(i, "self_attn.o_proj", c.outBias),
	}
	if c.arch.qkNorm != noNorm {
		y.qNorm, y.kNorm = l.vector(in(i, "self_attn.q_norm.weight")), l.vector(in(i, "self_attn.k_norm.weight"))
	}
	switch {
	case !c.sparse[i]:
		y.dense = l.ffn(i, denseFFN)
	case !c.Dense():
		y.gate = l.linear(in(i, c.arch.gate), "")
		if c.sharedWidth > 0 {
			y.shared, y.sharedGate = l.ffn(i, sharedFFN), l.linear(in(i, sharedGate), "")
		}
	}
	return y
}

// toFloats fills dst with elements of v from element at on.
func toFloats(dst []float32, v tensor.View, at int) {
	size := v.DType.Size()
	b := v.Data[at*size : (at+len(dst))*size]
	for i := range dst {
		switch v.DType {
		case tensor.F32:
			dst[i] = math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
		case tensor.BF16:
			dst[i] = math.Float32frombits(uint32(b[2*i])<<16 | uint32(b[2*i+1])<<24)
		default:
			dst[i] = f16Float(uint16(b[2*i]) | uint16(b[2*i+1])<<8)
		}
	}
}

// sparse computes a layer's FFN for rows of normalised hidden states: gate, routed experts, shared expert. It fills y.
func (t *Trunk) sparse(ctx context.Context, l int, in moe.Input, block moe.Block, y tensor.Matrix, tm team.Team) error {
	layer := &t.layers[l]
	in.Logits = t.scratch.gate.matrix(in.X.Rows, t.cfg.Experts)
	if layer.gate != nil {
		layer.gate.Apply(in.Logits, in.X, tm)
	} else {
		clear(in.Logits.Data) // one expert: any logit gives it weight 1
	}
	if err := block.Forward(ctx, in, y); err != nil {
		return err // the block names the layer
	}
	if layer.shared == nil {
		return nil
	}
	s := t.scratch.shared.matrix(y.Rows, y.Cols)
	t.ffn(layer.shared, in.X, s, tm)
	g := t.scratch.sharedGate.matrix(y.Rows, 1)
	layer.sharedGate.Apply(g, in.X, tm)
	for r := range y.Rows {
		w := sigmoid(g.Row(r)[0])
		addScaled(y.Row(r), s.Row(r), w)
	}
	return nil
}

// ffn fills y with a dense FFN of x.
func (t *Trunk) ffn(f *ffn, x, y tensor.Matrix, tm team.Team) {
	g := t.scratch.ffnGate.matrix(x.Rows, f.gate.Out())
	u := t.scratch.ffnUp.matrix(x.Rows, f.gate.Out())
	f.gate.Apply(g, x, tm)
	f.up.Apply(u, x, tm)
	parallel(tm, x.Rows, x.Rows*g.Cols, func(_, r int) {
		gr := g.Row(r)
		ur := u.Row(r)[:len(gr)]
		for i, v := range gr {
			gr[i] = t.activate(v) * ur[i]
		}
	})
	f.down.Apply(y, g, tm)
}

// Hidden runs one layer's sparse block (gate, routed and shared experts; no norm, no residual) on rows of hidden
// states that belong to no sequence. observe, if not nil, sees each row's route. The result is the caller's.
func (t *Trunk) Hidden(ctx context.Context, l int, x tensor.Matrix, block moe.Block, tm team.Team,
	observe func(layer, row, k int, ids []int32, weights []float32),
) (tensor.Matrix, error) {
	c := t.cfg
	switch {
	case l < 0 || l >= c.Layers || !c.sparse[l]:
		return tensor.Matrix{}, fmt.Errorf("layer %d has no experts: %w", l, sdk.ErrInvalid)
	case x.Rows < 1 || x.Cols != c.Hidden:
		return tensor.Matrix{}, fmt.Errorf("hidden states are [%d, %d], want rows of %d: %w", x.Rows, x.Cols, c.Hidden, sdk.ErrInvalid)
	}
	for r := range x.Rows {
		if !finite(x.Row(r)) {
			return tensor.Matrix{}, fmt.Errorf("hidden states: row %d has a value that is not finite: %w", r, sdk.ErrInvalid)
		}
	}
	tokens, positions := make([]int32, x.Rows), make([]int32, x.Rows)
	for i := range tokens {
		tokens[i], positions[i] = -1, int32(i)
	}
	y := tensor.NewMatrix(x.Rows, x.Cols)
	in := moe.Input{Layer: l, X: x, Tokens: tokens, Positions: positions, Observe: observe}
	if err := t.sparse(ctx, l, in, block, y, tm); err != nil {
		return tensor.Matrix{}, err
	}
	return y, nil
}
