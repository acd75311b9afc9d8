// Package host runs the plugins: it starts every expert group's processes and the router's, checks them with a
// known-answer inference, watches them, restarts them when they die or hang, and repeats calls that a dead process has
// left unanswered, so that whoever computes a layer never sees a process.
//
// server/instance opens a Host and hands its groups and router to core/moe. The package refuses to know about tokens,
// batching and HTTP, and it trusts nothing that a plugin says about itself.
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/resilience"
	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// Options say what a Host runs.
type Options struct {
	Model   *weights.Model // where the expert shards are
	Experts ExpertShape
	Groups  []GroupSpec
	Place   moe.Placement // which of Groups serves each unit: groups that stand by have units, too
	Router  RouterSpec
	// RuntimeDir is the folder for sockets; it must be private (0700). Each host makes its own folder in it and
	// removes those that dead hosts left behind.
	RuntimeDir string
	Transport  client.Transport
	MaxRows    int // rows of one slot of shared memory; larger calls are split
	Threads    int // cores that the experts may use at once; 0 = all
	// ProcessCores is how many of them one process may use; 0 = up to 4.
	ProcessCores int
	// Budget bounds all processes together, and Scaling says when groups of more than one number of replicas change it; a
	// window of 0 = never.
	Budget  Budget
	Scaling scaling.Rules
	// StartTimeout bounds one start: handshake, load and known-answer test. 0 means 60 s.
	StartTimeout time.Duration
	SweepEvery   time.Duration // between two checks of the shards in use; 0 means 10 minutes
	Resilience   resilience.Options
	MaxRetries   int // of a call after invalid answers
	// RecheckRate is the share of calls that are repeated elsewhere and compared bit for bit; 0 = none.
	RecheckRate float64
	// RecheckHere has the host compute such a call itself where the group has one replica only.
	RecheckHere bool
	// Builtin makes the host's own version of a backend, as which it is a witness of what others compute; nil = none.
	Builtin     func(backend string) (expert.Expert, error)
	Confinement client.ConfinementOptions // of every process
	// Pins judges every executable; nil = takes any.
	Pins Pins
	// Event takes what the host does by itself; nil = nobody asks. It is called from supervisors and must return at once.
	Event func(Event)
	// Profiles tells how the executable at a path is confined, for a group's backend or "" for the router's, if it needs more than
	// a plain program; nil, or a nil profile = it does not.
	Profiles func(backend, path string) (*client.Profile, error)
	Metrics  *metrics.Registry
	Log      *slog.Logger
}

// Pins judges an executable, by its path and the digest of what would run, for the expert group of a name or "" for the
// router.
type Pins func(group, path, digest string) error

// ExpertShape is what all experts of the model have in common.
type ExpertShape struct {
	Hidden, Intermediate int
	Activation           string
}

// GroupSpec is one expert group.
type GroupSpec struct {
	Name      string
	Units     []expert.Unit
	Backend   string            // short name, for show and metrics
	Path      string            // executable of the plugin
	Precision string            // numeric class asked for; "auto" = the backend's own
	Packed    *weights.Variant  // the shards in the packing of that class, for plugins that take it; nil = as imported
	Params    map[string]string // for the plugin alone
	// Device is the number of the device that the plugin shall compute on, its parameter of that name, and DeviceKey the setting that
	// says so; empty = the plugin chooses.
	Device, DeviceKey string
	Replicas          int    // at least 1
	Guest             *visit // who has started the plugin instead of the host; nil = nobody
	// MaxReplicas is how many the group may have when load or an operator calls for more; 0 = no more than Replicas.
	MaxReplicas int
	Standby     int  // more of them, which get calls only while no other is ready
	Pins        Pins // judges the executable; nil = Options.Pins
	// Remote has the group computed by processes on other machines, one replica for each; nil = by processes of this host.
	Remote *Remote
	// Spared says that another group computes its units while it can't: Start goes on without it if what it computes with is
	// unavailable, and tries again later.
	Spared bool
}

// most is how many replicas the group may have, without those that stand by.
func (s GroupSpec) most() int { return max(s.Replicas, s.MaxReplicas) }

// RouterSpec is the routing strategy.
type RouterSpec struct {
	Name string // short name
	Path string // executable of the plugin
	Spec router.Spec
	// StandIn answers while the plugin restarts; nil = calls wait for it. It must compute the same rule to the bit.
	StandIn router.Router
	Pins    Pins // judges the executable; nil = Options.Pins
}

// Host is a running set of expert groups and a router. Make it with Start or StartInProcess; Close ends every process
// and waits for it.
type Host struct {
	groups   []*seat
	editions *editions
	places   *places
	router   routing
	routers  *routerSeat   // the same, with processes; nil in process
	seen     *observations // nil in process, where no router observes
	close    func() error
	once     sync.Once
	log      *slog.Logger
	tell     func(Event)

	lent     atomic.Uint64 // sockets for guests that were made
	changing sync.Mutex    // held while a group is replaced, grows or shrinks
	trial    atomic.Pointer[trialOf]
	fleet    *fleet // nil if nothing has a process
	launch   *launcher
	scale    *scale
	heat     *heat
	read     bytesRead
}

// member is an expert group, in processes of its own or in this one.
type member interface {
	moe.Group
	available() error // nil, or why it can't answer now
	class() string    // the numeric class of its processes
	numerics() string // what it computes: groups of the same text give the same bits
	program() string  // digest of what its processes execute; empty if nothing is known
	status() []Status
	release(replica int) bool // ends its quarantine, and reports whether there was one
}

// routing is the router, in a process of its own or in this one.
type routing interface {
	router.Router
	available() error
	status() RouterStatus
}

// Start starts all processes at once and returns when each has passed its known-answer test. An error names the group
// and the cause, and nothing is left running.
func Start(ctx context.Context, o Options) (*Host, error) {
	if o.StartTimeout == 0 {
		o.StartTimeout = 60 * time.Second
	}
	if o.SweepEvery == 0 {
		o.SweepEvery = defaultSweep
	}
	if err := o.Confinement.Validate(); err != nil {
		return nil, fmt.Errorf("confinement: %w", err)
	}
	run, err := newRuntimeDir(o.RuntimeDir)
	if err != nil {
		return nil, err
	}
	identity, err := client.NewIdentity()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the host's certificates: %w", err), run.close())
	}
	need, err := o.Budget.check(o)
	if err != nil {
		return nil, errors.Join(err, run.close())
	}
	fleet := &fleet{run: run, shards: &shardSet{}, children: newNotifier()}
	fleet.life, fleet.stop = context.WithCancel(context.Background())
	h := &Host{close: fleet.close, fleet: fleet, log: o.Log, tell: o.tell, seen: newObservations(o.Router.Spec, o.Metrics), heat: newHeat(o.Router.Spec), places: newPlaces(o.Place)}
	fleet.wg.Go(func() { tellOfChildren(fleet.life, fleet.children) })
	if o.Confinement.Off {
		o.Log.Warn("plugins are NOT confined: each runs with all rights of this user", "setting", "plugins.confine")
	}
	fleet.confinement = client.NewConfinement(o.Confinement)
	launch := &launcher{options: o, identity: identity, runtimeDir: run.path, shards: fleet.shards, lanes: newLanes(o.Threads, o.ProcessCores), fleet: fleet, seen: h.seen, heat: h.heat}
	launch.recheck = newRecheck(o, launch.twin)
	launch.recheck.trial = &h.trial
	fleet.wg.Go(func() { launch.recheck.run(fleet.life) })
	h.launch = launch
	for n, spec := range o.Groups {
		g, err := newGroup(n, spec, launch)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("expert group %s: %w", spec.Name, err), h.Close())
		}
		h.groups = append(h.groups, newSeat(n, spec.Name, g))
		h.groups[n].measure(o.Metrics, g)
		fleet.enlist(g)
		fleet.await(g)
		if spec.Spared {
			fleet.spared = append(fleet.spared, g.serving()...)
		}
	}
	r := newSupervisedRouter(o.Router, launch)
	h.routers = newRouterSeat(r)
	h.router = h.routers
	fleet.enlistRouter(r)
	fleet.all = append(fleet.all, r.process)
	fleet.wg.Go(func() { h.seen.run(fleet.life, h.routers) })
	if err := fleet.awaitReady(ctx); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	h.editions = newEditions(h.groups, h.routers, h.places)
	h.scale = newScale(o, h.groups, need)
	fleet.wg.Go(func() { h.follow(fleet.life) })
	fleet.wg.Go(func() { sweep(fleet.life, o.SweepEvery, fleet.shards, h.groups, o) })
	return h, nil
}

// fleet owns the supervisors' goroutines and what all processes share.
type fleet struct {
	life     context.Context // of all supervisors
	stop     context.CancelFunc
	all      []*supervisor
	distant  []*group       // none of their replicas is waited for, but one of each
	spared   []*supervisor  // those of all without which the host may start
	count    atomic.Int64   // of all
	wg       sync.WaitGroup // a supervisor each, the sweep and the news of children
	children *notifier      // a child of this process has stopped, goes on or has ended
	shards   *shardSet
	run      *runtimeDir

	confinement *client.Confinement
}

// size is how many processes are supervised.
func (f *fleet) size() int { return int(f.count.Load()) }

// awaitReady waits for the first good start of every process; the first start that fails decides, unless it is
// spared.
func (f *fleet) awaitReady(ctx context.Context) error {
	if err := awaitAll(ctx, f.all, f.spared); err != nil {
		return err
	}
	for _, g := range f.distant { // all of them have begun
		if err := g.awaitAny(ctx); err != nil {
			return err
		}
	}
	return nil
}

// await notes whom awaitReady waits for.
func (f *fleet) await(g *group) {
	if g.pool != nil {
		f.distant = append(f.distant, g)
		return
	}
	f.all = append(f.all, g.serving()...)
}

func awaitAll(ctx context.Context, all, spared []*supervisor) error {
	wait, ctx := errgroup.WithContext(ctx)
	for _, s := range all {
		wait.Go(func() error {
			err := s.firstStart(ctx)
			if errors.Is(err, sdk.ErrUnavailable) && ctx.Err() == nil && slices.Contains(spared, s) {
				s.log.Error("process start failed; another group computes its experts", "err", err)
				return nil
			}
			return err
		})
	}
	return wait.Wait()
}

func (f *fleet) close() error {
	f.stop()
	f.wg.Wait()
	f.shards.close()
	f.confinement.Close()
	return f.run.close()
}

// Groups are the expert groups in the order of Options.Groups, for core/moe.
func (h *Host) Groups() []moe.Group {
	out := make([]moe.Group, len(h.groups))
	for i, g := range h.groups {
		out[i] = g
	}
	return out
}

// Places say which group serves each unit.
func (h *Host) Places() moe.Places { return h.places }

// Editions numbers the states that the groups have while they are changed.
func (h *Host) Editions() moe.Editions { return h.editions }

// Router is the routing strategy; its Configure has been called.
func (h *Host) Router() router.Router { return h.router }

// Ready is nil when every group has a process that passed its last known-answer test and the router answers; else it
// names the first that does not.
func (h *Host) Ready() error {
	for _, g := range h.groups {
		if err := g.available(); err != nil {
			return err
		}
	}
	return h.router.available()
}

// Status lists every expert process; a pid of 0 means that there is none at the moment.
func (h *Host) Status() []Status {
	var out []Status
	for _, g := range h.groups {
		out = append(out, g.status()...)
	}
	return out
}

// Release ends the quarantine of a group's replica, of all of them with a negative number: each gets a fresh process and a
// clean record. It returns how many were in quarantine.
func (h *Host) Release(name string, replica int) (int, error) {
	s := h.seat(name)
	if s == nil {
		return 0, fmt.Errorf("expert group %q: %w", name, sdk.ErrNotFound)
	}
	g := s.own()
	all := 1 // what runs in the host is one, and never quarantined
	if g != nil {
		all = len(g.replicas)
	}
	if replica >= all {
		return 0, fmt.Errorf("expert group %s has no replica %d, only %d: %w", name, replica, all, sdk.ErrNotFound)
	}
	released := 0
	if g == nil {
		return released, nil
	}
	for r := range g.replicas {
		if (replica < 0 || replica == r) && g.release(r) {
			released++
		}
	}
	return released, nil
}

// RouterStatus describes the router's process.
func (h *Host) RouterStatus() RouterStatus { return h.router.status() }

// Observes reports whether the router wants to know how its routes turn out: then Observed is to be called.
func (h *Host) Observes() bool { return h.seen != nil && h.seen.wanted.Load() }

// Observed takes the outcome of a step for a router that observes. It returns at once.
func (h *Host) Observed(o Outcome) {
	if h.seen != nil {
		h.seen.step(o)
	}
}

// Close ends every process, gracefully first, and waits until all are gone. It may be called more than once.
func (h *Host) Close() error {
	var err error
	h.once.Do(func() { err = h.close() })
	return err
}

// isProcessFault reports whether an error is the process's, so that another process or a restart may answer.
func isProcessFault(err error) bool {
	return errors.Is(err, sdk.ErrUnavailable) || errors.Is(err, sdk.ErrInvalidOutput)
}

// removeAll deletes a folder that a host made. The folders of its processes may be closed for writing (sdk/client).
func removeAll(path string) error {
	own, _ := filepath.Glob(filepath.Join(path, "p*"))
	for _, dir := range own {
		os.Chmod(dir, 0o700)
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("remove runtime folder: %w", err)
	}
	return nil
}
