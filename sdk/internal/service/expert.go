package service

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// Expert serves an expert.Expert.
type Expert struct {
	pb.UnimplementedExpertServer
	gate
	setup
	expert expert.Expert
	shards [][]byte
	close  sync.Once
	hidden int // set by Load
	calls  sync.Pool
}

// NewExpert puts a service in front of an expert whose weights lie in the shards.
func NewExpert(e expert.Expert, shards [][]byte) *Expert {
	return &Expert{expert: e, shards: shards, calls: sync.Pool{New: func() any { return new(expert.Call) }}}
}

// Register implements Service.
func (s *Expert) Register(g *grpc.Server) { pb.RegisterExpertServer(g, s) }

// Close implements Service.
func (s *Expert) Close() (err error) {
	s.close.Do(func() { err = s.expert.Close() })
	return err
}

// info fills in what the author can't choose: the kind, and the capability of one that tells of devices.
func (s *Expert) info() *pb.InfoReply {
	i := s.expert.Info()
	i.Kind = sdk.KindExpert
	if _, tells := s.expert.(expert.Reporting); tells && !i.Has(sdk.CapDevices) {
		i.Capabilities = append(slices.Clone(i.Capabilities), sdk.CapDevices)
	}
	return wire.Info(i)
}

// Share implements Sharing.
func (s *Expert) Share(calls, answers []byte) (release func() error) {
	if e, wants := s.expert.(expert.Sharing); wants {
		return e.Share(calls, answers)
	}
	return func() error { return nil }
}

// Info implements the gRPC service.
func (s *Expert) Info(context.Context, *pb.InfoRequest) (*pb.InfoReply, error) { return s.info(), nil }

// Load implements the gRPC service.
func (s *Expert) Load(ctx context.Context, req *pb.LoadRequest) (*pb.LoadReply, error) {
	err := s.once("load", func() error {
		spec, err := wire.SpecOf(req, s.shards)
		if err != nil {
			return err
		}
		s.hidden = spec.Hidden
		return s.expert.Load(ctx, spec)
	})
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return &pb.LoadReply{Info: s.info()}, nil
}

// forward is the way of both transports.
func (s *Expert) forward(ctx context.Context, c *expert.Call) error {
	return s.run(c.X.Rows, func() error {
		if err := s.check("load"); err != nil {
			return err
		}
		if c.X.Cols != s.hidden {
			return fmt.Errorf("x has %d columns, want %d: %w", c.X.Cols, s.hidden, sdk.ErrInvalid)
		}
		return wire.FromContext(s.expert.Forward(ctx, c))
	})
}

// Forward implements the gRPC service.
func (s *Expert) Forward(ctx context.Context, req *pb.ForwardRequest) (*pb.ForwardReply, error) {
	c, err := wire.CallOf(req)
	if err == nil {
		err = timed(ctx, func() error { return s.forward(ctx, c) })
	}
	if err != nil {
		return nil, wire.ToStatus(err)
	}
	return wire.ForwardReply(c.Y), nil
}

// Handle implements Service.
func (s *Expert) Handle(ctx context.Context, h plane.Head, in, out []byte) plane.Reply {
	if h.Op != plane.OpForward {
		return wire.ToReply(fmt.Errorf("operation %d: %w", h.Op, sdk.ErrUnsupported))
	}
	c := s.calls.Get().(*expert.Call)
	defer s.calls.Put(c)
	err := wire.PlaneCall(c, h, in, out)
	if err == nil {
		err = s.forward(ctx, c)
	}
	if err != nil {
		return wire.ToReply(err)
	}
	return wire.PlaneForwardReply(c)
}

// Ping implements the gRPC service.
func (s *Expert) Ping(context.Context, *pb.PingRequest) (*pb.PingReply, error) { return s.ping(), nil }

// Stats implements the gRPC service.
func (s *Expert) Stats(context.Context, *pb.StatsRequest) (*pb.StatsReply, error) {
	out := s.counts()
	if e, tells := s.expert.(expert.Reporting); tells {
		out.Devices = wire.Devices(e.Devices())
	}
	return out, nil
}

// Drain implements the gRPC service.
func (s *Expert) Drain(ctx context.Context, _ *pb.DrainRequest) (*pb.DrainReply, error) {
	return &pb.DrainReply{}, wire.ToStatus(wire.FromContext(s.Finish(ctx)))
}

var (
	_ Service = (*Expert)(nil)
	_ Sharing = (*Expert)(nil)
)
