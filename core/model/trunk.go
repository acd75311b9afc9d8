package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Trunk computes a model but for its routed experts. It has one user at a time, the engine's loop: its scratch memory
// is reused from call to call.
type Trunk struct {
	cfg     *Config
	embed   tensor.View // row-major
	layers  []layer
	norm    []float32
	head    backends.Linear
	scratch scratch
	batch   batch
	aside   aside
}

// layer is one transformer layer's weights.
type layer struct {
	attnNorm, ffnNorm []float32
	qkv               projections
	o                 backends.Linear
	qNorm, kNorm      []float32 // nil if there are none

	gate       backends.Linear // nil in a layer without a router
	dense      backends.FFN    // the layer's FFN, where it has no experts
	shared     backends.FFN    // the shared expert
	sharedGate backends.Linear
}

// Load prepares a trunk from its file, which must stay open as long as the trunk is used: its tensors are the plan's, or
// packed as PackedTrunk says. be computes the projections, dense and shared FFNs and the head, in the class that
// precision asks of it ("" and "auto" = its default). The gates are computed by package cpu from the weights as the
// model has them, so that the choice of experts adds no error of its own.
func Load(cfg *Config, trunk *weights.File, be backends.Backend, precision string) (*Trunk, error) {
	l := loader{cfg: cfg, file: trunk, backend: be, precision: precision, gate: cpu.New(), large: cfg.trunkMatrices()}
	for _, t := range cfg.trunkTensors() {
		l.check(t)
	}
	if err := errors.Join(l.problems...); err != nil {
		return nil, fmt.Errorf("load %s trunk: %w", cfg.ModelType, err)
	}
	t := &Trunk{cfg: cfg, embed: l.view(embedName), norm: l.vector(normName)}
	t.head = l.head()
	for i := range cfg.Layers {
		t.layers = append(t.layers, l.layer(i))
	}
	if err := errors.Join(l.problems...); err != nil {
		return nil, fmt.Errorf("load %s trunk: %w", cfg.ModelType, err)
	}
	t.aside.run = t.aside.compute
	return t, nil
}

// Config is what the trunk was loaded with.
func (t *Trunk) Config() *Config { return t.cfg }

// sparse computes a layer's FFN for rows of normalised hidden states: gate, routed experts, shared expert. It fills y.
func (t *Trunk) sparse(ctx context.Context, in moe.Input, block moe.Block, y tensor.Matrix, tm team.Team) error {
	layer := &t.layers[in.Layer]
	in.Logits = t.scratch.gate.matrix(in.X.Rows, t.cfg.Experts)
	if layer.gate != nil {
		layer.gate.Apply(in.Logits, in.X, tm)
	} else {
		clear(in.Logits.Data) // one expert: any logit gives it weight 1
	}
	if layer.shared == nil {
		return block.Forward(ctx, in, y) // the block names the layer in its errors
	}
	a := &t.aside
	a.layer, a.x, a.team = layer, in.X, tm
	a.y, a.gate = t.scratch.shared.matrix(y.Rows, y.Cols), t.scratch.sharedGate.matrix(y.Rows, 1)
	a.done = false
	in.Meanwhile = a.run
	if err := block.Forward(ctx, in, y); err != nil {
		return err
	}
	a.compute()
	for r := range y.Rows {
		vec.AddScaled(y.Row(r), a.y.Row(r), vec.Logistic(a.gate.Row(r)[0]))
	}
	return nil
}

// aside is the shared expert, which is computed while the routed ones are at work.
type aside struct {
	layer      *layer
	x, y, gate tensor.Matrix
	team       team.Team
	done       bool
	run        func() // compute, made once
}

// compute does nothing the second time: a Block that has nothing to wait for need not call it.
func (a *aside) compute() {
	if a.done {
		return
	}
	a.done = true
	a.layer.shared.Apply(a.y, a.x, a.team)
	a.layer.sharedGate.Apply(a.gate, a.x, a.team)
}

// Hidden runs one layer's sparse block (gate, routed and shared experts; no norm, no residual) on rows of hidden
// states that belong to no sequence. observe, if not nil, sees each row's route, and judge decides about rows whose experts
// are missing. The result is the caller's.
func (t *Trunk) Hidden(ctx context.Context, l int, x tensor.Matrix, block moe.Block, tm team.Team,
	observe func(layer, row, k int, ids []int32, weights []float32), judge moe.Judge,
) (tensor.Matrix, error) {
	c := t.cfg
	switch {
	case l < 0 || l >= c.Layers || !c.sparse[l]:
		return tensor.Matrix{}, fmt.Errorf("layer %d has no experts: %w", l, sdk.ErrInvalid)
	case x.Rows < 1 || x.Cols != c.Hidden:
		return tensor.Matrix{}, fmt.Errorf("hidden states are [%d, %d], want rows of %d: %w", x.Rows, x.Cols, c.Hidden, sdk.ErrInvalid)
	}
	for r := range x.Rows {
		if !vec.Finite(x.Row(r)) {
			return tensor.Matrix{}, fmt.Errorf("hidden states: row %d has a value that is not finite: %w", r, sdk.ErrInvalid)
		}
	}
	tokens, positions := make([]int32, x.Rows), make([]int32, x.Rows)
	for i := range tokens {
		tokens[i], positions[i] = -1, int32(i)
	}
	y := tensor.NewMatrix(x.Rows, x.Cols)
	in := moe.Input{Layer: l, X: x, Tokens: tokens, Positions: positions, Observe: observe, Judge: judge}
	if err := t.sparse(ctx, in, block, y, tm); err != nil {
		return tensor.Matrix{}, err
	}
	return y, nil
}
