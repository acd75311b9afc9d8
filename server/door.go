package server

import (
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

// door is the gRPC listener. It is off where s.rpc is nil.
type door struct {
	net.Listener
	srv    *grpc.Server
	leases leases
	waits  sync.WaitGroup // for clients, of methods that run or have just returned
	bow    sync.Once
	bowed  chan struct{} // closed when every connection has ended by itself
}

// openDoor binds the address and registers the methods that have a rule.
func (s *Server) openDoor(o *options) error {
	addr := s.cfg.Server.GRPCAddr
	if addr == "off" {
		return nil
	}
	if err := checkOpen("server.grpc_addr", addr, s.guard.Configured()); err != nil {
		return err
	}
	most := int64(grpcConnections)
	if left := connectionsLeft(); left > 0 {
		most = min(most, max(left/4, leastConnections))
	}
	ln, err := o.listen("grpc", "server.grpc_addr", addr, most)
	if err != nil {
		return err
	}
	d := &door{Listener: ln, bowed: make(chan struct{})}
	d.srv = grpc.NewServer(
		grpc.UnknownServiceHandler(s.serveCall(method{route: route{method: grpcMethod}})),
		grpc.MaxRecvMsgSize(grpcMessage), grpc.MaxSendMsgSize(grpcMessage), grpc.MaxHeaderListSize(grpcHeader), grpc.MaxConcurrentStreams(grpcStreams),
		grpc.ConnectionTimeout(s.limits.header), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 5 * time.Minute, Time: time.Minute, Timeout: 20 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}), // more often is nothing but load
	)
	s.rpc = d
	services := map[string]*grpc.ServiceDesc{}
	for _, m := range s.methods() {
		if m.rule, err = s.table.Of(m.name()); err != nil {
			return err
		}
		service, name, _ := strings.Cut(strings.TrimPrefix(m.path, "/"), "/")
		if services[service] == nil {
			services[service] = &grpc.ServiceDesc{ServiceName: service, HandlerType: (*any)(nil), Metadata: "inference.proto"}
		}
		services[service].Streams = append(services[service].Streams, grpc.StreamDesc{StreamName: name, Handler: s.handlerOf(m), ServerStreams: true, ClientStreams: true})
	}
	for _, desc := range services {
		d.srv.RegisterService(desc, s)
	}
	return nil
}

func (s *Server) handlerOf(m method) grpc.StreamHandler {
	if m.many {
		return s.serveStream(m)
	}
	return s.serveCall(m)
}

// GRPCAddr is the bound address of the gRPC listener; empty where it is off.
func (s *Server) GRPCAddr() string {
	if s.rpc == nil {
		return ""
	}
	return s.rpc.Addr().String()
}

// serve accepts connections until the door closes.
func (d *door) serve() error { return d.srv.Serve(d.Listener) }

// leave refuses new connections, ends streams that wait for their client, and lets requests under way end. It returns at once.
func (d *door) leave() {
	d.bow.Do(func() {
		d.leases.close()
		go func() { // ends with the last connection, at the latest when close ends all
			defer close(d.bowed)
			d.srv.GracefulStop()
		}()
	})
}

// gone reports whether every connection has ended.
func (d *door) gone() bool {
	select {
	case <-d.bowed:
		return true
	default:
		return false
	}
}

// close ends everything, after a moment in which clients that are told of the end hang up themselves.
func (d *door) close(patience time.Duration) {
	d.leave()
	select {
	case <-d.bowed:
	case <-time.After(patience):
	}
	d.srv.Stop()
	<-d.bowed
	d.waits.Wait()
	_ = d.Listener.Close() // also when it never served; a second close is no error worth telling
}

// errSlow is why a wait for a client has ended that took too long.
var errSlow = errors.New("too slow")

// within waits for the client, at most until over is closed and, with d above 0, for this time. The library has no deadline for
// a message and no status of our own for one that fails, so it waits on a goroutine, which ends with the method's return.
func (d *door) within(limit time.Duration, over <-chan struct{}, wait func() error) error {
	done := make(chan error, 1)
	d.waits.Go(func() { done <- wait() })
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case err := <-done:
		return err
	case <-late:
		return errSlow
	case <-over:
		return errStopping
	}
}
