package serve

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/service"
	"github.com/pimoe/pimoe/sdk/internal/tlsfiles"
)

// TLSFiles are the PEM files of this end: its certificate, the key, and the authorities of hosts' certificates.
type TLSFiles = tlsfiles.Files

// RemoteOptions say how an expert is served to hosts on other machines.
type RemoteOptions struct {
	Listener net.Listener // Remote closes it
	TLS      TLSFiles     // zero = none, on loopback addresses only
	// Health, if not nil, is a listener for gRPC's health service alone, without TLS, for probes of the machine that the process
	// runs on. The main listener serves it, too. Remote closes it.
	Health      net.Listener
	Description expert.Description // Instance is made here
	// MaxConnections bounds the hosts' connections: each host has one for each of its groups. 0 = 256.
	MaxConnections int
	// MaxCalls bounds the calls that are computed at once; more wait for their turn until their deadline. 0 = four for each core.
	MaxCalls int
	// ConnectionAge is after how long a host is asked to connect anew, so that nobody goes on for ever under a certificate that
	// has ended. 0 = an hour.
	ConnectionAge time.Duration
	DrainFor      time.Duration // how long running calls may take when ctx has ended; 0 = 30 s
	Log           *slog.Logger
}

const (
	defaultConnections   = 256
	defaultConnectionAge = time.Hour
	defaultDrain         = 30 * time.Second
	// streamsPerConnection bounds what one host can have under way, so that others get their share.
	streamsPerConnection = 64
	handshakeWithin      = 10 * time.Second
	// aliveEvery is when a silent host is asked whether it is still there, and aliveWithin how long it may take to answer.
	aliveEvery, aliveWithin = 30 * time.Second, 10 * time.Second
	// leastPing is how often a host may ask the same at the level of HTTP/2.
	leastPing = 5 * time.Second
)

// Remote serves an expert that is loaded to any number of hosts until ctx ends; then it tells them, lets the running calls
// end and returns. A call that panics fails alone. The expert stays the caller's.
func Remote(ctx context.Context, e expert.Expert, o RemoteOptions) error {
	s, err := newRemote(e, &o)
	if err != nil {
		o.Listener.Close()
		if o.Health != nil {
			o.Health.Close()
		}
		return err
	}
	return s.run(ctx)
}

// remote is a running server.
type remote struct {
	options RemoteOptions
	svc     *service.Remote
	server  *grpc.Server
	probes  *grpc.Server // nil = none
	health  *health.Server
	slots   chan struct{}
	inside  atomic.Int64
	cores   int
}

func newRemote(e expert.Expert, o *RemoteOptions) (*remote, error) {
	o.MaxConnections = orDefault(o.MaxConnections, defaultConnections)
	o.MaxCalls = orDefault(o.MaxCalls, 4*runtime.GOMAXPROCS(0))
	o.ConnectionAge = orDefault(o.ConnectionAge, defaultConnectionAge)
	o.DrainFor = orDefault(o.DrainFor, defaultDrain)
	instance := make([]byte, 8)
	rand.Read(instance) // never fails on a running system
	o.Description.Instance = hex.EncodeToString(instance)
	s := &remote{
		options: *o, svc: service.NewRemote(e, o.Description), health: health.NewServer(),
		slots: make(chan struct{}, o.MaxCalls), cores: runtime.GOMAXPROCS(0),
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(service.MaxRemoteMessage), grpc.MaxSendMsgSize(service.MaxRemoteMessage),
		grpc.MaxConcurrentStreams(streamsPerConnection), grpc.ConnectionTimeout(handshakeWithin),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: aliveEvery, Timeout: aliveWithin, MaxConnectionAge: o.ConnectionAge, MaxConnectionAgeGrace: o.DrainFor,
		}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastPing, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.guard),
	}
	if o.TLS.On() {
		store, err := tlsfiles.Open(o.TLS, func(line string) { o.Log.Info(line) })
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(store.Server())))
	} else if a, err := netip.ParseAddrPort(o.Listener.Addr().String()); err != nil || !a.Addr().IsLoopback() {
		return nil, fmt.Errorf("listen on %s: without TLS only loopback addresses are allowed: %w", o.Listener.Addr(), sdk.ErrInvalid)
	}
	s.server = grpc.NewServer(options...)
	s.svc.Register(s.server)
	grpc_health_v1.RegisterHealthServer(s.server, s.health)
	if o.Health != nil {
		s.probes = grpc.NewServer(grpc.MaxConcurrentStreams(streamsPerConnection), grpc.ConnectionTimeout(handshakeWithin))
		grpc_health_v1.RegisterHealthServer(s.probes, s.health)
	}
	return s, nil
}

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// run serves until ctx ends, and drains.
func (s *remote) run(ctx context.Context) error {
	s.health.SetServingStatus(pb.Expert_ServiceDesc.ServiceName, grpc_health_v1.HealthCheckResponse_SERVING)
	var all sync.WaitGroup
	defer all.Wait()
	ended := make(chan error, 2)
	all.Go(func() { ended <- s.server.Serve(limited(s.options.Listener, s.options.MaxConnections)) })
	if s.probes != nil {
		all.Go(func() { ended <- s.probes.Serve(limited(s.options.Health, s.options.MaxConnections)) })
		defer s.probes.Stop()
	}
	defer s.server.Stop()
	select {
	case <-ctx.Done():
	case err := <-ended:
		return fmt.Errorf("serve: %w", err)
	}
	s.health.Shutdown() // no probe shall send anybody here any more
	s.options.Log.Info("draining", "calls", s.inside.Load())
	cut := time.AfterFunc(s.options.DrainFor, s.server.Stop)
	s.server.GracefulStop() // hosts are told, and their running calls end
	if !cut.Stop() {
		return fmt.Errorf("drain: calls still ran after %v: %w", s.options.DrainFor, sdk.ErrDeadline)
	}
	return nil
}

// guard bounds how many calls are computed at once and gives each its share of the cores; a call that panics fails alone.
func (s *remote) guard(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (reply any, err error) {
	defer func() {
		if p := recover(); p != nil {
			s.options.Log.Error("a call panicked", "method", info.FullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			reply, err = nil, status.Error(codes.Internal, "the expert's code panicked")
		}
	}()
	forward, ok := req.(*pb.ForwardRequest)
	if !ok {
		return handle(ctx, req)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	running := s.inside.Add(1)
	defer s.inside.Add(-1)
	forward.Threads = uint32(max(1, s.cores/int(running))) // the host's plan is of its own cores
	return handle(ctx, req)
}

// bounded is a listener that closes the connections above a number at once.
type bounded struct {
	net.Listener
	room chan struct{}
}

func limited(l net.Listener, most int) net.Listener {
	return &bounded{l, make(chan struct{}, most)}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.room <- struct{}{}:
			return &counted{Conn: c, room: b.room}, nil
		default:
			c.Close()
		}
	}
}

// counted is a connection that gives its place back.
type counted struct {
	net.Conn
	room chan struct{}
	once sync.Once
}

// Close implements net.Conn.
func (c *counted) Close() error {
	c.once.Do(func() { <-c.room })
	return c.Conn.Close()
}
