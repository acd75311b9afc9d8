package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/spans"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// maxInvalidRoutes is how many invalid routings of one batch are repeated on a fresh process.
const maxInvalidRoutes = 2

// supervisedRouter is the router plugin's process behind the router contract: a call that finds no process goes to the
// stand-in, if the rule has one, or waits for the restart.
type supervisedRouter struct {
	spec      RouterSpec
	process   *supervisor
	changed   *notifier
	plugin    *metrics.Counter // calls answered by the plugin
	standIn   *metrics.Counter // calls answered by the stand-in
	errors    *metrics.Counter
	seen      *observations
	knownRows router.Batch
	program   client.Program

	cease   context.CancelFunc // ends its process
	running sync.WaitGroup     // its supervisor
}

func newSupervisedRouter(spec RouterSpec, l *launcher) *supervisedRouter {
	m := l.options.Metrics
	r := &supervisedRouter{
		spec: spec, changed: newNotifier(),
		plugin:  m.Counter("pimoe_router_calls_total", "source", "plugin"),
		standIn: m.Counter("pimoe_router_calls_total", "source", "stand-in"),
		errors:  m.Counter("pimoe_router_errors_total"),
		seen:    l.seen,
	}
	r.knownRows = knownBatch(spec.Spec, l.options.Experts.Hidden)
	r.process = newSupervisor("router", l.options, r.changed, l.fleet, func(ctx context.Context) (*incarnation, error) { return r.launch(ctx, l) })
	r.process.news.replaced = func() bool { return r.spec.StandIn != nil }
	return r
}

// launch starts the plugin, configures it and asks a question with a known answer.
func (r *supervisedRouter) launch(ctx context.Context, l *launcher) (*incarnation, error) {
	command := client.Command{
		Path: r.spec.Path, Kind: sdk.KindRouter, Env: environment(l.options.ProcessCores), Program: &r.program,
		// Room for hidden states is only address space until a router asks for them.
		Plane: client.RouterPlane(l.options.MaxRows, r.spec.Spec.Experts, r.spec.Spec.TopK, l.options.Experts.Hidden, 0),
	}
	l.lanes.apply(&command, l.lanes.of(0))
	if err := l.profile(&command, ""); err != nil {
		return nil, err
	}
	proc, err := l.start(ctx, command, "router", "", r.spec.Pins)
	if err != nil {
		return nil, err
	}
	inc := &incarnation{proc: child{proc}, router: proc.Router(), digest: proc.Digest(), condemn: make(chan struct{})}
	if err := inc.router.Configure(ctx, r.spec.Spec); err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: configure: %w", errLoad, err))
	}
	inc.info = inc.router.Info()
	inc.observes = inc.router.Observes()
	r.seen.wanted.Store(inc.observes)
	inc.probe = func(ctx context.Context) error { return r.probe(ctx, inc) }
	if err := inc.probe(ctx); err != nil {
		return nil, l.abandon(inc, fmt.Errorf("%w: %w", errWrongAnswer, err))
	}
	return inc, nil
}

// knownBatch is a small fixed question about the first layer. Hidden states reach a router only if it asks for them.
func knownBatch(spec router.Spec, hidden int) router.Batch {
	const rows = 2
	b := router.Batch{
		Logits: tensor.MatrixOf(rows, spec.Experts, knownInput(rows*spec.Experts)),
		Tokens: []int32{1, 2}, Positions: []int32{0, 1},
		Hidden: tensor.MatrixOf(rows, hidden, knownInput(rows*hidden)),
	}
	if len(spec.Layers) > 0 {
		b.Layer = spec.Layers[0]
	}
	return b
}

// probe checks the plugin's answer to the known question: against the stand-in bit for bit where there is one, else
// for being a valid routing. A load-dependent router must not see rows that no request brought, so it is only pinged.
func (r *supervisedRouter) probe(ctx context.Context, inc *incarnation) error {
	if inc.info.Has(sdk.CapLoadDependent) {
		return inc.proc.Ping(ctx)
	}
	batch := r.knownRows
	got := newRoutes(batch.Logits.Rows, r.spec.Spec.TopK)
	if err := inc.router.Route(ctx, batch, got); err != nil {
		return err
	}
	if r.spec.StandIn == nil {
		return nil
	}
	want := newRoutes(batch.Logits.Rows, r.spec.Spec.TopK)
	if err := r.spec.StandIn.Route(ctx, batch, want); err != nil {
		return err
	}
	if !slices.Equal(got.IDs, want.IDs) || !sameBits(got.Weights, want.Weights) {
		return fmt.Errorf("routes %v with weights %v, the rule gives %v with %v: %w", got.IDs, got.Weights, want.IDs, want.Weights, sdk.ErrInvalidOutput)
	}
	return nil
}

func newRoutes(rows, k int) router.Routes {
	return router.Routes{K: k, IDs: make([]int32, rows*k), Weights: make([]float32, rows*k)}
}

// Info is the living plugin's, or what is configured while there is none.
func (r *supervisedRouter) Info() sdk.Info {
	if inc, _, _ := r.process.ready(); inc != nil {
		return inc.info
	}
	return sdk.Info{Name: r.spec.Name, Kind: sdk.KindRouter}
}

// Configure is refused: the host configures every new process itself.
func (r *supervisedRouter) Configure(context.Context, router.Spec) error {
	return fmt.Errorf("router %s is configured by its host: %w", r.spec.Name, sdk.ErrUnsupported)
}

// WantsHidden makes the living plugin's wish known to the dispatcher.
func (r *supervisedRouter) WantsHidden() bool {
	inc, _, _ := r.process.ready()
	if inc == nil {
		return false
	}
	hr, ok := router.Router(inc.router).(router.HiddenRouter)
	return ok && hr.WantsHidden()
}

// Route asks the plugin. While it is gone or gives invalid routes, the stand-in answers with the same bits; without a
// stand-in the call waits for the restart until ctx ends. It is never another rule in silence.
func (r *supervisedRouter) Route(ctx context.Context, b router.Batch, routes router.Routes) error {
	for invalid := 0; ; {
		changed := r.changed.wait()
		inc, cause, hopeless := r.process.ready()
		if inc != nil && inc.verdict.Load() == nil {
			err := r.ask(ctx, inc, b, routes)
			if err == nil {
				return nil
			}
			if !isProcessFault(err) || ctx.Err() != nil {
				return fmt.Errorf("router %s: %w", r.spec.Name, err)
			}
			if errors.Is(err, sdk.ErrInvalidOutput) {
				inc.condemned("gave an invalid routing")
				if invalid++; invalid > maxInvalidRoutes && r.spec.StandIn == nil {
					return fmt.Errorf("router %s: %w", r.spec.Name, err)
				}
			}
		}
		if r.spec.StandIn != nil {
			r.standIn.Inc()
			return r.spec.StandIn.Route(ctx, b, routes)
		}
		if inc == nil && hopeless {
			return r.unavailable(cause)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return r.unavailable(cause)
			}
			return fmt.Errorf("router %s: %w", r.spec.Name, ctx.Err())
		}
	}
}

// Predict implements moe.Predicted: where there is a stand-in, it knows what the plugin should say. That it is asked does
// not make it the one who answers, so it is not counted.
func (r *supervisedRouter) Predict(ctx context.Context, b router.Batch, routes router.Routes) bool {
	return r.spec.StandIn != nil && r.spec.StandIn.Route(ctx, b, routes) == nil
}

// Begin implements moe.Predicted. What goes wrong on the way goes the way of Route.
func (r *supervisedRouter) Begin(ctx context.Context, b router.Batch, routes router.Routes) expert.Pending {
	p := begunRoutes.Get().(*begunRoute)
	*p = begunRoute{router: r, ctx: ctx, batch: b, routes: routes}
	if inc, _, _ := r.process.ready(); inc != nil && inc.verdict.Load() == nil {
		p.inc = inc
		inc.inflight.Add(1)
		if l := spans.LayerOf(ctx); l != nil {
			p.follow = r.follow(l, inc, b)
			ctx = client.Carry(ctx, &p.follow.carried)
		}
		p.pending = inc.router.Begin(ctx, b, routes)
	}
	return p
}

// begunRoute is a batch that the plugin has.
type begunRoute struct {
	router  *supervisedRouter
	ctx     context.Context
	batch   router.Batch
	routes  router.Routes
	inc     *incarnation
	pending expert.Pending
	follow  *followed // nil = nobody does
}

var begunRoutes = sync.Pool{New: func() any { return new(begunRoute) }}

// Wait implements expert.Pending.
func (p *begunRoute) Wait() error {
	r, inc, err := p.router, p.inc, error(nil)
	if inc != nil {
		err = r.judge(inc, p.batch, p.routes, p.pending.Wait())
		p.follow.end(err, false)
		inc.inflight.Add(-1)
	}
	switch {
	case inc == nil:
		err = r.Route(p.ctx, p.batch, p.routes)
	case err == nil:
	case !isProcessFault(err) || p.ctx.Err() != nil:
		err = fmt.Errorf("router %s: %w", r.spec.Name, err)
	default:
		if errors.Is(err, sdk.ErrInvalidOutput) {
			inc.condemned("gave an invalid routing")
		}
		err = r.Route(p.ctx, p.batch, p.routes)
	}
	*p = begunRoute{}
	begunRoutes.Put(p)
	return err
}

func (r *supervisedRouter) ask(ctx context.Context, inc *incarnation, b router.Batch, routes router.Routes) error {
	inc.inflight.Add(1)
	defer inc.inflight.Add(-1)
	l := spans.LayerOf(ctx)
	if l == nil {
		return r.judge(inc, b, routes, inc.router.Route(ctx, b, routes))
	}
	f := r.follow(l, inc, b)
	err := r.judge(inc, b, routes, inc.router.Route(client.Carry(ctx, &f.carried), b, routes))
	f.end(err, false)
	return err
}

// judge checks and counts an answer of the plugin.
func (r *supervisedRouter) judge(inc *incarnation, b router.Batch, routes router.Routes, err error) error {
	if err == nil {
		err = moe.CheckRoutes(routes, b.Layer, r.spec.Spec.Experts)
	}
	if err != nil {
		r.errors.Inc()
		return err
	}
	inc.served.Store(true)
	r.plugin.Inc()
	return nil
}

// observe tells the living plugin; one that is gone has lost what it was told before, too.
func (r *supervisedRouter) observe(ctx context.Context, o router.Observation) {
	inc, _, _ := r.process.ready()
	if inc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, observeLimit)
	defer cancel()
	if err := inc.router.Observe(ctx, o); err != nil {
		r.errors.Inc()
		r.process.log.Debug("the router refuses an observation", "err", err)
		return
	}
	r.seen.told.Inc()
}

func (r *supervisedRouter) unavailable(err error) error {
	return &UnavailableError{What: "router " + r.spec.Name, Cause: publicCause(errors.Join(err, r.process.lastDeath())), err: err}
}

// available is nil if the plugin is ready.
func (r *supervisedRouter) available() error {
	if inc, err, _ := r.process.ready(); inc == nil {
		return r.unavailable(err)
	}
	return nil
}

// Close does nothing: the host owns the process.
func (r *supervisedRouter) Close() error { return nil }

// RouterStatus is what is shown of the router's process.
type RouterStatus struct {
	Name         string   `json:"name"`
	PID          int      `json:"pid"`
	State        string   `json:"state"`
	Digest       string   `json:"digest"` // "sha256:..." of what the process executes
	Restarts     uint64   `json:"restarts"`
	Capabilities []string `json:"capabilities"`
	PluginCalls  uint64   `json:"plugin_calls"`
	StandInCalls uint64   `json:"stand_in_calls"`
	Observations uint64   `json:"observations"` // that the plugin has taken, if it asks for them
	LastDeath    *Death   `json:"last_death"`

	Confinement []client.Measure `json:"confinement"`
}

func (r *supervisedRouter) status() RouterStatus {
	var st Status
	r.process.describe(&st)
	return RouterStatus{
		Name: r.spec.Name, PID: st.PID, State: st.State, Digest: st.Digest, Restarts: st.Restarts, LastDeath: st.LastDeath,
		Confinement: st.Confinement, Capabilities: r.Info().Capabilities, PluginCalls: r.plugin.Get(), StandInCalls: r.standIn.Get(),
		Observations: r.seen.told.Get(),
	}
}

var (
	_ routing             = (*supervisedRouter)(nil)
	_ moe.Predicted       = (*supervisedRouter)(nil)
	_ router.HiddenRouter = (*supervisedRouter)(nil)
)
