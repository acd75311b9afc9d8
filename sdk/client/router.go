package client

import (
	"context"
	"fmt"
	"math"
	"sync"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"
	"github.com/pimoe/pimoe/sdk/router"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Router is a router in another process. It is safe for concurrent use; copies are the same router.
type Router struct{ link *link }

// NewRouter is a router behind a bare connection; see NewExpert.
func NewRouter(ctx context.Context, conn grpc.ClientConnInterface) (*Router, error) {
	l := newLink(nil, conn)
	l.kind = sdk.KindRouter
	info, err := l.router.Info(ctx, &pb.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("router: info: %w", wire.FromStatus(err))
	}
	l.info.Store(info)
	return &Router{link: l}, nil
}

// Info implements router.Router.
func (r *Router) Info() sdk.Info { return r.link.Info() }

// WantsHidden implements router.HiddenRouter: it is the plugin's own answer, so false for most.
func (r *Router) WantsHidden() bool { return r.link.info.Load().GetWantsHidden() }

// Observes implements router.Observer: it is the plugin's own answer, so false for most.
func (r *Router) Observes() bool { return r.link.info.Load().GetObserves() }

// Observe implements router.Observer, over the control channel. A plugin that does not observe refuses it as unsupported.
func (r *Router) Observe(ctx context.Context, o router.Observation) error {
	if err := wire.CheckObservation(o, math.MaxInt32); err != nil {
		return err
	}
	req := wire.ObserveRequest(o)
	return r.link.call(ctx, func(ctx context.Context) error {
		_, err := r.link.router.Observe(ctx, req)
		return err
	})
}

// Configure implements router.Router.
func (r *Router) Configure(ctx context.Context, spec router.Spec) error {
	req := wire.ConfigureRequest(spec)
	return r.link.call(ctx, func(ctx context.Context) error {
		reply, err := r.link.router.Configure(ctx, req)
		if err == nil && reply.GetInfo() != nil {
			reply.Info.Kind = string(sdk.KindRouter)
			r.link.info.Store(reply.Info)
		}
		return err
	})
}

// Close ends the process; nothing happens to a bare connection.
func (r *Router) Close() error { return r.link.close() }

// Route implements router.Router. Hidden states are left out unless the plugin asked for them. Ids outside the experts
// and weights that are not finite are refused; that the ids of a row differ is the caller's to check.
func (r *Router) Route(ctx context.Context, b router.Batch, routes router.Routes) error {
	if !r.WantsHidden() {
		b.Hidden = tensor.Matrix{}
	}
	if err := wire.CheckBatch(b, routes); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	in, out := wire.RouteBytes(b, routes.K)
	for _, p := range r.link.pieces(b.Logits.Rows, in, out) {
		part, partRoutes := b, routes
		if p.to-p.from != b.Logits.Rows {
			part, partRoutes = wire.SliceBatch(b, routes, p.from, p.to)
		}
		var err error
		if p.shared {
			err = r.share(ctx, part, partRoutes)
		} else {
			err = r.send(ctx, part, partRoutes)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Begin sends a batch and returns before the answer is there; the Pending's Wait fills routes. It is like Route otherwise. A
// batch that does not fit a slot, or finds none free, is routed in Wait.
func (r *Router) Begin(ctx context.Context, b router.Batch, routes router.Routes) expert.Pending {
	p := routings.Get().(*routing)
	*p = routing{router: r, ctx: ctx, batch: b, routes: routes}
	if !r.WantsHidden() {
		p.batch.Hidden = tensor.Matrix{}
	}
	if pl := r.link.plane; pl != nil && wire.CheckBatch(p.batch, routes) == nil {
		if in, out := wire.RouteBytes(p.batch, routes.K); b.Logits.Rows <= pl.Layout().Rows(in, out) {
			p.ticket, p.sent, p.err = pl.TryPost(plane.AnyLane, routeHead(ctx, p.batch, routes.K), func(q []byte) { wire.PutRoute(q, p.batch) })
		}
	}
	return p
}

// routing is a batch under way.
type routing struct {
	router *Router
	ctx    context.Context
	batch  router.Batch
	routes router.Routes
	ticket plane.Ticket
	sent   bool
	err    error
}

var routings = sync.Pool{New: func() any { return new(routing) }}

// Wait implements expert.Pending.
func (p *routing) Wait() error {
	err := p.err
	switch {
	case p.sent:
		err = p.router.link.failure(p.ctx, p.router.take(p.ctx, p.ticket, p.batch, p.routes))
	case err != nil:
		err = p.router.link.failure(p.ctx, err)
	default:
		err = p.router.Route(p.ctx, p.batch, p.routes)
	}
	*p = routing{}
	routings.Put(p)
	return err
}

// take waits for the answer in a slot.
func (r *Router) take(ctx context.Context, t plane.Ticket, b router.Batch, routes router.Routes) error {
	return t.Wait(ctx, callLimit, func(reply plane.Reply, p []byte) error {
		carriedBy(ctx).take(reply.Began, reply.Took)
		return wire.TakeRoute(routes, b.Logits.Cols, reply, p)
	})
}

// routeHead is the header of a batch in a slot.
func routeHead(ctx context.Context, b router.Batch, k int) plane.Head {
	h := wire.RouteHead(b, k, timeLeft(ctx))
	h.Trace = carriedBy(ctx).trace()
	return h
}

func (r *Router) share(ctx context.Context, b router.Batch, routes router.Routes) error {
	t, err := r.link.plane.Post(ctx, plane.AnyLane, routeHead(ctx, b, routes.K), func(p []byte) { wire.PutRoute(p, b) })
	if err == nil {
		err = r.take(ctx, t, b, routes)
	}
	return r.link.failure(ctx, err)
}

func (r *Router) send(ctx context.Context, b router.Batch, routes router.Routes) error {
	req := wire.RouteRequest(b, routes.K)
	var reply *pb.RouteReply
	err := r.link.call(ctx, func(ctx context.Context) error {
		return carriedBy(ctx).overGRPC(ctx, func(ctx context.Context, o ...grpc.CallOption) (err error) {
			reply, err = r.link.router.Route(ctx, req, o...)
			return err
		})
	})
	if err != nil {
		return err
	}
	return wire.TakeRouteReply(routes, b.Logits.Cols, reply)
}

var (
	_ router.HiddenRouter = (*Router)(nil)
	_ router.Observer     = (*Router)(nil)
)
