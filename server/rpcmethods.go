package server

import (
	"context"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"github.com/pimoe/pimoe/server/oip"
	"github.com/pimoe/pimoe/server/oip/pb"
)

const (
	inferenceService = "/inference.GRPCInferenceService/"
	healthService    = "/grpc.health.v1.Health/"
)

// methods is everything on the gRPC listener.
func (s *Server) methods() []method {
	rpc := func(path string, work bool) route {
		return route{method: grpcMethod, path: path, shape: oipShape, work: work}
	}
	return []method{
		{route: rpc(inferenceService+"ServerLive", false), take: fresh[pb.ServerLiveRequest], answer: s.rpcLive},
		{route: rpc(inferenceService+"ServerReady", false), take: fresh[pb.ServerReadyRequest], answer: s.rpcReady},
		{route: rpc(inferenceService+"ServerMetadata", false), take: fresh[pb.ServerMetadataRequest], answer: s.rpcServer},
		{route: rpc(inferenceService+"ModelReady", false), take: fresh[pb.ModelReadyRequest], answer: s.rpcModelReady},
		{route: rpc(inferenceService+"ModelMetadata", false), take: fresh[pb.ModelMetadataRequest], answer: s.rpcModel},
		{route: rpc(inferenceService+"RepositoryIndex", false), take: fresh[pb.RepositoryIndexRequest], answer: s.rpcIndex},
		{route: rpc(inferenceService+"ModelInfer", true), take: fresh[pb.ModelInferRequest], answer: s.rpcInfer},
		{route: rpc(inferenceService+"ModelStreamInfer", true), take: fresh[pb.ModelInferRequest], answer: s.rpcStreamInfer, many: true},
		{route: rpc(healthService+"Check", false), take: fresh[healthpb.HealthCheckRequest], answer: s.rpcCheck},
		{route: rpc(healthService+"Watch", false), take: fresh[healthpb.HealthCheckRequest], answer: s.rpcWatch},
	}
}

// fresh is a new message.
func fresh[T any, P interface {
	*T
	proto.Message
}]() proto.Message {
	return P(new(T))
}

func (s *Server) rpcLive(_ context.Context, c *call, _ proto.Message) error {
	return c.send(&pb.ServerLiveResponse{Live: true})
}

func (s *Server) rpcReady(_ context.Context, c *call, _ proto.Message) error {
	return c.send(&pb.ServerReadyResponse{Ready: s.unready() == nil})
}

func (s *Server) rpcServer(_ context.Context, c *call, _ proto.Message) error {
	return c.send(&pb.ServerMetadataResponse{Name: oip.Platform, Version: s.build.Version, Extensions: oip.Extensions})
}

func (s *Server) rpcModelReady(_ context.Context, c *call, in proto.Message) error {
	q := in.(*pb.ModelReadyRequest)
	if _, err := s.findModel(q.GetName(), q.GetVersion()); err != nil {
		return err
	}
	return c.send(&pb.ModelReadyResponse{Ready: s.unready() == nil})
}

func (s *Server) rpcModel(_ context.Context, c *call, in proto.Message) error {
	q := in.(*pb.ModelMetadataRequest)
	m, err := s.findModel(q.GetName(), q.GetVersion())
	if err != nil {
		return err
	}
	return c.send(m.MetadataProto())
}

func (s *Server) rpcIndex(_ context.Context, c *call, in proto.Message) error {
	return c.send(oip.IndexProto(s.index(in.(*pb.RepositoryIndexRequest).GetReady())))
}

// question reads a request for inference.
func (s *Server) question(in *pb.ModelInferRequest) (oip.Model, *oip.Request, error) {
	m, err := s.findModel(in.GetModelName(), in.GetModelVersion())
	if err != nil {
		return m, nil, err
	}
	q, err := oip.FromProto(in, m)
	return m, q, err
}

func (s *Server) rpcInfer(ctx context.Context, c *call, in proto.Message) error {
	m, q, err := s.question(in.(*pb.ModelInferRequest))
	if err != nil {
		return err
	}
	res, header, err := s.infer(ctx, c.req, m, q)
	if err != nil {
		return err
	}
	c.disclose(header)
	return c.send(res.Proto())
}

// rpcStreamInfer answers one request of a stream: a text that is asked for in parts with a response for each, everything else
// with one. A client that asks for it is told of the end by a response of its own, as Triton's decoupled models do.
func (s *Server) rpcStreamInfer(ctx context.Context, c *call, in proto.Message) error {
	m, q, err := s.question(in.(*pb.ModelInferRequest))
	if err != nil {
		return err
	}
	emit := func(res *oip.Response) error {
		if q.Final {
			res.Params = append(res.Params, oip.Param{Name: finalResponse, Value: false})
		}
		return c.send(&pb.ModelStreamInferResponse{InferResponse: res.Proto()})
	}
	if err := s.inferParts(ctx, c, m, q, emit); err != nil || !q.Final {
		return err
	}
	end := &oip.Response{Model: m.Name, Version: m.Version, ID: q.ID, Params: []oip.Param{{Name: finalResponse, Value: true}}}
	return c.send(&pb.ModelStreamInferResponse{InferResponse: end.Proto()})
}

const finalResponse = "triton_final_response"

// inferParts is infer for a text that may come in parts.
func (s *Server) inferParts(ctx context.Context, c *call, m oip.Model, q *oip.Request, emit func(*oip.Response) error) error {
	if m.Name == s.service.id {
		settings, err := q.Settings()
		if err != nil {
			return err
		}
		if settings.Stream() {
			if q.Timeout > 0 {
				var release context.CancelFunc
				ctx, release = context.WithTimeout(ctx, q.Timeout)
				defer release()
			}
			g, err := s.startText(ctx, c.req, settings)
			if err != nil {
				return err
			}
			return s.streamText(ctx, c.req, m, q, g, emit, nil)
		}
	}
	res, _, err := s.infer(ctx, c.req, m, q)
	if err != nil {
		return err
	}
	return emit(res)
}

// streamError is the answer to a request of a stream that was refused.
func streamError(in proto.Message, f *fault) proto.Message {
	q := in.(*pb.ModelInferRequest)
	return &pb.ModelStreamInferResponse{ErrorMessage: f.message, InferResponse: &pb.ModelInferResponse{
		ModelName: q.GetModelName(), ModelVersion: q.GetModelVersion(), Id: q.GetId(),
		Parameters: map[string]*pb.InferParameter{"code": {ParameterChoice: &pb.InferParameter_StringParam{StringParam: f.code}}},
	}}
}

// serving is the state that gRPC's own health service tells, of the server as a whole or of the inference service.
func (s *Server) serving(in proto.Message) (healthpb.HealthCheckResponse_ServingStatus, error) {
	switch "/" + in.(*healthpb.HealthCheckRequest).GetService() + "/" {
	case "//", inferenceService:
	default:
		return healthpb.HealthCheckResponse_SERVICE_UNKNOWN, &fault{status: 404, code: "not_found", message: "there is no such service here"}
	}
	if s.unready() != nil {
		return healthpb.HealthCheckResponse_NOT_SERVING, nil
	}
	return healthpb.HealthCheckResponse_SERVING, nil
}

func (s *Server) rpcCheck(_ context.Context, c *call, in proto.Message) error {
	now, err := s.serving(in)
	if err != nil {
		return err
	}
	return c.send(&healthpb.HealthCheckResponse{Status: now})
}

// watchEvery is how often a watched state is looked at: readiness tells the truth within half a second.
const watchEvery = 250 * time.Millisecond

// rpcWatch tells the state whenever it changes. It holds up neither the end of the server nor that of a drain.
func (s *Server) rpcWatch(_ context.Context, c *call, in proto.Message) error {
	l := s.rpc.leases.take()
	defer l.end()
	c.s.running.done() // a watch is no work that a drain waits for
	defer c.s.running.add()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	last := healthpb.HealthCheckResponse_UNKNOWN
	for {
		if now, _ := s.serving(in); now != last { // an unknown service is a state here
			if err := c.send(&healthpb.HealthCheckResponse{Status: now}); err != nil {
				return err
			}
			last = now
		}
		l.work(false)
		select {
		case <-tick.C:
		case <-c.ss.Context().Done():
			return causeOf(c.ss.Context())
		case <-l.over:
			return errStopping
		}
		l.work(true)
	}
}
