package moe

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Layer is the Block over a router and expert groups. It serves every layer of the placement, and several Forwards at
// once.
type Layer struct {
	router    router.Router
	predicted Predicted // the router, if it is one
	hidden    bool      // the router wants hidden states
	k         int
	experts   int
	place     Places
	groups    []Group
	sites     []site
	width     int
	team      team.Team
	cores     int       // of the plan: the team's threads
	bound     bool      // all groups say on which cores they run
	dealFrom  int       // values; see deals
	pool      sync.Pool // *work
	policies  []Policy  // by group; nil = all strict
	watch     Watcher   // nil = none
	told      Rescued   // nil = nobody asks
}

// New makes the Block. router is configured already and picks k of experts for each row; place says which of groups
// serves each unit; hidden is the width of a row; t has as many threads as the calls of one layer share cores, and combines
// their answers.
func New(r router.Router, k, experts int, place Places, groups []Group, hidden int, t team.Team) *Layer {
	l := &Layer{
		router: r, k: k, experts: experts, place: place, groups: groups, width: hidden, team: t, cores: t.Threads(),
		dealFrom: dealtValues, pool: sync.Pool{New: func() any { return new(work) }},
	}
	if h, ok := r.(router.HiddenRouter); ok {
		l.hidden = h.WantsHidden()
	}
	l.predicted, _ = r.(Predicted)
	l.bound = true
	for _, g := range groups {
		s, bound := siteOf(g, l.cores)
		l.sites, l.bound = append(l.sites, s), l.bound && bound
	}
	return l
}

// siteOf is where a group runs: on the cores that it names, as far as there are so many, else on all.
func siteOf(g Group, cores int) (s site, bound bool) {
	if b, ok := g.(Bound); ok {
		if s := b.Cores(); len(s) > 0 && slices.Max(s) < cores {
			return s, true
		}
	}
	all := make(site, cores)
	for i := range all {
		all[i] = i
	}
	return all, false
}

// groupsOf says which group serves each expert of the layer.
func (l *Layer) groupsOf(in Input) []int { return l.place.Of(in.Edition)[in.Layer] }

// here is the plan's core of the caller, -1 if it isn't known.
func (l *Layer) here() int {
	if len(l.groups) > 0 {
		if n, ok := l.groups[0].(Neighbour); ok {
			if core := n.Here(); core < l.cores {
				return core
			}
		}
	}
	return -1
}

// work is the memory of one dispatch. Calls and their Y live until the last Wait returned.
type work struct {
	of      []int32       // the input rows that it is about
	routes  router.Routes // of these rows
	plan    plan
	calls   []expert.Call
	pending []expert.Pending
	y       []float32
	to      tensor.Matrix // that is being combined
	k       int
	lost    []lost  // calls without an answer that need not end the Forward
	hops    *hops   // nil = nobody traces
	dealt   bool    // the calls are made while they are received
	errs    []error // by call
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
	if s := spans.StepOf(ctx); s != nil {
		return l.followed(ctx, s, in, y)
	}
	return l.forward(ctx, in, y)
}

// followed is forward with somebody who is told of the layer and of its calls.
func (l *Layer) followed(ctx context.Context, s spans.Step, in Input, y tensor.Matrix) error {
	f := s.Layer(in.Layer, in.X.Rows)
	err := l.forward(spans.WithLayer(ctx, f), in, y)
	f.End(err)
	return err
}

func (l *Layer) forward(ctx context.Context, in Input, y tensor.Matrix) error {
	if l.policies == nil {
		in.Judge = nil
	}
	w := l.work()
	defer l.pool.Put(w)
	for r := range in.X.Rows {
		w.of = append(w.of, int32(r))
	}
	w.routes = resizeRoutes(w.routes, in.X.Rows, l.k)
	batch := router.Batch{Layer: in.Layer, Edition: in.Edition, Logits: in.Logits, Tokens: in.Tokens, Positions: in.Positions}
	if l.hidden {
		batch.Hidden = in.X
	}
	// What is dealt waits for the router, whose answer takes a small part of its time.
	if w.dealt = l.deals(in); l.predicted != nil && !w.dealt {
		return l.ahead(ctx, in, y, batch, w)
	}
	watch := in.stopwatch()
	if err := l.routed(in, w.routes, l.router.Route(ctx, batch, w.routes)); err != nil {
		return err
	}
	route := watch.took()
	l.send(ctx, in, w, l.groupsOf(in))
	in.meanwhile()
	if err := l.receive(ctx, in, w); err != nil {
		return err
	}
	l.show(in.Layer, w, nil)
	w.witness(in, nil)
	if err := l.rescue(ctx, in, w, nil); err != nil {
		return err
	}
	watch = in.stopwatch()
	w.combine(y, l.k, l.team)
	w.tell(in, route, watch.took())
	return nil
}

// ahead is Forward with a router whose answer is known before: the experts begin on the prediction, and the router's
// answer decides. A row that it routes otherwise is dispatched again.
func (l *Layer) ahead(ctx context.Context, in Input, y tensor.Matrix, batch router.Batch, w *work) error {
	answer := l.work()
	defer l.pool.Put(answer)
	answer.routes = resizeRoutes(answer.routes, in.X.Rows, l.k)
	watch := in.stopwatch()
	pending := l.predicted.Begin(ctx, batch, answer.routes)
	sent := l.predicted.Predict(ctx, batch, w.routes) && CheckRoutes(w.routes, in.Layer, l.experts) == nil
	if sent {
		l.send(ctx, in, w, l.groupsOf(in))
		in.meanwhile()
	}
	err := l.routed(in, answer.routes, pending.Wait())
	route := watch.took()
	switch {
	case err == nil && !sent:
		copy(w.routes.IDs, answer.routes.IDs)
		copy(w.routes.Weights, answer.routes.Weights)
		l.send(ctx, in, w, l.groupsOf(in))
		in.meanwhile()
	case err == nil:
		answer.differing(w)
		if len(answer.of) > 0 {
			l.send(ctx, in, answer, l.groupsOf(in))
		}
	}
	for _, w := range []*work{w, answer} {
		if e := l.receive(ctx, in, w); err == nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	l.show(in.Layer, w, answer.of)
	l.show(in.Layer, answer, nil)
	w.witness(in, answer.of)
	answer.witness(in, nil)
	if err := l.rescue(ctx, in, w, answer.of); err != nil {
		return err
	}
	if err := l.rescue(ctx, in, answer, nil); err != nil {
		return err
	}
	watch = in.stopwatch()
	w.combine(y, l.k, l.team)
	answer.combine(y, l.k, l.team)
	combine := watch.took()
	w.tell(in, route, combine)
	answer.tell(in, route, combine)
	return nil
}

// At is the layer with the experts of an edition.
func (l *Layer) At(edition uint64) Block { return &atEdition{l, edition} }

type atEdition struct {
	layer   *Layer
	edition uint64
}

// Forward implements Block.
func (a *atEdition) Forward(ctx context.Context, in Input, y tensor.Matrix) error {
	in.Edition = a.edition
	return a.layer.Forward(ctx, in, y)
}

// work is empty memory.
func (l *Layer) work() *work {
	w := l.pool.Get().(*work)
	clear(w.lost)
	w.of, w.calls, w.lost, w.hops, w.dealt = w.of[:0], w.calls[:0], w.lost[:0], nil, false
	return w
}

// meanwhile runs what the caller has to do while the experts work.
func (in *Input) meanwhile() {
	if in.Meanwhile != nil {
		in.Meanwhile()
	}
}

func (l *Layer) check(in Input, y tensor.Matrix) error {
	groups := l.groupsOf(in)
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

// resizeRoutes makes room; a row that the router forgets is noticed.
func resizeRoutes(r router.Routes, rows, k int) router.Routes {
	r = router.Routes{K: k, IDs: resize(r.IDs, rows*k), Weights: resize(r.Weights, rows*k)}
	for i := range r.IDs {
		r.IDs[i] = -1
	}
	return r
}

// routed checks what the router has answered and shows it.
func (l *Layer) routed(in Input, routes router.Routes, err error) error {
	if err != nil {
		return fmt.Errorf("route layer %d: %w", in.Layer, err)
	}
	if err := CheckRoutes(routes, in.Layer, l.experts); err != nil {
		return err
	}
	if in.Observe != nil {
		for r := range in.X.Rows {
			in.Observe(in.Layer, r, l.k, routes.IDs[r*l.k:(r+1)*l.k:(r+1)*l.k], routes.Weights[r*l.k:(r+1)*l.k:(r+1)*l.k])
		}
	}
	return nil
}

// differing makes w, which holds the router's answer for all rows, the work of the rows for which the prediction was
// another one.
func (w *work) differing(predicted *work) {
	k, p := w.routes.K, predicted.routes
	ids, weights := w.routes.IDs[:0], w.routes.Weights[:0] // the rows that stay move to the front
	for r := range len(p.IDs) / k {
		same := true
		for i := r * k; i < (r+1)*k; i++ {
			same = same && w.routes.IDs[i] == p.IDs[i] && math.Float32bits(w.routes.Weights[i]) == math.Float32bits(p.Weights[i])
		}
		if same {
			continue
		}
		ids, weights = append(ids, w.routes.IDs[r*k:(r+1)*k]...), append(weights, w.routes.Weights[r*k:(r+1)*k]...)
		w.of = append(w.of, int32(r))
	}
	w.routes.IDs, w.routes.Weights = ids, weights
}

// wakeAtOnce is the size of a call, in values, whose process is woken before the other calls are gathered, if it sleeps on another
// core: that stands idle meanwhile. A smaller one has been computed before the next call is there, and its wake only delays that.
const wakeAtOnce = 1 << 11

// send plans the work, groups serving the experts, and sends every call before any answer is read, unless they are dealt.
func (l *Layer) send(ctx context.Context, in Input, w *work, groups []int) {
	if w.dealt {
		w.plan.deal(w.routes, groups, l.cores)
		w.dispatch(in, l.width)
		w.note(in)
		return
	}
	w.plan.fill(w.routes, groups, l.sites, l.cores, l.here())
	w.dispatch(in, l.width)
	for i := range w.calls {
		p := l.start(ctx, in, l.groups[w.plan.calls[i].group], &w.calls[i])
		w.pending = append(w.pending, p)
		if s, ok := p.(Sleeper); ok && len(w.calls[i].From)*l.width > wakeAtOnce {
			s.Wake(false)
		}
	}
	for _, all := range [...]bool{false, true} {
		for _, p := range w.pending {
			if s, ok := p.(Sleeper); ok {
				s.Wake(all)
			}
		}
	}
	w.note(in)
}

// start sends one call. Where a missing expert need not end everything, nobody waits for its restart here.
func (l *Layer) start(ctx context.Context, in Input, g Group, call *expert.Call) expert.Pending {
	if in.Judge != nil {
		if g, ok := g.(Impatient); ok {
			return g.StartNow(ctx, call)
		}
	}
	return g.Start(ctx, call)
}

// dispatch makes the calls; whoever carries them gathers their rows.
func (w *work) dispatch(in Input, width int) {
	w.y = resize(w.y, len(w.plan.rows)*width)
	for i, r := range w.plan.rows {
		w.plan.rows[i] = w.of[r]
	}
	for _, c := range w.plan.calls {
		w.calls = append(w.calls, expert.Call{
			Layer: in.Layer, Threads: c.threads, Lane: c.lane + 1, Segments: c.segments,
			X: in.X, From: w.plan.rows[c.from:c.to], Edition: in.Edition,
			Y: tensor.MatrixOf(c.to-c.from, width, w.y[c.from*width:c.to*width]),
		})
	}
}

// receive waits for all calls. The first error in the order of the calls is the answer, so that it does not depend on
// which came first. With a Judge a call that nobody could answer is no error, but lost.
func (l *Layer) receive(ctx context.Context, in Input, w *work) error {
	w.errs = w.errs[:0]
	if w.dealt {
		l.serve(ctx, in, w)
	}
	for _, p := range w.pending {
		w.errs = append(w.errs, p.Wait())
	}
	clear(w.pending) // whatever a call holds on to must not live in the pool
	w.pending = w.pending[:0]
	defer clear(w.errs)
	var first error
	for i, err := range w.errs {
		switch {
		case err == nil:
		case in.Judge != nil && missing(err):
			w.lost = append(w.lost, lost{i, err})
		case first == nil:
			first = fmt.Errorf("layer %d: %w", in.Layer, err)
		}
	}
	return first
}

// combineRows are combined by one thread at a time: with hidden states of a usual width some ten microseconds of work.
const combineRows = 16

// combine is y[r] = sum over r's experts, ascending by id, of weight * result, fused.
func (w *work) combine(y tensor.Matrix, k int, t team.Team) {
	w.to, w.k = y, k
	t.Do((len(w.of)+combineRows-1)/combineRows, (*combining)(w))
	w.to = tensor.Matrix{}
}

// combining is the task of combining some rows.
type combining work

func (w *combining) Run(_, piece int) {
	width, k := w.to.Cols, w.k
	first := piece * combineRows
	for n, row := range w.of[first:min(first+combineRows, len(w.of))] {
		yr := w.to.Row(int(row))
		clear(yr)
		for i := (first + n) * k; i < (first+n+1)*k; i++ {
			if w.plan.from[i] == nowhere {
				continue
			}
			weight, at := w.plan.weight[i], int(w.plan.from[i])*width
			vec.AddScaled(yr, w.y[at:at+width], weight)
		}
	}
}

var _ Block = (*Layer)(nil)
