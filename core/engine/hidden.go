package engine

import (
	"context"
	"fmt"
	"slices"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// RouteInfo is the route of one row in one layer.
type RouteInfo struct {
	Layer   int
	Row     int
	IDs     []int32
	Weights []float32
}

// job is a call of Hidden on its way through the loop.
type job struct {
	ctx    context.Context
	layers []int
	x      tensor.Matrix // the job's own copy
	routes []RouteInfo
	err    error
	done   chan struct{} // closed when x and routes are the answer, or err
}

// Hidden runs a layer's experts on raw hidden states: gate, router, routed and shared experts, without norm and
// residual. It runs in the decode loop between steps. layer -1 is the first layer that has experts. With all, the
// layers that have experts from this one on run one after the other, each on the output of the one before it.
// x is [rows, hidden] and finite; it is not kept. The routes come by layer, then by row.
func (e *Engine) Hidden(ctx context.Context, layer int, x tensor.Matrix, all bool) (tensor.Matrix, []RouteInfo, error) {
	none := tensor.Matrix{}
	layers, err := pick(e.trunk.Layers(), layer, all)
	if err != nil {
		return none, nil, err
	}
	if x.Rows == 0 {
		return none, nil, fmt.Errorf("hidden states without rows: %w", sdk.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return none, nil, cancelled("hidden states", context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, e.limits.RequestTimeout)
	defer cancel()
	j := &job{ctx: ctx, layers: layers, x: clone(x), done: make(chan struct{})}
	add := func() { e.box.jobs = append(e.box.jobs, j) }
	if err := e.box.accept(e.limits.MaxConcurrentRequests+e.limits.MaxQueuedRequests, add); err != nil {
		return none, nil, fmt.Errorf("hidden states: %w", err)
	}
	select {
	case <-j.done:
		if j.err != nil {
			return none, nil, fmt.Errorf("hidden states: %w", classify(j.err))
		}
		return j.x, j.routes, nil
	case <-ctx.Done():
		return none, nil, cancelled("hidden states", context.Cause(ctx))
	}
}

// pick chooses the layers to run.
func pick(sparse []int, layer int, all bool) ([]int, error) {
	if len(sparse) == 0 {
		return nil, fmt.Errorf("the model has no layer with experts: %w", sdk.ErrUnsupported)
	}
	if layer == -1 {
		layer = sparse[0]
	}
	i := slices.Index(sparse, layer)
	switch {
	case i < 0:
		return nil, fmt.Errorf("layer %d has no experts, layers %v have: %w", layer, sparse, sdk.ErrInvalid)
	case all:
		return sparse[i:], nil
	}
	return sparse[i : i+1], nil
}

// run computes the job's answer.
func (j *job) run(ctx context.Context, f forwarder) {
	for _, layer := range j.layers {
		route := func(row int, ids []int32, weights []float32) {
			j.routes = append(j.routes, RouteInfo{layer, row, slices.Clone(ids), slices.Clone(weights)})
		}
		y, err := f.Hidden(ctx, layer, j.x, route)
		if err != nil {
			j.err = fmt.Errorf("layer %d: %w", layer, err)
			return
		}
		j.x = y
	}
}

// clone copies a matrix.
func clone(x tensor.Matrix) tensor.Matrix {
	y := tensor.NewMatrix(x.Rows, x.Cols)
	for r := range x.Rows {
		copy(y.Row(r), x.Row(r))
	}
	return y
}
