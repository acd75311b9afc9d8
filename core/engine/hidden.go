package engine

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/moe"
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
	caller flowKey // in whose line it waits
	cost   float64 // tokens that its rows are worth
	layers []int
	input  tensor.Matrix // the job's own copy
	accept moe.Accept
	judged bool          // experts may be missing
	alone  bool          // joined with others it has failed
	parts  []*job        // what this one joins; nil = it is a caller's own
	x      tensor.Matrix // the answer
	routes []RouteInfo
	lost   ledger
	outage outage
	flow   *flow
	tag    float64 // by which it has its turn
	begun  bool    // has had one
	err    error
	done   chan struct{} // closed when x and routes are the answer, or err
}

// Hidden runs a layer's experts on raw hidden states: gate, router, routed and shared experts, without norm and
// residual. It runs in the decode loop between steps. layer -1 is the first layer that has experts. With all, the
// layers that have experts from this one on run one after the other, each on the output of the one before it.
// x is [rows, hidden] and finite; it is not kept. accept is Request.Accept. The routes come by layer, then by row.
// Calls wait in the lines of their tenants, as requests do, and are refused like them.
func (e *Engine) Hidden(ctx context.Context, layer int, x tensor.Matrix, all bool, accept moe.Accept) (tensor.Matrix, []RouteInfo, Quality, error) {
	none := tensor.Matrix{}
	layers, err := pick(e.trunk.Layers(), layer, all)
	if err != nil {
		return none, nil, Quality{}, err
	}
	if x.Rows == 0 {
		return none, nil, Quality{}, fmt.Errorf("hidden states without rows: %w", sdk.ErrInvalid)
	}
	if err := ctx.Err(); err != nil {
		return none, nil, Quality{}, cancelled("hidden states", context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, e.live.patience())
	defer cancel()
	j := &job{ctx: ctx, caller: callerOf(ctx), layers: layers, input: clone(x), accept: accept, judged: e.lenient, done: make(chan struct{})}
	j.cost = float64(x.Rows*len(layers)) / float64(len(e.trunk.Layers())) // a token of a request passes all of them
	if err := e.box.accept(j, e.live.now(), e.now()); err != nil {
		return none, nil, Quality{}, fmt.Errorf("hidden states: %w", err)
	}
	select {
	case <-j.done:
		if j.err != nil {
			return none, nil, Quality{}, fmt.Errorf("hidden states: %w", classify(j.err))
		}
		return j.x, j.routes, j.lost.quality, nil
	case <-ctx.Done():
		return none, nil, Quality{}, cancelled("hidden states", context.Cause(ctx))
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
	j.x, j.routes, j.lost = j.input, nil, ledger{}
	for _, layer := range j.layers {
		var judge moe.Judge
		if j.judged {
			judge = jobJudge{j, layer}
		}
		route := func(row int, ids []int32, weights []float32) {
			j.routes = append(j.routes, RouteInfo{layer, row, slices.Clone(ids), slices.Clone(weights)})
		}
		y, err := f.Hidden(ctx, layer, j.x, route, judge)
		if err != nil {
			j.err = fmt.Errorf("layer %d: %w", layer, err)
			return
		}
		j.x = y
	}
}

// joins reports whether another job can run as rows of the same calls: bits don't depend on who shares a batch, and reading
// the experts' weights is most of what a few rows cost. Where experts may be missing each job has a judge of its own.
func (j *job) joins(o *job) bool {
	return !j.judged && !o.judged && !j.alone && !o.alone && slices.Equal(j.layers, o.layers) && j.input.Cols == o.input.Cols
}

// join makes one job of several. Its time is up when that of the last of them is, or when all callers have gone.
func join(parts []*job) (*job, context.CancelFunc) {
	all := &job{layers: parts[0].layers, parts: parts}
	rows, until := 0, time.Time{}
	for _, p := range parts {
		rows += p.input.Rows
		if d, ok := p.ctx.Deadline(); ok {
			until = latest(until, d)
		}
	}
	all.input = tensor.NewMatrix(rows, parts[0].input.Cols)
	at := 0
	for _, p := range parts {
		for r := range p.input.Rows {
			copy(all.input.Row(at), p.input.Row(r))
			at++
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	all.ctx = ctx
	var waiting atomic.Int64
	waiting.Store(int64(len(parts)))
	for _, p := range parts {
		context.AfterFunc(p.ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return all, cancel
}

// split gives each part its rows of the answer.
func (j *job) split() {
	at := 0
	for _, p := range j.parts {
		p.x = j.x.Slice(at, at+p.input.Rows)
		for _, r := range j.routes {
			if r.Row >= at && r.Row < at+p.input.Rows {
				r.Row -= at
				p.routes = append(p.routes, r)
			}
		}
		at += p.input.Rows
	}
}

// jobJudge speaks for the rows of a job in one layer.
type jobJudge struct {
	*job
	layer int
}

// Accept implements moe.Judge.
func (j jobJudge) Accept(int) moe.Accept { return j.accept }

// Lost implements moe.Judge.
func (j jobJudge) Lost(_ int, o moe.Outcome) { j.lost.lose(j.layer, o) }

// clone copies a matrix.
func clone(x tensor.Matrix) tensor.Matrix {
	y := tensor.NewMatrix(x.Rows, x.Cols)
	for r := range x.Rows {
		copy(y.Row(r), x.Row(r))
	}
	return y
}
