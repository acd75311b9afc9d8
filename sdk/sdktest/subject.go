package sdktest

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/pimoe/pimoe/sdk/client"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/service"
	"github.com/pimoe/pimoe/sdk/router"
)

// subject makes experts to check, each with the weights of a spec at hand.
type subject interface {
	make(ctx context.Context, spec expert.Spec) (*instance, error)
}

// instance is one expert under test. close gives everything back and reports what went wrong with that.
type instance struct {
	expert.Expert
	load  func(ctx context.Context) error
	close func() error
}

// inProcess is the value itself.
type inProcess struct{ new func() expert.Expert }

func (s inProcess) make(_ context.Context, spec expert.Spec) (*instance, error) {
	e := s.new()
	return &instance{Expert: e, load: func(ctx context.Context) error { return e.Load(ctx, spec) }, close: e.Close}, nil
}

// loopback is the value behind the serving and the calling half, which speak gRPC in memory.
type loopback struct{ new func() expert.Expert }

func (s loopback) make(ctx context.Context, spec expert.Spec) (*instance, error) {
	shard, load := pack(spec)
	svc := service.NewExpert(s.new(), [][]byte{shard})
	conn, stop, err := dialLoopback(svc)
	if err != nil {
		return nil, err
	}
	e, err := client.NewExpert(ctx, conn)
	if err != nil {
		return nil, err
	}
	return &instance{Expert: e, load: func(ctx context.Context) error { return e.LoadShards(ctx, load) }, close: stop}, nil
}

func dialLoopback(svc service.Service) (*grpc.ClientConn, func() error, error) {
	l := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.MaxRecvMsgSize(service.MaxMessage), grpc.MaxSendMsgSize(service.MaxMessage))
	svc.Register(server)
	var wg sync.WaitGroup
	wg.Go(func() { server.Serve(l) })
	conn, err := grpc.NewClient("passthrough:loopback", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(service.MaxMessage), grpc.MaxCallSendMsgSize(service.MaxMessage)))
	stop := func() error {
		if conn != nil {
			conn.Close()
		}
		server.Stop()
		wg.Wait()
		return svc.Close()
	}
	return conn, stop, err
}

// pack lays a spec's weights into one shard.
func pack(spec expert.Spec) ([]byte, client.LoadSpec) {
	var shard []byte
	load := client.LoadSpec{Spec: spec}
	load.Spec.Units = nil
	for _, u := range spec.Units {
		su := client.ShardUnit{Unit: u.Unit}
		for _, m := range matrices(&u, &su) {
			shard = append(shard, make([]byte, -len(shard)&63)...)
			*m.to = client.ShardTensor{Offset: int64(len(shard)), Length: int64(len(m.from.Data)), DType: m.from.DType, Shape: m.from.Shape}
			shard = append(shard, m.from.Data...)
		}
		load.Units = append(load.Units, su)
	}
	return shard, load
}

// process is an executable.
type process struct {
	command client.Command // without shards
	maxRows int
}

func (s process) make(ctx context.Context, spec expert.Spec) (*instance, error) {
	shard, load := pack(spec)
	f, err := shardFile(shard)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c := s.command
	c.Shards = []*os.File{f}
	c.Plane = client.ExpertPlane(s.maxRows, max(spec.Hidden, 1), 4)
	p, err := client.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	e := p.Expert()
	return &instance{Expert: e, load: func(ctx context.Context) error { return e.LoadShards(ctx, load) }, close: func() error { return stopped(p) }}, nil
}

// stopped ends a process as the host does and judges how it went.
func stopped(p *client.Process) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	select {
	case <-p.Exited():
		p.Stop(ctx)
		return fmt.Errorf("the process had ended by itself: %v, last on standard error: %q", p.Death(), p.Death().LastLines)
	default:
	}
	if err := p.Stop(ctx); err != nil {
		return err
	}
	if d := p.Death(); d.Signal != "" {
		return fmt.Errorf("SIGTERM did not end the process within %v: %v", stopLimit, d)
	} else if d.ExitCode != 0 {
		return fmt.Errorf("SIGTERM: %v, want exit code 0", d)
	}
	return nil
}

// shardFile is a file without a name.
func shardFile(b []byte) (*os.File, error) {
	f, err := os.CreateTemp("", "pimoe-sdktest")
	if err != nil {
		return nil, err
	}
	os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// routerSubject makes routers to check.
type routerSubject interface {
	make(ctx context.Context, spec router.Spec, hidden int) (router.Router, func() error, error)
}

type inProcessRouter struct{ new func() router.Router }

func (s inProcessRouter) make(context.Context, router.Spec, int) (router.Router, func() error, error) {
	r := s.new()
	return r, r.Close, nil
}

type loopbackRouter struct{ new func() router.Router }

func (s loopbackRouter) make(ctx context.Context, _ router.Spec, _ int) (router.Router, func() error, error) {
	conn, stop, err := dialLoopback(service.NewRouter(s.new()))
	if err != nil {
		return nil, nil, err
	}
	r, err := client.NewRouter(ctx, conn)
	return r, stop, err
}

type processRouter struct {
	command client.Command
	maxRows int
}

func (s processRouter) make(ctx context.Context, spec router.Spec, hidden int) (router.Router, func() error, error) {
	c := s.command
	c.Plane = client.RouterPlane(s.maxRows, max(spec.Experts, 1), max(spec.TopK, 1), hidden, 4)
	p, err := client.Start(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	return p.Router(), func() error { return stopped(p) }, nil
}
