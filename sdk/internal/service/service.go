// Package service is the plugin's half of both contracts: gRPC services and the plane's handler in front of an author's
// Expert or Router. It checks calls before the author's code sees them, counts them, and refuses new ones while the
// process drains.
//
// sdk/serve runs it in a plugin process, sdk/sdktest in the test's own. It refuses to know about processes, sockets and
// descriptors.
package service

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
)

// MaxMessage bounds a gRPC message in both directions. The largest ones are batches of prompt rows: 16 MiB after the
// client's split by rows. 256 MiB leaves room for a single very wide call and for a Load that names every unit of a
// large model, and still keeps a broken peer from asking for all memory.
const MaxMessage = 256 << 20

// Service is what runs in a plugin process.
type Service interface {
	// Register adds the gRPC service.
	Register(s *grpc.Server)
	// Handle computes one call of the plane.
	Handle(ctx context.Context, h plane.Head, in, out []byte) plane.Reply
	// Finish refuses new calls from now on and waits for the running ones.
	Finish(ctx context.Context) error
	// Close closes the author's value, once.
	Close() error
}

// Sharing is a Service that is told of the plane's memory before the first call. release comes after the last one.
type Sharing interface {
	Share(calls, answers []byte) (release func() error)
}

// gate counts the calls that are inside and keeps new ones out while draining.
type gate struct {
	mu       sync.Mutex // guards all below
	draining bool
	inside   int
	empty    chan struct{} // made by Finish, closed by the last call
	stats    pb.StatsReply
}

// run counts one call of some rows around f.
func (g *gate) run(rows int, f func() error) error {
	g.mu.Lock()
	if g.draining {
		g.mu.Unlock()
		return fmt.Errorf("plugin is ending: %w", sdk.ErrUnavailable)
	}
	g.inside++
	g.mu.Unlock()
	failed := true // also if f panics
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.stats.Calls++
		g.stats.Rows += uint64(rows)
		if failed {
			g.stats.Errors++
		}
		if g.inside--; g.inside == 0 && g.empty != nil {
			close(g.empty)
			g.empty = nil
		}
	}()
	err := f()
	failed = err != nil
	return err
}

// Finish implements Service.
func (g *gate) Finish(ctx context.Context) error {
	g.mu.Lock()
	g.draining = true
	if g.inside == 0 {
		g.mu.Unlock()
		return nil
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("drain: calls still run: %w", ctx.Err())
	}
}

func (g *gate) ping() *pb.PingReply {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &pb.PingReply{Draining: g.draining}
}

func (g *gate) counts() *pb.StatsReply {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &pb.StatsReply{Calls: g.stats.Calls, Rows: g.stats.Rows, Errors: g.stats.Errors}
}

// setup says how far the one Load or Configure of a process has come.
type setup struct {
	mu    sync.RWMutex // guards both
	begun bool
	ready bool
}

// once runs f for the first caller and refuses the others.
func (s *setup) once(what string, f func() error) error {
	s.mu.Lock()
	if s.begun {
		s.mu.Unlock()
		return fmt.Errorf("second %s: %w", what, sdk.ErrInvalid)
	}
	s.begun = true
	s.mu.Unlock()
	if err := f(); err != nil {
		return err
	}
	s.mu.Lock()
	s.ready = true
	s.mu.Unlock()
	return nil
}

func (s *setup) check(what string) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.ready {
		return fmt.Errorf("call before %s: %w", what, sdk.ErrInvalid)
	}
	return nil
}
