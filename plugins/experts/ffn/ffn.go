// Package ffn is the feed-forward expert of Mixture-of-Experts models over any backend: for each row x of a unit,
//
//	y = down(act(gate x) * up x)
//
// with act the SiLU of SwiGLU blocks (Shazeer 2020) or the tanh form of GELU. It implements sdk/expert; the programs
// pimoe-expert-NAME serve it, and `--isolation inproc` calls it directly.
//
// It refuses weights of mixed numeric classes, units it was not given, and parameters other than those of a device, which OnDevice
// has.
package ffn

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Options are what a program knows of itself.
type Options struct {
	Name    string // the NAME of pimoe-expert-NAME; empty = the backend's
	Version string // free text for people
	Threads int    // that a call may use at most; 0 = all of the machine's
}

// Expert computes units. Make it with New.
type Expert struct {
	backend backends.Backend
	threads int
	info    sdk.Info
	params  func(map[string]string) error // takes those of a spec

	mu    sync.RWMutex // guards model and pool and, in Info, info.NumericClass
	model *model       // nil before Load and after Close
	pool  *team.Pool   // nil until a call may use several threads: most processes have work for one at a time
}

// model is what Load has made; it does not change.
type model struct {
	hidden, intermediate int
	units                map[expert.Unit]backends.FFN
	grouped              backends.Grouped // the backend, if it computes several units together
}

// New makes an expert that computes with be.
func New(be backends.Backend, o Options) *Expert {
	if o.Name == "" {
		o.Name = be.Name()
	}
	if o.Threads == 0 {
		o.Threads = team.Cores()
	}
	info := sdk.Info{Name: o.Name, Kind: sdk.KindExpert, Version: o.Version, Capabilities: packings(be)}
	return &Expert{backend: be, threads: o.Threads, info: info, params: noParams}
}

func noParams(given map[string]string) error {
	for name := range given {
		return fmt.Errorf("%w: unknown parameter %q: the ffn expert has none", sdk.ErrInvalid, name)
	}
	return nil
}

// classes are all that a backend may compute in.
var classes = []string{"f32", "bf16w-f32", "f16w-f32", "bf16", "int8g32"}

// packings declares the layouts that the backend takes in place.
func packings(be backends.Backend) []string {
	var list []string
	for _, class := range classes {
		if p := be.Packing(class); p != "" && !slices.Contains(list, sdk.CapPacking+p) {
			list = append(list, sdk.CapPacking+p)
		}
	}
	return list
}

// Info has the numeric class once Load has succeeded.
func (e *Expert) Info() sdk.Info {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return e.info
}

// Load prepares all units. It succeeds at most once.
func (e *Expert) Load(ctx context.Context, spec expert.Spec) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.model != nil {
		return fmt.Errorf("%w: load: the expert is loaded already", sdk.ErrInvalid)
	}
	m, class, err := load(ctx, e.backend, spec, e.params)
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	e.model, e.info.NumericClass = m, class
	return nil
}

// Forward fills call.Y. Once the context is done it stops before the next piece of work.
func (e *Expert) Forward(ctx context.Context, call *expert.Call) error {
	e.mu.RLock()
	m := e.model
	e.mu.RUnlock()
	if m == nil {
		return fmt.Errorf("%w: forward: no weights are loaded", sdk.ErrUnavailable)
	}
	if call.From != nil {
		call = m.gather(call)
		defer gathers.Put(call)
	}
	if err := m.check(call); err != nil {
		return fmt.Errorf("forward: layer %d: %w", call.Layer, err)
	}
	return m.run(ctx, call, e.team(call.Threads))
}

// team is threads for a call.
func (e *Expert) team(threads int) team.Team {
	if threads = min(threads, e.threads); threads <= 1 {
		return team.Team{}
	}
	e.mu.RLock()
	pool := e.pool
	e.mu.RUnlock()
	if pool == nil {
		e.mu.Lock()
		if e.pool == nil {
			e.pool = team.NewPool(e.threads, team.Options{})
		}
		pool = e.pool
		e.mu.Unlock()
	}
	return pool.Team().Limit(threads)
}

// Close lets go of the weights and ends the threads.
func (e *Expert) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.model = nil
	if e.pool != nil {
		e.pool.Close()
		e.pool = nil
	}
	return nil
}

var _ expert.Expert = (*Expert)(nil)
