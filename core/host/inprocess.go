package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// InProcess are the values that replace the plugins' processes when nothing is isolated.
type InProcess struct {
	Expert func(backend string) (expert.Expert, error) // such as ffn.New: its Forward takes calls with From
	Router router.Router
	Team   team.Team // whose threads compute the calls of a layer: one pool over all cores
}

// StartInProcess computes everything in this process, by direct calls of the same kernels: the baseline of the
// isolation tax, and a mode for machines that can't start processes.
func StartInProcess(ctx context.Context, o Options, in InProcess) (*Host, error) {
	h := &Host{log: o.Log, places: newPlaces(o.Place)}
	crew := &crew{team: in.Team}
	var locals []*localGroup
	h.close = func() error {
		var errs []error
		for _, g := range locals {
			errs = append(errs, g.close())
		}
		return errors.Join(errs...)
	}
	for n, spec := range o.Groups {
		g, err := newLocalGroup(ctx, spec, o, in, crew)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("expert group %s: %w", spec.Name, err), h.Close())
		}
		locals = append(locals, g)
		h.groups = append(h.groups, newSeat(n, spec.Name, g))
	}
	if err := in.Router.Configure(ctx, o.Router.Spec); err != nil {
		return nil, errors.Join(fmt.Errorf("router %s: %w", o.Router.Name, err), h.Close())
	}
	h.editions = newEditions(h.groups, nil, h.places)
	h.router = &localRouter{
		Router: in.Router, name: o.Router.Name,
		calls: o.Metrics.Counter("pimoe_router_calls_total", "source", "in-process"),
	}
	return h, nil
}

// localGroup is an expert group without a process.
type localGroup struct {
	spec   GroupSpec
	expert expert.Expert
	files  []*weights.File
	stats  *replicaStats
	crew   *crew
}

func newLocalGroup(ctx context.Context, spec GroupSpec, o Options, in InProcess, c *crew) (*localGroup, error) {
	e, files, err := loadHere(ctx, spec, o, in.Expert)
	if err != nil {
		return nil, err
	}
	return &localGroup{spec: spec, expert: e, files: files, crew: c, stats: newReplicaStats(o.Metrics, []string{"group", spec.Name, "replica", "0"})}, nil
}

// loadHere makes a group's expert in this process, over mapped shards that its owner closes.
func loadHere(ctx context.Context, spec GroupSpec, o Options, builtin func(backend string) (expert.Expert, error)) (expert.Expert, []*weights.File, error) {
	e, err := builtin(spec.Backend)
	if err != nil {
		return nil, nil, err
	}
	load := expert.Spec{
		Hidden: o.Experts.Hidden, Intermediate: o.Experts.Intermediate, Activation: o.Experts.Activation,
		NumericClass: spec.Precision, Params: spec.Params,
	}
	if spec.Packed != nil && !takes(e.Info(), spec.Packed) {
		spec.Packed = nil
	}
	var files []*weights.File
	if load.Units, files, err = mapUnits(ctx, source(o.Model, spec.Packed), spec.Units); err == nil {
		err = e.Load(ctx, load)
	}
	if err != nil {
		err = errors.Join(err, e.Close())
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return nil, nil, err
	}
	return e, files, nil
}

// mapUnits maps the shards that the units need. The files are the caller's, also after an error.
func mapUnits(ctx context.Context, from weights.Shards, units []expert.Unit) (out []expert.UnitWeights, all []*weights.File, err error) {
	files := map[int]*weights.File{}
	for _, u := range units {
		f := files[u.Expert]
		if f == nil {
			if f, err = openShard(ctx, from, u.Expert); err != nil {
				return nil, all, fmt.Errorf("shard of expert %d: %w", u.Expert, err)
			}
			files[u.Expert] = f
			all = append(all, f)
		}
		w := expert.UnitWeights{Unit: u}
		names := unitTensors(u)
		for i, v := range []*tensor.View{&w.Gate, &w.Up, &w.Down} {
			var ok bool
			if *v, ok = f.Tensor(names[i]); !ok {
				return nil, all, fmt.Errorf("shard of expert %d: tensor %s is missing: %w", u.Expert, names[i], sdk.ErrInvalid)
			}
		}
		out = append(out, w)
	}
	return out, all, nil
}

// openShard checks a shard against the manifest and maps it.
func openShard(ctx context.Context, from weights.Shards, e int) (*weights.File, error) {
	f, err := from.Open(ctx, weights.ExpertFile(e))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return weights.OpenFile(f, f.Name())
}

// Start leaves the call to the crew.
func (g *localGroup) Start(ctx context.Context, call *expert.Call) expert.Pending {
	c := localCalls.Get().(*localCall)
	*c = localCall{group: g, ctx: ctx, call: call}
	g.crew.add(c)
	return c
}

// localCall is a call that the crew has not been asked for, or has computed.
type localCall struct {
	group *localGroup
	ctx   context.Context
	call  *expert.Call
	done  bool // guarded by crew.work
	err   error
	took  time.Duration
	noted *moe.Answer // who has answered goes here, if not nil
}

var localCalls = sync.Pool{New: func() any { return new(localCall) }}

// Wait implements expert.Pending.
func (c *localCall) Wait() error {
	c.group.crew.finish(c)
	err := c.err
	if err == nil && c.noted != nil {
		*c.noted = c.group.answer(c.took)
	}
	*c = localCall{}
	localCalls.Put(c)
	return err
}

func (c *localCall) run() {
	began := time.Now()
	span := c.follow()
	c.err = c.group.expert.Forward(c.ctx, c.call)
	c.took = time.Since(began)
	if span != nil {
		span.End(spans.Outcome{Err: c.err})
	}
	c.group.stats.count(c.call.Y.Rows, c.took, c.err)
}

// crew computes the calls of all groups with one team: whoever waits first has all that were begun computed, the largest
// first. The plan has given a call that is alone all threads.
type crew struct {
	team team.Team

	mu   sync.Mutex // guards open
	open []*localCall

	work  sync.Mutex // held while calls are computed; guards what follows
	calls []*localCall
}

func (w *crew) add(c *localCall) {
	w.mu.Lock()
	w.open = append(w.open, c)
	w.mu.Unlock()
}

// finish returns when the call is computed.
func (w *crew) finish(c *localCall) {
	w.work.Lock()
	defer w.work.Unlock()
	if c.done {
		return
	}
	w.mu.Lock()
	w.calls = append(w.calls[:0], w.open...)
	clear(w.open)
	w.open = w.open[:0]
	w.mu.Unlock()
	slices.SortStableFunc(w.calls, func(a, b *localCall) int { return cmp.Compare(b.call.Y.Rows, a.call.Y.Rows) })
	w.team.Do(len(w.calls), w)
	for _, c := range w.calls {
		c.done = true
	}
	clear(w.calls)
}

// Run implements team.Task.
func (w *crew) Run(_, piece int) { w.calls[piece].run() }

func (g *localGroup) available() error { return nil }

func (g *localGroup) class() string { return g.expert.Info().NumericClass }

func (g *localGroup) numerics() string { return g.class() }

func (g *localGroup) program() string { return "" }

func (g *localGroup) status() []Status {
	st := g.stats.status(g.spec)
	st.PID, st.State, st.Health, st.NumericClass = os.Getpid(), string(StateReady), string(resilience.Ready), g.expert.Info().NumericClass
	return []Status{st}
}

// release implements member: nobody is put into quarantine here.
func (g *localGroup) release(int) bool { return false }

func (g *localGroup) close() error {
	err := g.expert.Close()
	for _, f := range g.files {
		err = errors.Join(err, f.Close())
	}
	return err
}

// localRouter counts the calls of a router without a process.
type localRouter struct {
	router.Router
	name  string
	calls *metrics.Counter
}

func (r *localRouter) Route(ctx context.Context, b router.Batch, routes router.Routes) error {
	r.calls.Inc()
	return r.Router.Route(ctx, b, routes)
}

func (r *localRouter) available() error { return nil }

func (r *localRouter) status() RouterStatus {
	return RouterStatus{Name: r.name, PID: os.Getpid(), State: string(StateReady), Capabilities: r.Info().Capabilities}
}

var (
	_ member  = (*localGroup)(nil)
	_ routing = (*localRouter)(nil)
)
