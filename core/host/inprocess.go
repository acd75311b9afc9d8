package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// InProcess are the values that replace the plugins' processes when nothing is isolated.
type InProcess struct {
	Expert  func(backend string) (expert.Expert, error)
	Router  router.Router
	Threads int // of every call: one pool over all cores
}

// StartInProcess computes everything in this process, by direct calls of the same kernels: the baseline of the
// isolation tax, and a mode for machines that can't start processes.
func StartInProcess(ctx context.Context, o Options, in InProcess) (*Host, error) {
	h := &Host{}
	var locals []*localGroup
	h.close = func() error {
		var errs []error
		for _, g := range locals {
			errs = append(errs, g.close())
		}
		return errors.Join(errs...)
	}
	for _, spec := range o.Groups {
		g, err := newLocalGroup(ctx, spec, o, in)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("expert group %s: %w", spec.Name, err), h.Close())
		}
		locals = append(locals, g)
		h.groups = append(h.groups, g)
	}
	if err := in.Router.Configure(ctx, o.Router.Spec); err != nil {
		return nil, errors.Join(fmt.Errorf("router %s: %w", o.Router.Name, err), h.Close())
	}
	h.router = &localRouter{
		Router: in.Router, name: o.Router.Name,
		calls: o.Metrics.Counter("pimoe_router_calls_total", "source", "in-process"),
	}
	return h, nil
}

// localGroup is an expert group without a process.
type localGroup struct {
	spec    GroupSpec
	expert  expert.Expert
	files   []*weights.File
	stats   *replicaStats
	threads int
}

func newLocalGroup(ctx context.Context, spec GroupSpec, o Options, in InProcess) (*localGroup, error) {
	e, err := in.Expert(spec.Backend)
	if err != nil {
		return nil, err
	}
	g := &localGroup{spec: spec, expert: e, threads: in.Threads, stats: newReplicaStats(o.Metrics, []string{"group", spec.Name, "replica", "0"})}
	load := expert.Spec{
		Hidden: o.Experts.Hidden, Intermediate: o.Experts.Intermediate, Activation: o.Experts.Activation,
		NumericClass: spec.Precision, Params: spec.Params,
	}
	if spec.Packed != nil && !takes(e.Info(), spec.Packed) {
		spec.Packed = nil
	}
	if load.Units, err = g.open(ctx, source(o.Model, spec.Packed), spec.Units); err == nil {
		err = e.Load(ctx, load)
	}
	if err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// open maps the shards that the units need.
func (g *localGroup) open(ctx context.Context, from weights.Shards, units []expert.Unit) ([]expert.UnitWeights, error) {
	files := map[int]*weights.File{}
	var out []expert.UnitWeights
	for _, u := range units {
		f := files[u.Expert]
		if f == nil {
			var err error
			if f, err = openShard(ctx, from, u.Expert); err != nil {
				return nil, fmt.Errorf("shard of expert %d: %w", u.Expert, err)
			}
			files[u.Expert] = f
			g.files = append(g.files, f)
		}
		w := expert.UnitWeights{Unit: u}
		names := unitTensors(u)
		for i, v := range []*tensor.View{&w.Gate, &w.Up, &w.Down} {
			var ok bool
			if *v, ok = f.Tensor(names[i]); !ok {
				return nil, fmt.Errorf("shard of expert %d: tensor %s is missing: %w", u.Expert, names[i], sdk.ErrInvalid)
			}
		}
		out = append(out, w)
	}
	return out, nil
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

// Start computes the call when its answer is asked for, with all threads.
func (g *localGroup) Start(ctx context.Context, call *expert.Call) expert.Pending {
	return &localCall{group: g, ctx: ctx, call: call}
}

type localCall struct {
	group *localGroup
	ctx   context.Context
	call  *expert.Call
}

func (c *localCall) Wait() error {
	call := *c.call
	call.Threads = c.group.threads
	began := time.Now()
	err := c.group.expert.Forward(c.ctx, &call)
	c.group.stats.count(call.X.Rows, time.Since(began), err)
	return err
}

func (g *localGroup) available() error { return nil }

func (g *localGroup) status() []Status {
	st := g.stats.status(g.spec)
	st.PID, st.State, st.NumericClass = os.Getpid(), string(StateReady), g.expert.Info().NumericClass
	return []Status{st}
}

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
