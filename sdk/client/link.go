package client

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// link is a connection to a plugin as calls see it. Process has one; NewExpert and NewRouter make one of a bare
// connection.
type link struct {
	process *Process // nil for a bare connection
	remote  *Remote  // of another machine; nil elsewhere
	kind    sdk.Kind
	expert  pb.ExpertClient
	router  pb.RouterClient
	plane   *plane.Host // nil with gRPC
	info    atomic.Pointer[pb.InfoReply]
}

func newLink(p *Process, conn grpc.ClientConnInterface) *link {
	l := &link{process: p, expert: pb.NewExpertClient(conn), router: pb.NewRouterClient(conn)}
	if p != nil {
		l.plane = p.plane
	}
	return l
}

func (l *link) Info() sdk.Info { return wire.InfoBack(l.info.Load()) }

// call runs one RPC under a context that ends with the process too, and gives its error a class and a name.
func (l *link) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if l.process != nil {
		defer context.AfterFunc(l.process.gone, cancel)()
	}
	if l.remote != nil {
		l.remote.calls.Add(1)
		defer l.remote.calls.Add(-1)
	}
	return l.failure(ctx, wire.FromStatus(f(ctx)))
}

// failure names the cause of a failed call: a dead process before anything else.
func (l *link) failure(ctx context.Context, err error) error {
	if err != nil && l.remote != nil {
		return l.remote.failure(ctx, err)
	}
	if err == nil || l.process == nil {
		return wire.FromContext(err)
	}
	p := l.process
	if errors.Is(err, context.Canceled) && p.hasExited() { // cancelled because of it
		return p.dead()
	}
	if errors.Is(err, plane.ErrEnding) {
		return p.ending()
	}
	if errors.Is(err, plane.ErrClosed) || errors.Is(err, sdk.ErrUnavailable) {
		// The connection's end is often seen before the process's.
		wait := time.NewTimer(250 * time.Millisecond)
		defer wait.Stop()
		select {
		case <-p.exited:
		case <-ctx.Done():
		case <-wait.C:
		}
		if p.hasExited() {
			return p.dead()
		}
	}
	if errors.Is(err, plane.ErrClosed) {
		return fmt.Errorf("plugin %s (pid %d) is being stopped: %w", p.name, p.PID(), sdk.ErrUnavailable)
	}
	return wire.FromContext(err)
}

func (l *link) ping(ctx context.Context) error {
	return l.call(ctx, func(ctx context.Context) (err error) {
		if l.kind == sdk.KindRouter {
			_, err = l.router.Ping(ctx, &pb.PingRequest{})
		} else {
			_, err = l.expert.Ping(ctx, &pb.PingRequest{})
		}
		return err
	})
}

func (l *link) stats(ctx context.Context) (s *pb.StatsReply, err error) {
	err = l.call(ctx, func(ctx context.Context) (err error) {
		if l.kind == sdk.KindRouter {
			s, err = l.router.Stats(ctx, &pb.StatsRequest{})
		} else {
			s, err = l.expert.Stats(ctx, &pb.StatsRequest{})
		}
		return err
	})
	return s, err
}

func (l *link) drain(ctx context.Context) error {
	return l.call(ctx, func(ctx context.Context) (err error) {
		if l.kind == sdk.KindRouter {
			_, err = l.router.Drain(ctx, &pb.DrainRequest{})
		} else {
			_, err = l.expert.Drain(ctx, &pb.DrainRequest{})
		}
		return err
	})
}
