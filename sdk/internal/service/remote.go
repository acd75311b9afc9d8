package service

import (
	"context"
	"fmt"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// MaxRemoteMessage bounds a gRPC message of another machine. A client splits larger calls by rows at 16 MiB of tensor; the
// rest is room for one very wide row. It is far less than MaxMessage, because whoever sends it is no child of this process.
const MaxRemoteMessage = 24 << 20

// Remote serves an expert that has loaded its weights by itself to hosts on other machines. None of them can load, drain or
// end it for the others.
type Remote struct {
	*Expert
	pb.UnimplementedRemoteServer
	described *pb.DescribeReply
}

// NewRemote puts a service in front of a loaded expert.
func NewRemote(e expert.Expert, d expert.Description) *Remote {
	s := NewExpert(e, nil)
	s.begun, s.ready, s.hidden = true, true, d.Hidden
	d.Info.Kind = sdk.KindExpert
	return &Remote{Expert: s, described: wire.Description(d)}
}

// Register implements Service.
func (s *Remote) Register(g *grpc.Server) {
	pb.RegisterExpertServer(g, s)
	pb.RegisterRemoteServer(g, s)
}

// Describe implements the gRPC service.
func (s *Remote) Describe(context.Context, *pb.DescribeRequest) (*pb.DescribeReply, error) {
	return s.described, nil
}

// Load implements the gRPC service.
func (s *Remote) Load(context.Context, *pb.LoadRequest) (*pb.LoadReply, error) {
	return nil, wire.ToStatus(fmt.Errorf("load: this process has loaded its own weights: %w", sdk.ErrUnsupported))
}

// Drain implements the gRPC service.
func (s *Remote) Drain(context.Context, *pb.DrainRequest) (*pb.DrainReply, error) {
	return nil, wire.ToStatus(fmt.Errorf("drain: this process serves other hosts, too: %w", sdk.ErrUnsupported))
}

var _ Service = (*Remote)(nil)
