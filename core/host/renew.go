package host

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
)

// Renewal is a change of several expert groups and of the router in one step.
type Renewal struct {
	Groups map[string]func(*GroupSpec) error // by name; each gets the group's present description
	Router *RouterSpec                       // nil = stays
	// Place deals the units anew over the groups, whose Units the changes set; nil = stays. Each unit must be computed as before.
	Place moe.Placement
	// Watch is how long the new processes are watched after the shift. What fails in this time is rolled back.
	Watch time.Duration
}

// Renewed tells what a renewal has done.
type Renewed struct {
	Groups []Swapped     `json:"groups"`
	Router string        `json:"router,omitempty"` // the new one's name
	Ready  time.Duration `json:"ready_ns"`         // until all new processes had passed their tests
}

// startTogether is how many groups start at the same time: enough to hide the waiting of one start, few enough that requests
// keep most of the cores.
const startTogether = 4

// Renew replaces groups and the router under load, all or none: everything new is started, loads, passes its known-answer test
// and is compared with what it replaces; then all take their places in one step, so that no request sees a part of it. Requests
// under way end on the old processes, which then end. A new group that fails while it is watched, or the router, brings all the
// old ones back; where a group gives the bits of the one before, that one answers meanwhile what it does not. On an error
// nothing has changed, or everything is as before.
func (h *Host) Renew(ctx context.Context, r Renewal) (*Renewed, error) {
	if h.fleet == nil {
		return nil, fmt.Errorf("the experts run in the host's own process: %w", sdk.ErrUnsupported)
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	if t := h.running(); t != nil {
		return nil, fmt.Errorf("group %s is being tried: promote it or roll it back first: %w", t.seat.name, sdk.ErrInvalid)
	}
	began := time.Now()
	n := &renewal{host: h, place: r.Place}
	if n.place != nil {
		n.oldPlace = h.places.Of(0)
	}
	if err := n.start(ctx, r); err != nil {
		n.dismiss()
		return nil, err
	}
	done := n.describe()
	done.Ready = time.Since(began)
	if err := n.take(ctx, r.Watch); err != nil {
		return nil, err
	}
	h.log.Info("processes renewed", "groups", len(n.groups), "router", done.Router, "ready", done.Ready)
	return done, nil
}

// renewal is a change on its way.
type renewal struct {
	host      *Host
	groups    []renewedGroup
	router    *supervisedRouter // nil = stays
	oldRouter *supervisedRouter
	sameRoute bool // the new router is the old one's rule
	place     moe.Placement
	oldPlace  moe.Placement
}

type renewedGroup struct {
	seat       *seat
	old, fresh *group
	difference Difference
}

// start brings everything new up to where it may take its place.
func (n *renewal) start(ctx context.Context, r Renewal) error {
	var specs []GroupSpec
	for _, name := range slices.Sorted(maps.Keys(r.Groups)) {
		s := n.host.seat(name)
		if s == nil {
			return fmt.Errorf("%q: %w", name, errUnknownGroup)
		}
		old, err := s.group()
		if err != nil {
			return err
		}
		spec := old.spec
		if err := r.Groups[name](&spec); err != nil {
			return fmt.Errorf("expert group %s: %w", name, err)
		}
		n.groups, specs = append(n.groups, renewedGroup{seat: s, old: old}), append(specs, spec)
	}
	wait, ctx := errgroup.WithContext(ctx)
	wait.SetLimit(startTogether)
	if r.Router != nil {
		wait.Go(func() error { return n.startRouter(ctx, *r.Router) })
	}
	for i := range n.groups {
		wait.Go(func() error {
			if err := n.begin(ctx, &n.groups[i], specs[i]); err != nil {
				return fmt.Errorf("expert group %s: %w", specs[i].Name, err)
			}
			return nil
		})
	}
	return wait.Wait()
}

// begin starts a group and compares it with what it replaces.
func (n *renewal) begin(ctx context.Context, g *renewedGroup, spec GroupSpec) (err error) {
	if err = ctx.Err(); err != nil {
		return err
	}
	if g.fresh, err = n.host.begin(ctx, g.seat, spec); err != nil {
		return err
	}
	before := func(u expert.Unit) []float32 { return n.before(g, u) }
	if g.difference, err = compareUnits(g.fresh.answers, before); err != nil {
		return err
	}
	if n.place != nil && !g.difference.Same && g.regrouped() {
		return fmt.Errorf("units that come from other groups are computed otherwise here (relative difference %.3g): %w", g.difference.Relative, sdk.ErrInvalid)
	}
	return g.difference.acceptable(g.old, g.fresh)
}

// before is the known answer for a unit up to now: that of the group's own seat, or for a unit that comes from elsewhere, of a
// group that computes like this one. Nil if nobody has it.
func (n *renewal) before(g *renewedGroup, u expert.Unit) []float32 {
	if y := g.old.answers.answer(u); y != nil {
		return y
	}
	for _, other := range n.groups {
		if other.old.numerics() != g.old.numerics() {
			continue
		}
		if y := other.old.answers.answer(u); y != nil {
			return y
		}
	}
	return nil
}

// regrouped reports whether the group gets other units than it had.
func (g *renewedGroup) regrouped() bool { return !slices.Equal(g.old.spec.Units, g.fresh.spec.Units) }

// startRouter starts the new router. What the host has been built for can't change: whether it wants hidden states, observes
// or depends on load.
func (n *renewal) startRouter(ctx context.Context, spec RouterSpec) error {
	h := n.host
	old := h.routers.of(0)
	n.oldRouter, n.router = old, newSupervisedRouter(spec, h.launch)
	h.fleet.enlistRouter(n.router)
	if err := n.router.process.firstStart(ctx); err != nil {
		return err
	}
	was, _, _ := old.process.ready()
	is, err, _ := n.router.process.ready()
	if was == nil || is == nil {
		return fmt.Errorf("router %s: not compared, because one of the two is gone: %v: %w", spec.Name, err, sdk.ErrUnavailable)
	}
	for _, p := range []struct {
		what    string
		was, is bool
	}{
		{"depends on load", was.info.Has(sdk.CapLoadDependent), is.info.Has(sdk.CapLoadDependent)},
		{"observes", was.observes, is.observes},
		{"wants hidden states", old.WantsHidden(), n.router.WantsHidden()},
	} {
		if p.was != p.is {
			h.seen.wanted.Store(was.observes)
			return fmt.Errorf("router %s: that it %s is %t, and of the present one %t; only another host can change that: %w", spec.Name, p.what, p.is, p.was, sdk.ErrUnsupported)
		}
	}
	if n.sameRoute = spec.Name == old.spec.Name && maps.Equal(spec.Spec.Params, old.spec.Spec.Params); n.sameRoute && !is.info.Has(sdk.CapLoadDependent) {
		return sameRoutes(ctx, old, was, is)
	}
	return nil
}

// sameRoutes holds the answers of two versions of a router to the known question against each other.
func sameRoutes(ctx context.Context, r *supervisedRouter, was, is *incarnation) error {
	batch := r.knownRows
	before, after := newRoutes(batch.Logits.Rows, r.spec.Spec.TopK), newRoutes(batch.Logits.Rows, r.spec.Spec.TopK)
	if err := was.router.Route(ctx, batch, before); err != nil {
		return err
	}
	if err := is.router.Route(ctx, batch, after); err != nil {
		return err
	}
	if !slices.Equal(before.IDs, after.IDs) || !sameBits(before.Weights, after.Weights) {
		return fmt.Errorf("router %s: other routes than the present one's with the same parameters: %w", r.spec.Name, sdk.ErrInvalidOutput)
	}
	return nil
}

// dismiss ends everything new that has been started and has no place.
func (n *renewal) dismiss() {
	for _, g := range n.groups {
		if g.fresh != nil {
			n.host.fleet.dismiss(g.fresh)
		}
	}
	if n.router != nil {
		n.host.fleet.dismissRouter(n.router)
	}
}

func (n *renewal) describe() *Renewed {
	done := &Renewed{Groups: []Swapped{}}
	for _, g := range n.groups {
		done.Groups = append(done.Groups, Swapped{Group: g.seat.name, From: g.old.title(), To: g.fresh.title(), Difference: g.difference})
	}
	if n.router != nil {
		done.Router = n.router.spec.Name
	}
	return done
}

// shifted is the step by which everything new takes its place, or everything old takes it back.
func (n *renewal) shifted(pick func(renewedGroup) member, router *supervisedRouter, text string) shift {
	sh := shift{groups: map[*seat]member{}, router: router, text: text}
	for _, g := range n.groups {
		sh.groups[g.seat] = pick(g)
	}
	return sh
}

// take gives everything new its place and watches it there; what fails is rolled back.
func (n *renewal) take(ctx context.Context, watch time.Duration) error {
	h := n.host
	before, after := h.editions.now(), sameText
	for _, g := range n.groups {
		if !g.difference.Same {
			after = ""
		}
	}
	if n.router != nil && !n.sameRoute {
		after = ""
	}
	guarded := func(g renewedGroup) member {
		if g.difference.Same && !g.regrouped() {
			return &backed{group: g.fresh, behind: g.old}
		}
		return g.fresh
	}
	taking := n.shifted(guarded, n.router, after)
	taking.place = n.place
	old := h.editions.shift(taking)
	why := n.watched(ctx, watch)
	if why == nil { // those who stood behind leave
		old = append(old, h.editions.shift(n.shifted(func(g renewedGroup) member { return g.fresh }, nil, sameText))...)
		n.retire(old, func(g renewedGroup) *group { return g.old }, n.oldRouter)
		return nil
	}
	returning := n.shifted(func(g renewedGroup) member { return g.old }, n.oldRouter, before)
	returning.place = n.oldPlace
	back := h.editions.shift(returning)
	n.retire(back, func(g renewedGroup) *group { return g.fresh }, n.router)
	h.log.Error("new processes are rolled back", "why", why)
	return fmt.Errorf("rolled back: %w", why)
}

// watched looks at what is new for a while.
func (n *renewal) watched(ctx context.Context, watch time.Duration) error {
	for until := time.Now().Add(watch); ; {
		for _, g := range n.groups {
			if why := g.fresh.fault(); why != "" {
				return fmt.Errorf("expert group %s: %s: %w", g.seat.name, why, sdk.ErrInvalidOutput)
			}
		}
		if n.router != nil {
			if inc, err, _ := n.router.process.ready(); inc == nil {
				return fmt.Errorf("router %s: its process is gone: %w", n.router.spec.Name, err)
			}
		}
		left := time.Until(until)
		if left <= 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-n.host.fleet.life.Done():
			return fmt.Errorf("the host ends: %w", sdk.ErrUnavailable)
		case <-time.After(min(left, lookAtTrial)):
		}
	}
}

// fault is what a new group has done wrong; empty if nothing.
func (g *group) fault() string {
	errors := uint64(0)
	for _, s := range g.stats {
		errors += s.errors.Load()
	}
	if errors >= trialErrors {
		return fmt.Sprintf("%d calls failed", errors)
	}
	if g.pool != nil && g.usable() { // one endpoint of several may come and go
		return ""
	}
	for _, s := range g.serving() {
		if inc, err, _ := s.ready(); inc == nil {
			return fmt.Sprintf("a process is gone: %v", err)
		}
	}
	return ""
}

// retire ends who has lost a place when the last request of the editions has ended, in the background.
func (n *renewal) retire(old []uint64, leaving func(renewedGroup) *group, router *supervisedRouter) {
	h := n.host
	for _, g := range n.groups {
		h.fleet.wg.Go(func() {
			if h.editions.drained(h.fleet.life, g.seat, old) == nil {
				h.fleet.dismiss(leaving(g))
			}
		})
	}
	if router != nil {
		h.fleet.wg.Go(func() {
			if h.editions.drained(h.fleet.life, h.routers, old) == nil {
				h.fleet.dismissRouter(router)
			}
		})
	}
	if n.place != nil {
		h.fleet.wg.Go(func() { _ = h.editions.drained(h.fleet.life, h.places, old) }) // an error is the host's end
	}
}
