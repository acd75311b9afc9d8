package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
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

func (r *Router) share(ctx context.Context, b router.Batch, routes router.Routes) error {
	t, err := r.link.plane.Post(ctx, wire.RouteHead(b, routes.K, timeLeft(ctx)), func(p []byte) { wire.PutRoute(p, b) })
	if err == nil {
		err = t.Wait(ctx, callLimit, func(reply plane.Reply, p []byte) error {
			return wire.TakeRoute(routes, b.Logits.Cols, reply, p)
		})
	}
	return r.link.failure(ctx, err)
}

func (r *Router) send(ctx context.Context, b router.Batch, routes router.Routes) error {
	req := wire.RouteRequest(b, routes.K)
	var reply *pb.RouteReply
	err := r.link.call(ctx, func(ctx context.Context) (err error) {
		reply, err = r.link.router.Route(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	return wire.TakeRouteReply(routes, b.Logits.Cols, reply)
}

var _ router.HiddenRouter = (*Router)(nil)
