package host

import (
	"context"
	"sync/atomic"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// routerSeat is the place of the router: the process that routes for new requests, and while it is being changed the other
// one that routes for requests of older editions.
type routerSeat struct {
	table atomic.Pointer[routerSeating]
}

// routerSeating says who routes for whom. It is never changed, only replaced.
type routerSeating struct {
	current *supervisedRouter
	others  map[uint64]*supervisedRouter // by edition
}

func newRouterSeat(r *supervisedRouter) *routerSeat {
	s := &routerSeat{}
	s.table.Store(&routerSeating{current: r})
	return s
}

// of is the router of an edition; nil where the seat is.
func (s *routerSeat) of(edition uint64) *supervisedRouter {
	if s == nil {
		return nil
	}
	t := s.table.Load()
	if r, ok := t.others[edition]; ok {
		return r
	}
	return t.current
}

// shift seats r; the editions in use keep who routes for them.
func (s *routerSeat) shift(r *supervisedRouter, old []uint64) {
	others := map[uint64]*supervisedRouter{}
	for _, n := range old {
		others[n] = s.of(n)
	}
	s.table.Store(&routerSeating{current: r, others: others})
}

func (s *routerSeat) title() string { return "router" }

// forget implements place.
func (s *routerSeat) forget(old []uint64) {
	t := s.table.Load()
	s.table.Store(&routerSeating{current: t.current, others: without(t.others, old)})
}

// Info implements router.Router.
func (s *routerSeat) Info() sdk.Info { return s.table.Load().current.Info() }

// Configure is refused, as every router's is.
func (s *routerSeat) Configure(ctx context.Context, spec router.Spec) error {
	return s.table.Load().current.Configure(ctx, spec)
}

// Route implements router.Router.
func (s *routerSeat) Route(ctx context.Context, b router.Batch, routes router.Routes) error {
	return s.of(b.Edition).Route(ctx, b, routes)
}

// WantsHidden implements router.HiddenRouter: a change never changes it.
func (s *routerSeat) WantsHidden() bool { return s.table.Load().current.WantsHidden() }

// Predict implements moe.Predicted.
func (s *routerSeat) Predict(ctx context.Context, b router.Batch, routes router.Routes) bool {
	return s.of(b.Edition).Predict(ctx, b, routes)
}

// Begin implements moe.Predicted.
func (s *routerSeat) Begin(ctx context.Context, b router.Batch, routes router.Routes) expert.Pending {
	return s.of(b.Edition).Begin(ctx, b, routes)
}

func (s *routerSeat) available() error { return s.table.Load().current.available() }

func (s *routerSeat) status() RouterStatus { return s.table.Load().current.status() }

// Close does nothing: the host owns the processes.
func (s *routerSeat) Close() error { return nil }

// Executable is what the processes of a group, or of the router, execute.
type Executable struct {
	Group  string // empty for the router
	Path   string
	Digest string // empty while it has never run
}

// Executables lists what runs now, the router's last; nil in process.
func (h *Host) Executables() []Executable {
	if h.routers == nil {
		return nil
	}
	var out []Executable
	for _, s := range h.groups {
		if g := s.own(); g != nil {
			out = append(out, Executable{Group: s.name, Path: g.spec.Path, Digest: g.program()})
		}
	}
	r := h.routers.of(0)
	return append(out, Executable{Path: r.spec.Path, Digest: r.digest()})
}

// enlistRouter supervises a router's process apart from the rest, so that it can be ended alone.
func (f *fleet) enlistRouter(r *supervisedRouter) {
	var life context.Context
	life, r.cease = context.WithCancel(f.life)
	f.count.Add(1)
	r.running.Go(func() { r.process.run(life) })
	f.wg.Go(func() {
		r.running.Wait()
		r.program.Close()
	})
}

// dismissRouter ends a router's process and waits for its end.
func (f *fleet) dismissRouter(r *supervisedRouter) {
	r.cease()
	r.running.Wait()
	f.count.Add(-1)
}

// digest is that of what the living process executes; empty while there is none.
func (r *supervisedRouter) digest() string {
	if inc, _, _ := r.process.ready(); inc != nil {
		return inc.digest
	}
	return ""
}

var (
	_ routing             = (*routerSeat)(nil)
	_ moe.Predicted       = (*routerSeat)(nil)
	_ router.HiddenRouter = (*routerSeat)(nil)
	_ place               = (*routerSeat)(nil)
	_ place               = (*seat)(nil)
)
