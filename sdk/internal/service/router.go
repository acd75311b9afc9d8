package service

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"
	"github.com/pimoe/pimoe/sdk/router"
)

// Router serves a router.Router.
type Router struct {
	pb.UnimplementedRouterServer
	gate
	setup
	router  router.Router
	close   sync.Once
	experts int // set by Configure
}

// NewRouter puts a service in front of a router.
func NewRouter(r router.Router) *Router { return &Router{router: r} }

// Register implements Service.
func (s *Router) Register(g *grpc.Server) { pb.RegisterRouterServer(g, s) }

// Close implements Service.
func (s *Router) Close() (err error) {
	s.close.Do(func() { err = s.router.Close() })
	return err
}

func (s *Router) info() *pb.InfoReply {
	i := s.router.Info()
	i.Kind = sdk.KindRouter
	reply := wire.Info(i)
	h, ok := s.router.(router.HiddenRouter)
	reply.WantsHidden = ok && h.WantsHidden()
	o, ok := s.router.(router.Observer)
	reply.Observes = ok && o.Observes()
	return reply
}

// Info implements the gRPC service.
func (s *Router) Info(context.Context, *pb.InfoRequest) (*pb.InfoReply, error) { return s.info(), nil }

// Configure implements the gRPC service.
func (s *Router) Configure(ctx context.Context, req *pb.ConfigureRequest) (*pb.ConfigureReply, error) {
	err := s.once("configure", func() error {
		spec, err := wire.RouterSpecOf(req)
		if err != nil {
			return err
		}
		s.experts = spec.Experts
		return s.router.Configure(ctx, spec)
	})
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return &pb.ConfigureReply{Info: s.info()}, nil
}

// route is the way of both transports.
func (s *Router) route(ctx context.Context, b router.Batch, r router.Routes) error {
	return s.run(b.Logits.Rows, func() error {
		if err := s.check("configure"); err != nil {
			return err
		}
		if b.Logits.Cols != s.experts {
			return fmt.Errorf("logits of %d experts, want %d: %w", b.Logits.Cols, s.experts, sdk.ErrInvalid)
		}
		return wire.FromContext(s.router.Route(ctx, b, r))
	})
}

// Route implements the gRPC service.
func (s *Router) Route(ctx context.Context, req *pb.RouteRequest) (*pb.RouteReply, error) {
	b, r, err := wire.BatchOf(req)
	if err == nil {
		err = timed(ctx, func() error { return s.route(ctx, b, r) })
	}
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return wire.RouteReply(r), nil
}

// Observe implements the gRPC service.
func (s *Router) Observe(ctx context.Context, req *pb.ObserveRequest) (*pb.ObserveReply, error) {
	if err := s.observe(ctx, req); err != nil {
		return nil, wire.ToStatus(err)
	}
	return &pb.ObserveReply{}, nil
}

func (s *Router) observe(ctx context.Context, req *pb.ObserveRequest) error {
	r, ok := s.router.(router.Observer)
	if !ok || !r.Observes() {
		return fmt.Errorf("observe: the router does not ask for it: %w", sdk.ErrUnsupported)
	}
	if err := s.check("configure"); err != nil {
		return err
	}
	o := wire.ObservationOf(req)
	if err := wire.CheckObservation(o, s.experts); err != nil {
		return err
	}
	return wire.FromContext(r.Observe(ctx, o))
}

// Handle implements Service.
func (s *Router) Handle(ctx context.Context, h plane.Head, in, out []byte) plane.Reply {
	if h.Op != plane.OpRoute {
		return wire.ToReply(fmt.Errorf("operation %d: %w", h.Op, sdk.ErrUnsupported))
	}
	b, r, err := wire.PlaneBatch(h, in, out)
	if err == nil {
		err = s.route(ctx, b, r)
	}
	if err != nil {
		return wire.ToReply(err)
	}
	return wire.PlaneRouteReply(b, r)
}

// Ping implements the gRPC service.
func (s *Router) Ping(context.Context, *pb.PingRequest) (*pb.PingReply, error) { return s.ping(), nil }

// Stats implements the gRPC service.
func (s *Router) Stats(context.Context, *pb.StatsRequest) (*pb.StatsReply, error) {
	return s.counts(), nil
}

// Drain implements the gRPC service.
func (s *Router) Drain(ctx context.Context, _ *pb.DrainRequest) (*pb.DrainReply, error) {
	return &pb.DrainReply{}, wire.ToStatus(wire.FromContext(s.Finish(ctx)))
}

var _ Service = (*Router)(nil)
