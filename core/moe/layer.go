package moe

import (
	"context"
	"fmt"
	"sync"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Layer is the Block over a router and expert groups. It serves every layer of the placement, and several Forwards at
// once.
type Layer struct {
	router  router.Router
	hidden  bool // the router wants hidden states
	k       int
	experts int
	place   Placement
	groups  []Group
	width   int
	threads int
	pool    sync.Pool // *work
}

// New makes the Block. router is configured already and picks k of experts for each row; place says which of groups
// serves each unit; hidden is the width of a row; threads is what the calls of one layer share.
func New(r router.Router, k, experts int, place Placement, groups []Group, hidden, threads int) *Layer {
	l := &Layer{
		router: r, k: k, experts: experts, place: place, groups: groups, width: hidden, threads: max(threads, 1),
		pool: sync.Pool{New: func() any { return new(work) }},
	}
	if h, ok := r.(router.HiddenRouter); ok {
		l.hidden = h.WantsHidden()
	}
	return l
}

// work is the memory of one Forward. Calls and their X and Y live until the last Wait returned.
type work struct {
	routes  router.Routes
	plan    plan
	calls   []expert.Call
	pending []expert.Pending
	x, y    []float32
}

// Forward routes, dispatches, waits and combines. A failing call does not leave others behind: every call that was
// sent is waited for.
func (l *Layer) Forward(ctx context.Context, in Input, y tensor.Matrix) error {
	if err := l.check(in, y); err != nil {
		return err
	}
	if in.X.Rows == 0 {
		return nil
	}
	w := l.pool.Get().(*work)
	defer l.pool.Put(w)
	if err := l.route(ctx, in, w); err != nil {
		return err
	}
	w.plan.fill(w.routes, l.place[in.Layer], l.threads)
	w.dispatch(in, l.width)
	if err := l.run(ctx, w); err != nil {
		return err
	}
	w.combine(y, l.k)
	return nil
}

func (l *Layer) check(in Input, y tensor.Matrix) error {
	groups := l.place[in.Layer]
	if len(groups) != l.experts {
		return fmt.Errorf("layer %d: %d of %d experts are placed: %w", in.Layer, len(groups), l.experts, sdk.ErrInvalid)
	}
	for e, g := range groups {
		if g < 0 || g >= len(l.groups) {
			return fmt.Errorf("layer %d: expert %d is placed in group %d of %d: %w", in.Layer, e, g, len(l.groups), sdk.ErrInvalid)
		}
	}
	n := in.X.Rows
	if in.X.Cols != l.width || y.Rows != n || y.Cols != l.width || in.Logits.Rows != n || in.Logits.Cols != l.experts ||
		len(in.Tokens) != n || len(in.Positions) != n {
		return fmt.Errorf("layer %d: x [%d, %d], y [%d, %d], logits [%d, %d], %d tokens and %d positions for %d hidden and %d experts: %w",
			in.Layer, n, in.X.Cols, y.Rows, y.Cols, in.Logits.Rows, in.Logits.Cols, len(in.Tokens), len(in.Positions),
			l.width, l.experts, sdk.ErrInvalid)
	}
	return nil
}

// route asks the router and checks its answer.
func (l *Layer) route(ctx context.Context, in Input, w *work) error {
	n := in.X.Rows * l.k
	w.routes = router.Routes{K: l.k, IDs: resize(w.routes.IDs, n), Weights: resize(w.routes.Weights, n)}
	for i := range w.routes.IDs {
		w.routes.IDs[i] = -1 // a row that the router forgets is noticed
	}
	batch := router.Batch{Layer: in.Layer, Logits: in.Logits, Tokens: in.Tokens, Positions: in.Positions}
	if l.hidden {
		batch.Hidden = in.X
	}
	if err := l.router.Route(ctx, batch, w.routes); err != nil {
		return fmt.Errorf("route layer %d: %w", in.Layer, err)
	}
	if err := CheckRoutes(w.routes, in.Layer, l.experts); err != nil {
		return err
	}
	if in.Observe != nil {
		for r := range in.X.Rows {
			in.Observe(in.Layer, r, l.k, w.routes.IDs[r*l.k:(r+1)*l.k:(r+1)*l.k], w.routes.Weights[r*l.k:(r+1)*l.k:(r+1)*l.k])
		}
	}
	return nil
}

// dispatch gathers the rows and makes the calls.
func (w *work) dispatch(in Input, width int) {
	n := len(w.plan.rows)
	w.x, w.y = resize(w.x, n*width), resize(w.y, n*width)
	for i, r := range w.plan.rows {
		copy(w.x[i*width:(i+1)*width], in.X.Row(int(r)))
	}
	w.calls = resize(w.calls, len(w.plan.calls))
	for i, c := range w.plan.calls {
		w.calls[i] = expert.Call{
			Layer: in.Layer, Threads: c.threads, Segments: c.segments,
			X: tensor.MatrixOf(c.to-c.from, width, w.x[c.from*width:c.to*width]),
			Y: tensor.MatrixOf(c.to-c.from, width, w.y[c.from*width:c.to*width]),
		}
	}
}

// run sends every call before it waits for any, and waits for all of them. The first error in the order of the calls
// is the answer, so that it does not depend on which came first.
func (l *Layer) run(ctx context.Context, w *work) error {
	w.pending = w.pending[:0]
	for i := range w.calls {
		w.pending = append(w.pending, l.groups[w.plan.calls[i].group].Start(ctx, &w.calls[i]))
	}
	var first error
	for i, p := range w.pending {
		if err := p.Wait(); err != nil && first == nil {
			first = fmt.Errorf("layer %d: %w", w.calls[i].Layer, err)
		}
	}
	clear(w.pending) // whatever a call holds on to must not live in the pool
	return first
}

// combine is y[r] = sum over r's experts, ascending by id, of weight * result, each product rounded.
func (w *work) combine(y tensor.Matrix, k int) {
	width := y.Cols
	for r := range y.Rows {
		yr := y.Row(r)
		clear(yr)
		for i := r * k; i < (r+1)*k; i++ {
			weight, at := w.plan.weight[i], int(w.plan.from[i])*width
			row := w.y[at : at+width][:len(yr)]
			for j, v := range row {
				yr[j] += float32(weight * v)
			}
		}
	}
}

var _ Block = (*Layer)(nil)
