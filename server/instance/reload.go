package instance

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/host"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/server/logging"
)

// watchRenewed is how long new processes are watched before a reload counts as done. Under load that is hundreds of calls; a
// person who waits for the answer hardly notices.
const watchRenewed = 500 * time.Millisecond

// Reloaded tells what a reload has done.
type Reloaded struct {
	From      string          `json:"from"` // hash of the configuration before
	Hash      string          `json:"hash"`
	Changes   []config.Change `json:"changes"`
	Processes *host.Renewed   `json:"processes,omitempty"` // nil = none was replaced
	Took      time.Duration   `json:"took_ns"`
}

// Applied is the configuration that holds now: Config, until a reload has changed it.
func (i *Instance) Applied() config.Config { return *i.applied.Load() }

// Reload makes the running instance what another configuration says, all of it or nothing. Expert groups and the router whose
// settings, or whose executables, have changed are replaced as host.Renew does it; requests under way end as they began. A
// group that was changed by hand stays so until its own settings change. Units change groups in the same step. An error says why nothing has changed.
func (i *Instance) Reload(ctx context.Context, next config.Config) (*Reloaded, error) {
	i.reloading.Lock()
	defer i.reloading.Unlock()
	return i.reload(ctx, next)
}

// reload is Reload. The caller holds reloading.
func (i *Instance) reload(ctx context.Context, next config.Config) (*Reloaded, error) {
	began, now := time.Now(), i.Applied()
	done := &Reloaded{From: now.Hash(), Hash: next.Hash(), Changes: config.Diff(now, next)}
	if err := config.NotLive(done.Changes); err != nil {
		return nil, err
	}
	r, err := i.prepareReload(ctx, now, next)
	if err != nil {
		return nil, err
	}
	if len(r.renewal.Groups) > 0 || r.renewal.Router != nil {
		if done.Processes, err = i.Host.Renew(ctx, r.renewal); err != nil {
			return nil, err
		}
	}
	i.plans = r.plans
	if r.pins != nil {
		i.pins.Store(&r.pins)
		r.settled.Store(true)
	}
	logging.SetLevel(i.Log, next.Log.Level)
	i.Engine.SetLimits(next.Limits)
	i.applied.Store(&next)
	done.Took = time.Since(began)
	return done, nil
}

// reload is what another configuration asks of the processes.
type reload struct {
	now, next config.Config
	plans     []config.GroupPlan
	renewal   host.Renewal
	pins      host.Pins   // nil in process
	settled   atomic.Bool // pins are everybody's
	digests   map[string]string
}

// prepareReload finds out what has to be replaced, and refuses what can't be.
func (i *Instance) prepareReload(ctx context.Context, now, next config.Config) (*reload, error) {
	r := &reload{now: now, next: next, digests: map[string]string{}, renewal: host.Renewal{Groups: map[string]func(*host.GroupSpec) error{}, Watch: watchRenewed}}
	plans, _, err := next.Groups(i.Model.SparseLayers(), i.Model.Experts)
	if err != nil {
		return nil, err
	}
	if _, plans, err = remediesOf(next, plans); err != nil {
		return nil, err
	}
	if r.plans = inOrder(plans, i.plans); !sameGroups(i.plans, r.plans) {
		return nil, config.NeedsHost("which expert groups there are (experts.overrides, experts.max_processes), and what they do without an expert,")
	}
	if now.Experts.Isolation == "inproc" {
		if !reflect.DeepEqual(i.plans, r.plans) || !sameRouter(now, next) {
			return nil, config.NeedsHost("experts and routers that run in the host itself (experts.isolation: inproc)")
		}
		return r, nil
	}
	if r.pins, err = pins(next.Plugins, i.Log); err != nil {
		return nil, err
	}
	running := map[string]host.Executable{}
	for _, e := range i.Host.Executables() {
		running[e.Group] = e
	}
	for g, plan := range r.plans {
		if err := r.group(ctx, i, i.plans[g], plan, running[plan.Name]); err != nil {
			return nil, fmt.Errorf("expert group %s: %w", plan.Name, err)
		}
		if !slices.Equal(i.plans[g].Units, plan.Units) {
			r.renewal.Place = i.place(r.plans)
		}
	}
	if err := r.router(ctx, i, running[""]); err != nil {
		return nil, fmt.Errorf("router %s: %w", next.Router.Plugin, err)
	}
	return r, nil
}

// inOrder are plans in the order that the host has its groups in.
func inOrder(plans, present []config.GroupPlan) []config.GroupPlan {
	at := map[string]int{}
	for g, p := range present {
		at[p.Name] = g
	}
	out := slices.Clone(plans)
	slices.SortStableFunc(out, func(a, b config.GroupPlan) int { return cmp.Compare(at[a.Name], at[b.Name]) })
	return out
}

// sameGroups reports whether there are groups of the same names, under the same policies.
func sameGroups(a, b []config.GroupPlan) bool {
	if len(a) != len(b) {
		return false
	}
	for g := range a {
		x, y := settings(a[g]), settings(b[g])
		if x.Name != y.Name || x.Policy != y.Policy || !maps.Equal(x.Substitutes, y.Substitutes) || !reflect.DeepEqual(x.Fallback, y.Fallback) {
			return false
		}
	}
	return true
}

// settings are a plan without its units, and without where its device is said.
func settings(p config.GroupPlan) config.GroupPlan {
	p.Units, p.DeviceKey = nil, ""
	if p.Fallback != nil {
		f := settings(*p.Fallback)
		p.Fallback = &f
	}
	return p
}

func sameRouter(a, b config.Config) bool {
	return a.Router.Plugin == b.Router.Plugin && maps.Equal(a.Router.Params, b.Router.Params)
}

// judge is the new pins' judge for processes that start before the reload is done.
func (r *reload) judge(i *Instance) host.Pins {
	return func(group, path, digest string) error {
		if r.settled.Load() {
			return (*i.pins.Load())(group, path, digest)
		}
		return r.pins(group, path, digest)
	}
}

// executable is the digest of a plugin's file, which must be there and pinned.
func (r *reload) executable(group, path string) (string, error) {
	digest, known := r.digests[path]
	if !known {
		f, err := client.OpenTrusted(path, r.next.Plugins.Dev)
		if err != nil {
			return "", fmt.Errorf("plugin: %w: %w", sdk.ErrInvalid, err)
		}
		defer f.Close()
		if digest, err = client.Digest(f); err != nil {
			return "", fmt.Errorf("plugin %s: %w", path, err)
		}
		r.digests[path] = digest
	}
	if err := r.pins(group, path, digest); err != nil {
		return "", fmt.Errorf("plugin %s: %w", path, err)
	}
	return digest, nil
}

// group notes a group that has to be replaced: its plan has changed, or the file that it executes. One that only gets other
// units stays what it is, also if it was changed by hand.
func (r *reload) group(ctx context.Context, i *Instance, before, plan config.GroupPlan, running host.Executable) error {
	if plan.Remote != nil {
		return r.away(i, before, plan)
	}
	path := pluginPath(r.next, plan.Plugin, "pimoe-expert-", plan.Backend)
	regrouped := !slices.Equal(before.Units, plan.Units)
	changed := !reflect.DeepEqual(settings(before), settings(plan)) || path != pluginPath(r.now, before.Plugin, "pimoe-expert-", before.Backend)
	if !changed {
		path = running.Path // another one, if it was changed by hand
	}
	digest, err := r.executable(plan.Name, path)
	if err != nil || !changed && !regrouped && digest == running.Digest {
		return err
	}
	if !changed {
		r.renewal.Groups[plan.Name] = func(s *host.GroupSpec) error {
			s.Units, s.Pins = plan.Units, r.judge(i)
			return nil
		}
		return nil
	}
	packed, err := i.packer.group(ctx, plan)
	if err != nil {
		return err
	}
	r.renewal.Groups[plan.Name] = func(s *host.GroupSpec) error {
		s.Backend, s.Path, s.Precision, s.Packed = plan.Backend, path, plan.Precision, packed
		s.Device, s.DeviceKey = plan.Device, plan.DeviceKey
		s.Units, s.Replicas, s.Standby, s.Pins = plan.Units, plan.Replicas, plan.Standby, r.judge(i)
		if s.Remote != nil {
			s.Remote, s.MaxReplicas = nil, plan.MaxReplicas
		}
		return nil
	}
	return nil
}

// router notes that the router has to be replaced.
func (r *reload) router(ctx context.Context, i *Instance, running host.Executable) error {
	path := pluginPath(r.next, "", "pimoe-router-", r.next.Router.Plugin)
	digest, err := r.executable("", path)
	if err != nil || sameRouter(r.now, r.next) && path == running.Path && digest == running.Digest {
		return err
	}
	spec := i.routerSpec(r.next)
	spec.Pins = r.judge(i)
	if spec.StandIn, err = standIn(ctx, spec, i.builtin); err != nil {
		return err
	}
	r.renewal.Router = &spec
	return nil
}
