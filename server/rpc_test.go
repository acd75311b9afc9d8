package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk/tensor"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/handover"
	"github.com/pimoe/pimoe/server/oip/pb"
)

// grpcConfig is testConfig with the gRPC listener.
func grpcConfig(home string) config.Config {
	cfg := testConfig(home)
	cfg.Server.GRPCAddr = "127.0.0.1:0"
	return cfg
}

// connect is a connection that ends with the test.
func connect(t testing.TB, r *running) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(r.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(grpcMessage)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func shortly(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// textQuestion asks for a text.
func textQuestion(model, text string, params map[string]*pb.InferParameter) *pb.ModelInferRequest {
	return &pb.ModelInferRequest{ModelName: model, Id: "seven", Parameters: params, Inputs: []*pb.ModelInferRequest_InferInputTensor{{
		Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &pb.InferTensorContents{BytesContents: [][]byte{[]byte(text)}}}}}
}

func intParam(n int64) *pb.InferParameter {
	return &pb.InferParameter{ParameterChoice: &pb.InferParameter_Int64Param{Int64Param: n}}
}

func boolParam(b bool) *pb.InferParameter {
	return &pb.InferParameter{ParameterChoice: &pb.InferParameter_BoolParam{BoolParam: b}}
}

// rawText is the one text of raw contents.
func rawText(raw []byte) string { return string(raw[4:]) }

// Over gRPC, by contents and by raw contents, an answer is that of /api/v1/process to the bit, and a text that of completions.
func TestRPCInfer(t *testing.T) {
	r := serveConfig(t, nil, grpcConfig(""), nil)
	client, ctx := pb.NewGRPCInferenceServiceClient(connect(t, r)), shortly(t)
	x := hiddenStates(6, openShared(t).Model.Hidden)
	process := r.post(processPath+"?layer=2", string(littleEndian(x)), "Content-Type", mimeBytes, "Accept", mimeBytes, "X-Tensor-Shape", fmt.Sprintf("2,3,%d", x.Cols))
	q := &pb.ModelInferRequest{ModelName: "pimoe-tiny-hidden", Id: "seven", Parameters: map[string]*pb.InferParameter{"layer": intParam(2)}, Inputs: []*pb.ModelInferRequest_InferInputTensor{{
		Name: "hidden_states", Datatype: "FP32", Shape: []int64{2, 3, int64(x.Cols)}}}}
	for _, raw := range []bool{true, false} {
		q.RawInputContents, q.Inputs[0].Contents = [][]byte{littleEndian(x)}, nil
		if !raw {
			q.RawInputContents, q.Inputs[0].Contents = nil, &pb.InferTensorContents{Fp32Contents: x.Data}
		}
		var header metadata.MD
		got, err := client.ModelInfer(metadata.AppendToOutgoingContext(ctx, "x-request-id", "mine-7"), q, grpc.Header(&header))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(bits(process.body), bits(got.RawOutputContents[0])); d != "" {
			t.Errorf("raw %v: %s", raw, d)
		}
		if got.Id != "seven" || got.ModelVersion != r.modelVersion() || got.Parameters["status"].GetStringParam() != "exact" || got.Outputs[0].Shape[1] != 3 {
			t.Errorf("envelope: %v", got.Parameters)
		}
		if first(header, "x-request-id") != "mine-7" || first(header, "pimoe-status") != "exact" {
			t.Errorf("header %v", header)
		}
	}
	want := at(t, r.ok("/v1/completions", story+`,"temperature":0}`), "choices", 0, "text").(string)
	params := map[string]*pb.InferParameter{"max_tokens": intParam(12), "temperature": intParam(0)}
	got, err := client.ModelInfer(ctx, textQuestion("pimoe-tiny", "Once upon a time, a little", params))
	if err != nil || rawText(got.RawOutputContents[0]) != want || len(got.Outputs) != 4 {
		t.Errorf("%v %v, want %q", got, err, want)
	}
	eventually(t, 5*time.Second, "the log has the request", func() bool {
		return strings.Contains(r.log.String(), `"request":"mine-7","route":"GRPC /inference.GRPCInferenceService/ModelInfer","status":200`)
	})
	if m := string(r.get("/metrics").body); !strings.Contains(m, `pimoe_http_requests_total{route="GRPC /inference.GRPCInferenceService/ModelInfer",code="200"} 3`) {
		t.Error("the metrics lack the requests")
	}
}

// A stream answers its requests one after the other: texts in parts, an end that says so, refusals that do not end it.
func TestRPCStream(t *testing.T) {
	r := serveConfig(t, nil, grpcConfig(""), nil)
	stream, err := pb.NewGRPCInferenceServiceClient(connect(t, r)).ModelStreamInfer(shortly(t))
	if err != nil {
		t.Fatal(err)
	}
	ask := func(q *pb.ModelInferRequest) {
		t.Helper()
		if err := stream.Send(q); err != nil {
			t.Fatal(err)
		}
	}
	next := func() *pb.ModelStreamInferResponse {
		t.Helper()
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	want := at(t, r.ok("/v1/completions", story+`,"temperature":0}`), "choices", 0, "text").(string)
	params := map[string]*pb.InferParameter{"max_tokens": intParam(12), "temperature": intParam(0), "stream": boolParam(true), "triton_enable_empty_final_response": boolParam(true)}
	ask(textQuestion("pimoe-tiny", "Once upon a time, a little", params))
	text, parts := "", 0
	for {
		got := next()
		if got.ErrorMessage != "" || got.InferResponse.Id != "seven" {
			t.Fatalf("%v", got)
		}
		if got.InferResponse.Parameters[finalResponse].GetBoolParam() {
			break
		}
		text += rawText(got.InferResponse.RawOutputContents[0])
		parts++
	}
	if text != want || parts < 3 {
		t.Errorf("%q in %d parts, want %q", text, parts, want)
	}
	ask(textQuestion("other", "x", nil))
	if got := next(); !strings.Contains(got.ErrorMessage, "does not exist") || got.InferResponse.Id != "seven" || got.InferResponse.Parameters["code"].GetStringParam() != "model_not_found" {
		t.Errorf("another model: %v", got)
	}
	delete(params, "stream")
	delete(params, "triton_enable_empty_final_response")
	ask(textQuestion("pimoe-tiny", "Once upon a time, a little", params))
	if got := next(); rawText(got.InferResponse.RawOutputContents[0]) != want {
		t.Errorf("whole: %v", got)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
}

func TestRPCServer(t *testing.T) {
	svc := fakeService(&fakeEngine{})
	var down error
	svc.ready = func() error { return down }
	r := serveConfig(t, svc, grpcConfig(""), nil)
	conn, ctx := connect(t, r), shortly(t)
	client := pb.NewGRPCInferenceServiceClient(conn)
	health := healthpb.NewHealthClient(conn)
	if m, err := client.ModelMetadata(ctx, &pb.ModelMetadataRequest{Name: "fake-hidden"}); err != nil || m.Inputs[0].Name != "hidden_states" || m.Inputs[0].Shape[2] != 2 || m.Versions[0] != "0123456789ab" {
		t.Errorf("%v %v", m, err)
	}
	if m, err := client.ServerMetadata(ctx, &pb.ServerMetadataRequest{}); err != nil || m.Name != "pimoe" || len(m.Extensions) == 0 {
		t.Errorf("%v %v", m, err)
	}
	state := func(ready bool) {
		t.Helper()
		live, err1 := client.ServerLive(ctx, &pb.ServerLiveRequest{})
		server, err2 := client.ServerReady(ctx, &pb.ServerReadyRequest{})
		model, err3 := client.ModelReady(ctx, &pb.ModelReadyRequest{Name: "fake"})
		check, err4 := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "inference.GRPCInferenceService"})
		index, err5 := client.RepositoryIndex(ctx, &pb.RepositoryIndexRequest{Ready: true})
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil {
			t.Fatal(err)
		}
		if !live.Live || server.Ready != ready || model.Ready != ready || (check.Status == healthpb.HealthCheckResponse_SERVING) != ready || (len(index.Models) == 2) != ready {
			t.Errorf("ready %v: %v %v %v %v %v", ready, live, server, model, check, index)
		}
	}
	watch, err := health.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("watch: %v %v", got, err)
	}
	state(true)
	for name, call := range map[string]func() error{
		"model": func() error {
			_, err := client.ModelReady(ctx, &pb.ModelReadyRequest{Name: "fake", Version: "1"})
			return err
		},
		"service": func() error {
			_, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: "x"})
			return err
		},
	} {
		if status.Code(call()) != codes.NotFound {
			t.Errorf("unknown %s: %v", name, call())
		}
	}
	if err := conn.Invoke(ctx, "/inference.GRPCInferenceService/ModelConfig", &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("unknown method: %v", err)
	}
}

// Each refusal has a code of gRPC, a stable code in the trailer, and names the field.
func TestRPCRefuses(t *testing.T) {
	e := &fakeEngine{hidden: func(x tensor.Matrix) (tensor.Matrix, error) { return x, nil }, script: hangs(1)}
	cfg := grpcConfig("")
	r := serveConfig(t, fakeService(e), cfg, nil)
	conn := connect(t, r)
	client := pb.NewGRPCInferenceServiceClient(conn)
	hidden := func(shape []int64, c *pb.InferTensorContents, raw ...[]byte) *pb.ModelInferRequest {
		return &pb.ModelInferRequest{ModelName: "fake-hidden", RawInputContents: raw, Inputs: []*pb.ModelInferRequest_InferInputTensor{{Name: "hidden_states", Datatype: "FP32", Shape: shape, Contents: c}}}
	}
	two := &pb.InferTensorContents{Fp32Contents: []float32{1, 2}}
	mixed := &pb.InferTensorContents{Fp32Contents: []float32{1, 2}, IntContents: []int32{1}}
	withParam := textQuestion("fake", "abc", nil)
	withParam.Inputs[0].Parameters = map[string]*pb.InferParameter{"shared_memory_region": intParam(1)}
	for name, c := range map[string]struct {
		q    *pb.ModelInferRequest
		code codes.Code
		want string
	}{
		"model":          {textQuestion("none", "abc", nil), codes.NotFound, "does not exist"},
		"no inputs":      {&pb.ModelInferRequest{ModelName: "fake"}, codes.InvalidArgument, "text_input"},
		"empty contents": {hidden([]int64{1, 1, 2}, nil), codes.InvalidArgument, "2 elements in the field of FP32"},
		"short raw":      {hidden([]int64{1, 1, 2}, nil, make([]byte, 7)), codes.InvalidArgument, "8 bytes for this shape"},
		"raw and typed":  {hidden([]int64{1, 1, 2}, two, make([]byte, 8)), codes.InvalidArgument, "none beside raw_input_contents"},
		"two raw":        {hidden([]int64{1, 1, 2}, nil, make([]byte, 8), make([]byte, 8)), codes.InvalidArgument, "one for each of 1 inputs"},
		"mixed":          {hidden([]int64{1, 1, 2}, mixed), codes.InvalidArgument, "2 there and 1 in others"},
		"product":        {hidden([]int64{1 << 62, 8, 2}, two), codes.InvalidArgument, "at most 131072 elements"},
		"negative":       {hidden([]int64{-1, 1, 2}, two), codes.InvalidArgument, "shape"},
		"NaN":            {hidden([]int64{1, 1, 2}, nil, []byte{0, 0, 0, 0, 0, 0, 0xc0, 0x7f}), codes.InvalidArgument, "a finite number"},
		"parameter":      {withParam, codes.InvalidArgument, "shared_memory_region"},
		"no choice":      {textQuestion("fake", "abc", map[string]*pb.InferParameter{"seed": {}}), codes.InvalidArgument, "parameters.seed"},
		"broken UTF-8":   {textQuestion("fake", "\xff", nil), codes.InvalidArgument, "UTF-8"},
		"stream":         {textQuestion("fake", "abc", map[string]*pb.InferParameter{"stream": boolParam(true)}), codes.InvalidArgument, "ModelStreamInfer"},
		"timeout":        {textQuestion("fake", "abc", map[string]*pb.InferParameter{"timeout": intParam(50000)}), codes.DeadlineExceeded, "time is up"},
	} {
		var trailer metadata.MD
		_, err := client.ModelInfer(shortly(t), c.q, grpc.Trailer(&trailer))
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) || first(trailer, "pimoe-code") == "" {
			t.Errorf("%s: %v %v, want %s about %q", name, err, trailer, c.code, c.want)
		}
	}
	eventually(t, 2*time.Second, "no slot is taken", func() bool { return e.slots.Load() == 0 })

	// The client's own deadline, and its going, free the slot.
	for _, leave := range []func(context.Context) (context.Context, context.CancelFunc){
		func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, 200*time.Millisecond)
		},
		func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			go func() {
				eventually(t, 5*time.Second, "the request runs", func() bool { return e.slots.Load() == 1 })
				cancel()
			}()
			return ctx, cancel
		},
	} {
		ctx, cancel := leave(context.Background())
		if _, err := client.ModelInfer(ctx, textQuestion("fake", "abc", map[string]*pb.InferParameter{"max_tokens": intParam(50)})); err == nil {
			t.Error("an answer")
		}
		cancel()
		eventually(t, 2*time.Second, "the slot is free", func() bool { return e.slots.Load() == 0 })
	}
	eventually(t, 5*time.Second, "the log says 499", func() bool { return strings.Contains(r.log.String(), `"status":499`) })

	// A message beyond the limit, and one that never comes.
	big := hidden([]int64{1, 1, 2}, nil, make([]byte, grpcMessage))
	if _, err := client.ModelInfer(shortly(t), big, grpc.MaxCallSendMsgSize(2*grpcMessage)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a large message: %v", err)
	}
	slow := serveConfig(t, fakeService(e), cfg, func(s *Server) { s.limits.body = 50 * time.Millisecond })
	stream, err := connect(t, slow).NewStream(shortly(t), &grpc.StreamDesc{ClientStreams: true}, inferenceService+"ModelInfer")
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.RecvMsg(&pb.ModelInferResponse{}); status.Code(err) == codes.OK {
		t.Error("an answer to nothing")
	}
	eventually(t, 5*time.Second, "the log says 408", func() bool { return strings.Contains(slow.log.String(), `"status":408`) })
}

// Every method is asked with every role, without, and with a wrong credential.
func TestEveryMethodWithEveryRole(t *testing.T) {
	g := newGate(t)
	g.cfg.Server.GRPCAddr = "127.0.0.1:0"
	credentials := map[string]string{"none": "", "wrong": "pimoe_wrong"}
	roles := map[string]access.Role{}
	for _, name := range access.Roles() {
		role, err := access.ParseRole(name)
		if err != nil {
			t.Fatal(err)
		}
		_, credentials[name] = g.key(t, role)
		roles[name] = role
	}
	_, credentials["narrow"] = g.key(t, access.Admin, "stats")
	r := serveConfig(t, fakeService(&fakeEngine{script: fails(0, context.Canceled)}), g.cfg, nil)
	conn := connect(t, r)
	ask := func(path, credential string) codes.Code {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if credential != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+credential)
		}
		stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
		if err != nil {
			return status.Code(err)
		}
		_ = stream.SendMsg(&emptypb.Empty{}) // a refusal may come first; RecvMsg has it
		_ = stream.CloseSend()
		return status.Code(stream.RecvMsg(&emptypb.Empty{}))
	}
	cells := 0
	for _, rule := range r.table.Rules() {
		method, path, _ := strings.Cut(rule.Route, " ")
		if method != grpcMethod {
			continue
		}
		for who, credential := range credentials {
			cells++
			role, valid := roles[who]
			got := ask(path, credential)
			want := got != codes.Unauthenticated && got != codes.PermissionDenied
			switch {
			case rule.Open():
			case who == "narrow":
				want = got == codes.PermissionDenied
			case !valid:
				want = got == codes.Unauthenticated
			case role < rule.Role:
				want = got == codes.PermissionDenied
			}
			if !want {
				t.Errorf("%s with %s: %s; it needs %s", rule.Route, who, got, rule.Role)
			}
		}
	}
	if cells != len(r.methods())*len(credentials) {
		t.Errorf("%d cells", cells)
	}
	if got := ask("/inference.GRPCInferenceService/Nothing", ""); got != codes.Unauthenticated {
		t.Errorf("an unknown method without a key: %s", got)
	}
}

// A credential that is revoked ends a stream that it has opened.
func TestRPCStreamIsJudgedAgain(t *testing.T) {
	g := newGate(t)
	g.cfg.Server.GRPCAddr = "127.0.0.1:0"
	record, key := g.key(t, access.User)
	r := serveConfig(t, fakeService(&fakeEngine{script: hangs(0)}), g.cfg, nil)
	stream, err := pb.NewGRPCInferenceServiceClient(connect(t, r)).ModelStreamInfer(metadata.AppendToOutgoingContext(shortly(t), "authorization", "Bearer "+key))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(textQuestion("none", "a", nil)); err != nil {
		t.Fatal(err)
	}
	if got, err := stream.Recv(); err != nil || got.ErrorMessage == "" {
		t.Fatalf("%v %v", got, err)
	}
	if _, err := g.file.Revoke(record.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the stream ends", func() bool {
		_ = stream.Send(textQuestion("none", "a", nil)) // the end is in Recv
		_, err := stream.Recv()
		return status.Code(err) == codes.Unauthenticated
	})
}

// A stop ends idle streams and watches at once, lets a request under way end, and refuses new ones.
func TestRPCDrains(t *testing.T) {
	release, entered := make(chan struct{}), make(chan struct{})
	e := &fakeEngine{hidden: func(x tensor.Matrix) (tensor.Matrix, error) { close(entered); <-release; return x, nil }}
	r := serveConfig(t, fakeService(e), grpcConfig(""), nil)
	conn, ctx := connect(t, r), shortly(t)
	client := pb.NewGRPCInferenceServiceClient(conn)
	idle, err := client.ModelStreamInfer(ctx)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	answered := make(chan error, 1)
	go func() {
		_, err := client.ModelInfer(ctx, &pb.ModelInferRequest{ModelName: "fake-hidden", Inputs: []*pb.ModelInferRequest_InferInputTensor{{
			Name: "hidden_states", Datatype: "FP32", Shape: []int64{1, 1, 2}, Contents: &pb.InferTensorContents{Fp32Contents: []float32{1, 2}}}}})
		answered <- err
	}()
	select {
	case <-entered:
	case <-time.After(10 * time.Second):
		t.Fatal("the request does not run")
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if _, err := idle.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("an idle stream: %v", err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("a watch: %v", err)
	}
	if _, err := client.ModelInfer(ctx, textQuestion("fake", "a", nil)); status.Code(err) != codes.Unavailable {
		t.Errorf("a new request: %v", err)
	}
	close(release)
	if err := <-answered; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// A successor gets the listener; requests on the first server's connection end, new connections are the successor's.
func TestRPCHandOver(t *testing.T) {
	cfg := grpcConfig("")
	old := serveConfig(t, fakeService(&fakeEngine{}), cfg, nil)
	before := pb.NewGRPCInferenceServiceClient(connect(t, old))
	if _, err := before.ServerLive(shortly(t), &pb.ServerLiveRequest{}); err != nil {
		t.Fatal(err)
	}
	var taken []handover.Listener
	for _, l := range old.Listeners() {
		f, err := l.Net.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		l.Net, err = net.FileListener(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		taken = append(taken, l)
	}
	svc := fakeService(&fakeEngine{})
	svc.id = "next"
	next := serveConfig(t, svc, cfg, nil, Inherited(taken))
	if next.GRPCAddr() != old.GRPCAddr() || len(taken) != 3 {
		t.Fatalf("%s took over %s", next.GRPCAddr(), old.GRPCAddr())
	}
	old.Leave()
	eventually(t, 20*time.Second, "the successor answers", func() bool {
		m, err := before.ModelReady(shortly(t), &pb.ModelReadyRequest{Name: "next"})
		if err != nil && status.Code(err) != codes.NotFound {
			t.Fatalf("during the hand-over: %v", err)
		}
		return err == nil && m.Ready
	})
	if err := old.stop(); err != nil {
		t.Error(err)
	}
}

func TestRPCBeyondLoopbackNeedsACredential(t *testing.T) {
	cfg := grpcConfig("")
	cfg.Server.GRPCAddr = "0.0.0.0:0"
	if s, err := newServer(*fakeService(&fakeEngine{}), cfg, nil); err == nil || !strings.Contains(err.Error(), "server.grpc_addr") {
		t.Errorf("%v %v", s, err)
	}
}
