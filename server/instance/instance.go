// Package instance opens everything that serves one model: store, tokenizer, trunk, plugin processes and engine, in
// this order, and closes it in the reverse one. server puts HTTP before it; the commands of server/cmd/pimoe use it
// as it is.
//
// It refuses to know about HTTP and flags: a Config comes in, an Instance goes out.
package instance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/model"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/core/tokenizer"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/core/weights/embedded"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/server/cost"
	"github.com/pimoe/pimoe/server/meter"
)

// Options say what to open.
type Options struct {
	Config   config.Config
	Log      *slog.Logger
	Builtin  Builtin
	Progress func(done, total int64) // of an import, in bytes; may be nil
	// NoPrefixReuse makes every request compute its whole prompt, for measurements.
	NoPrefixReuse bool
	// Chunk is the most prompt tokens in a step that also decodes; 0 = as many as keep streams going. A measurement of
	// throughput chooses all.
	Chunk int
	// Watch, if not nil, sees the outputs of all experts, and Wrap puts something between the layers and a group. Both are
	// for measurements.
	Watch moe.Watcher
	Wrap  func(plan config.GroupPlan, g moe.Group) moe.Group
	// Event takes what the host does by itself; nil = nobody asks. It must return at once.
	Event func(host.Event)
	// SweepEvery is the time between two checks of the weight shards in use; 0 = the host's own.
	SweepEvery time.Duration
}

// Builtin makes the experts and routers that the host itself links: for --isolation inproc and the stand-in.
type Builtin struct {
	Expert func(backend string) (expert.Expert, error)
	Router func(name string) (router.Router, error)
}

// Instance is one served model. Close it.
type Instance struct {
	ID        string    // the model's id in the API
	Created   time.Time // when the model was imported
	Digest    string    // of the weights, "sha256:..."
	Config    config.Config
	Model     *model.Config
	Tokenizer *tokenizer.Tokenizer
	Engine    *engine.Engine
	Host      *host.Host
	Metrics   *metrics.Registry
	Log       *slog.Logger
	Notes     []string // what an operator should know of the placement
	Costs     *cost.Ledger

	builtin   Builtin
	applied   atomic.Pointer[config.Config] // see Applied
	pins      atomic.Pointer[host.Pins]     // of all processes; nil in process
	reloading sync.Mutex                    // held by Reload; guards plans
	plans     []config.GroupPlan            // of the applied configuration, with the groups that stand by
	version   string                        // see Version

	packer   *packer // makes packed weights also for groups that are changed later
	remedies remedies

	Meter *meter.Meter // measures what runs, at an interval

	trunk *weights.File // the memory that the engine's trunk lies in
	watch *trunkWatch   // nil for a trunk in private memory
	pool  *team.Pool    // the threads of the engine's steps

	trunkBytes int64 // of its weights
}

// Open starts everything, or returns an error that names what failed and leaves nothing behind.
func Open(ctx context.Context, o Options) (*Instance, error) {
	stored, err := OpenModel(ctx, o.Config, o.Progress)
	if err != nil {
		return nil, err
	}
	cfg, err := model.ReadConfig(stored.Dir)
	if err != nil {
		return nil, err
	}
	i := &Instance{
		ID: stored.Name, Created: stored.Manifest.Created, Digest: stored.Digest(), Config: o.Config,
		Model: cfg, Metrics: metrics.New(), Log: o.Log,
		pool: team.NewPool(Threads(o.Config), team.Options{}),
	}
	i.builtin = o.Builtin
	i.applied.Store(&o.Config)
	if o.Config.Server.Alias != "" {
		i.ID = o.Config.Server.Alias
	}
	if err := i.start(ctx, stored, o); err != nil {
		return nil, errors.Join(err, i.Close())
	}
	i.version = i.fixedVersion()
	return i, nil
}

// start makes what runs: the trunk's layers, the processes and the engine. What it has made before an error is Close's.
func (i *Instance) start(ctx context.Context, stored *weights.Model, o Options) error {
	p, err := newPacker(o.Config, stored, i.Model, o.Progress)
	if err != nil {
		return err
	}
	i.packer = p
	tokens := loadTokenizer(stored)
	defer func() { <-tokens.done }()
	trunk, err := i.loadTrunk(ctx, p, o)
	if err != nil {
		return err
	}
	if err := i.startHost(ctx, p, o); err != nil {
		return err
	}
	i.Meter = meter.Start(i.measured())
	if i.Tokenizer, err = tokens.get(); err != nil {
		return err
	}
	if err := i.readProfile(stored); err != nil {
		return err
	}
	block := moe.New(i.Host.Router(), i.Model.TopK, i.Model.Experts, i.Host.Places(), i.remedies.wrapped(i.Host.Groups(), o), i.Model.Hidden, i.pool.Team())
	block.Watch(o.Watch)
	if err := block.Degrade(i.remedies.policies); err != nil {
		return err
	}
	block.Tell(i.rescues())
	// Keys and values of a load-dependent routing hold what other requests did to it: they are never taken over.
	i.openCosts()
	reuse := !o.NoPrefixReuse && !i.Host.Router().Info().Has(sdk.CapLoadDependent)
	i.Engine, err = engine.New(engine.Options{
		Model: i.Model, Trunk: trunk, Tokenizer: i.Tokenizer, Limits: o.Config.Limits, Team: i.pool.Team(),
		Editions: i.Host.Editions(),
		Block:    block,
		Cache:    cacheSpec(o.Config), MemoryBytes: int64(o.Config.KVCache.MemoryMB) << 20, PrefixReuse: reuse, Chunk: o.Chunk,
		Metrics: i.Metrics, Log: o.Log, Outcome: i.outcome(), Account: i.Costs,
	})
	if err == nil {
		i.Costs.Start()
	}
	return err
}

// outcome is where the engine's steps are reported; nil where no router observes.
func (i *Instance) outcome() func(engine.Outcome) {
	if !i.Host.Observes() {
		return nil
	}
	return func(o engine.Outcome) { i.Host.Observed(host.Outcome(o)) }
}

// loading is a tokenizer that is being loaded while processes start: large vocabularies take a good part of a second.
type loading struct {
	done chan struct{}
	tok  *tokenizer.Tokenizer // set before done is closed, as is err
	err  error
}

func loadTokenizer(stored *weights.Model) *loading {
	l := &loading{done: make(chan struct{})}
	go func() {
		defer close(l.done)
		if l.tok, l.err = tokenizer.Load(stored.Dir); l.err != nil {
			l.err = fmt.Errorf("tokenizer of %s: %w", stored.Name, l.err)
		}
	}()
	return l
}

func (l *loading) get() (*tokenizer.Tokenizer, error) {
	<-l.done
	return l.tok, l.err
}

// loadTrunk prepares the trunk: mapped out of the packed variant of its class, or read where there is none.
func (i *Instance) loadTrunk(ctx context.Context, p *packer, o Options) (*model.Trunk, error) {
	be, packed, err := p.trunkOf(ctx, o.Config.Trunk)
	if err != nil {
		return nil, err
	}
	i.sizeOfTrunk(p.stored, packed)
	if packed == nil {
		i.trunk, err = p.stored.ReadTrunk(ctx)
	} else if i.trunk, err = packed.OpenTrunk(ctx); err == nil {
		i.trunk.Prefetch()
		i.watch, err = watchTrunk(packed, o)
	}
	if err != nil {
		return nil, err
	}
	return model.Load(i.Model, i.trunk, be, o.Config.Trunk.Precision)
}

// Close ends running requests and all processes, waits for them and frees the trunk. It works after a failed start.
func (i *Instance) Close() error {
	var errs []error
	i.Costs.Close() // it looks at both
	if i.Engine != nil {
		errs = append(errs, i.Engine.Close())
	}
	i.Meter.Close()
	if i.Host != nil {
		errs = append(errs, i.Host.Close())
	}
	i.pool.Close()
	if i.watch != nil {
		errs = append(errs, i.watch.close())
		i.watch = nil // Close may be called again
	}
	if i.trunk != nil {
		errs = append(errs, i.trunk.Close())
	}
	return errors.Join(errs...)
}

// OpenModel finds the configured model in the store and imports it first where needed: a folder, a name, or the
// embedded model.
func OpenModel(ctx context.Context, c config.Config, progress func(done, total int64)) (*weights.Model, error) {
	store, err := weights.OpenStore(c.Home)
	if err != nil {
		return nil, err
	}
	if c.Model == "" || c.Model == embedded.Name {
		return store.EnsureEmbedded(ctx, plan)
	}
	if info, err := os.Stat(c.Model); err == nil && info.IsDir() {
		return store.Ensure(ctx, c.Model, plan, progress)
	}
	m, err := store.Find(c.Model)
	if errors.Is(err, sdk.ErrNotFound) {
		return nil, fmt.Errorf("model %q: no such folder and no such name in the store (see: pimoe models): %w", c.Model, err)
	}
	return m, err
}

// startHost places the units and starts the processes.
func (i *Instance) startHost(ctx context.Context, p *packer, opts Options) error {
	c, stored := i.Config, p.stored
	plans, notes, err := c.Groups(i.Model.SparseLayers(), i.Model.Experts)
	if err != nil {
		return err
	}
	i.Notes = notes
	if i.remedies, plans, err = remediesOf(c, plans); err != nil {
		return err
	}
	o := host.Options{
		Model:   stored,
		Experts: host.ExpertShape{Hidden: i.Model.Hidden, Intermediate: i.Model.Intermediate, Activation: i.Model.Activation},
		MaxRows: maxRows, Threads: Threads(c), Metrics: i.Metrics, Log: i.Log, Event: opts.Event, StartTimeout: startTimeout(stored.Manifest), SweepEvery: opts.SweepEvery,
		Resilience: resilience.Options{BreakerThreshold: c.Limits.CircuitBreakerThreshold}, MaxRetries: c.Limits.MaxRetries, Builtin: opts.Builtin.Expert,
	}
	o.ProcessCores, o.Budget, o.Scaling = c.Plugins.CPUs, budget(c), scalingRules(c)
	if c.Experts.Hedge == "off" {
		o.Resilience.HedgeShare = -1
	}
	if c.Experts.RecheckOneIn > 0 {
		o.RecheckRate, o.RecheckHere = 1/float64(c.Experts.RecheckOneIn), c.Experts.RecheckBy == "host"
	}
	o.Place = i.place(plans)
	for _, plan := range plans {
		remote, err := i.remote(plan)
		if err != nil {
			return err
		}
		packed, err := p.group(ctx, plan)
		if err != nil {
			return err
		}
		o.Groups = append(o.Groups, host.GroupSpec{
			Name: plan.Name, Units: plan.Units, Backend: plan.Backend, Precision: plan.Precision, Packed: packed,
			Device: plan.Device, DeviceKey: plan.DeviceKey, Replicas: plan.Replicas, MaxReplicas: plan.MaxReplicas, Standby: plan.Standby,
			Path: pluginPath(c, plan.Plugin, "pimoe-expert-", plan.Backend), Remote: remote,
			Spared: plan.Fallback != nil,
		})
	}
	i.Notes = append(i.Notes, p.notes...)
	i.plans = plans
	o.Router = i.routerSpec(c)
	if c.Experts.Isolation == "inproc" {
		i.Host, err = inProcess(ctx, o, opts.Builtin, i.pool.Team())
		return err
	}
	o.Transport = transport(c.Experts.Transport)
	o.Confinement = confinement(c.Plugins)
	list, err := pins(c.Plugins, i.Log)
	if err != nil {
		return err
	}
	o.Profiles = profiles(c.Plugins)
	i.pins.Store(&list)
	o.Pins = func(group, path, digest string) error { return (*i.pins.Load())(group, path, digest) }
	if o.RuntimeDir, err = RuntimeDir(c.Home); err != nil {
		return err
	}
	if o.Router.StandIn, err = standIn(ctx, o.Router, opts.Builtin); err != nil {
		return err
	}
	i.Host, err = host.Start(ctx, o)
	return overBudget(err)
}

// place says which of the groups serves each unit; those that stand by, after the main ones, serve none.
func (i *Instance) place(plans []config.GroupPlan) moe.Placement {
	p := moe.Placement{}
	for _, l := range i.Model.SparseLayers() {
		p[l] = make([]int, i.Model.Experts)
	}
	for g, plan := range plans[:i.remedies.main] {
		for _, u := range plan.Units {
			p[u.Layer][u.Expert] = g
		}
	}
	return p
}

// routerSpec is the configured router, without a stand-in.
func (i *Instance) routerSpec(c config.Config) host.RouterSpec {
	return host.RouterSpec{
		Name: c.Router.Plugin, Path: pluginPath(c, "", "pimoe-router-", c.Router.Plugin),
		Spec: router.Spec{
			Layers: i.Model.SparseLayers(), Experts: i.Model.Experts, TopK: i.Model.TopK,
			Rule: i.Model.Rule, Params: c.Router.Params,
		},
	}
}

// startTimeout bounds one process's start: ten seconds, and the time a slow disk needs to read all weights.
func startTimeout(m weights.Manifest) time.Duration {
	const slowDisk = 100 << 20 // bytes a second
	return 10*time.Second + time.Duration(float64(m.Size())/slowDisk*float64(time.Second))
}

// maxRows is the height of a slot of shared memory: enough for a usual prompt chunk that goes to one expert, and small
// enough that 64 processes stay within a few hundred megabytes. Larger calls are split.
const maxRows = 256

func inProcess(ctx context.Context, o host.Options, b Builtin, t team.Team) (*host.Host, error) {
	r, err := b.Router(o.Router.Name)
	if err != nil {
		return nil, err
	}
	return host.StartInProcess(ctx, o, host.InProcess{Expert: b.Expert, Router: r, Team: t})
}

// standIn is the host's own copy of the model rule; only the model router has one.
func standIn(ctx context.Context, spec host.RouterSpec, b Builtin) (router.Router, error) {
	if spec.Name != "model" {
		return nil, nil
	}
	r, err := b.Router(spec.Name)
	if err != nil {
		return nil, err
	}
	if err := r.Configure(ctx, spec.Spec); err != nil {
		return nil, fmt.Errorf("stand-in router: %w", err)
	}
	return r, nil
}

// transport is the configured one; shared memory falls back to gRPC by itself where the platform has none.
func transport(name string) client.Transport {
	if name == "grpc" {
		return client.TransportGRPC
	}
	return client.TransportSHM
}

// pluginPath is the executable of a plugin: the one named, or prefix+name in the plugin folder.
func pluginPath(c config.Config, path, prefix, name string) string {
	if path != "" {
		return path
	}
	dir := c.Plugins.Dir
	if dir == "" {
		if exe, err := os.Executable(); err == nil {
			dir = filepath.Dir(exe)
		}
	}
	return filepath.Join(dir, prefix+name)
}

// RuntimeDir is where sockets live: in the store's folder, or in the user's own runtime folder where that path is too
// long for a Unix socket or on a read-only disk. Never the system's temporary folder, which cleaners sweep.
func RuntimeDir(home string) (string, error) {
	dir := filepath.Join(home, "run")
	if len(dir) <= host.MaxRuntimeDir && !readOnly(dir) {
		return dir, nil
	}
	for _, base := range []string{os.Getenv("XDG_RUNTIME_DIR"), fmt.Sprintf("/run/user/%d", os.Getuid()), "/run", "/var/run"} {
		if base == "" {
			continue
		}
		if dir := filepath.Join(base, "pimoe"); os.MkdirAll(dir, 0o700) == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("no folder for sockets: %s is read-only or longer than %d bytes, and there is no runtime folder; set XDG_RUNTIME_DIR: %w", dir, host.MaxRuntimeDir, sdk.ErrInvalid)
}

// readOnly reports whether a folder lies on a disk that can't be written. A full one is none: the successor of a host must find
// the folder of its predecessor.
func readOnly(dir string) bool {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return errors.Is(err, syscall.EROFS)
	}
	f, err := os.CreateTemp(dir, ".writable-*")
	if err == nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}
	return errors.Is(err, syscall.EROFS)
}

// Threads is how many threads the configuration allows.
func Threads(c config.Config) int {
	if c.Limits.Threads > 0 {
		return c.Limits.Threads
	}
	return team.Cores()
}
