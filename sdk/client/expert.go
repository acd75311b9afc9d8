package client

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/wire"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// Expert is an expert in another process. It is safe for concurrent use; copies are the same expert.
type Expert struct{ link *link }

// LoadSpec is expert.Spec for weights that lie in shards; its Spec.Units stays empty.
type LoadSpec struct {
	expert.Spec
	Units []ShardUnit
}

// ShardUnit says where one unit's matrices lie.
type ShardUnit struct {
	expert.Unit
	Gate, Up, Down ShardTensor
}

// ShardTensor is a tensor in one of the Command's Shards: little-endian bytes, row-major.
type ShardTensor struct {
	Shard          int
	Offset, Length int64
	DType          tensor.DType
	Shape          []int
}

// NewExpert is an expert behind a bare connection, such as one on another machine or in a test. Tensors travel over
// gRPC, and the connection stays the caller's.
func NewExpert(ctx context.Context, conn grpc.ClientConnInterface) (*Expert, error) {
	l := newLink(nil, conn)
	l.kind = sdk.KindExpert
	info, err := l.expert.Info(ctx, &pb.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("expert: info: %w", wire.FromStatus(err))
	}
	l.info.Store(info)
	return &Expert{link: l}, nil
}

// Info implements expert.Expert.
func (e *Expert) Info() sdk.Info { return e.link.Info() }

// Load can't send weights: they never cross the boundary. A spec without units works; use LoadShards otherwise.
func (e *Expert) Load(ctx context.Context, spec expert.Spec) error {
	if len(spec.Units) > 0 {
		return fmt.Errorf("load: weights in memory don't cross a process boundary, use LoadShards: %w", sdk.ErrUnsupported)
	}
	return e.LoadShards(ctx, LoadSpec{Spec: spec})
}

// LoadShards tells the process which ranges of its shards are which weights. It is called once.
func (e *Expert) LoadShards(ctx context.Context, spec LoadSpec) error {
	units := make([]wire.Unit, len(spec.Units))
	for i, u := range spec.Units {
		units[i] = wire.Unit{Unit: u.Unit, Gate: wire.Range(u.Gate), Up: wire.Range(u.Up), Down: wire.Range(u.Down)}
	}
	req := wire.LoadRequest(spec.Spec, units)
	return e.link.call(ctx, func(ctx context.Context) error {
		reply, err := e.link.expert.Load(ctx, req)
		if err == nil && reply.GetInfo() != nil {
			reply.Info.Kind = string(sdk.KindExpert)
			e.link.info.Store(reply.Info)
		}
		return err
	})
}

// Close ends the process; nothing happens to a bare connection.
func (e *Expert) Close() error { return e.link.close() }

// Forward implements expert.Expert.
func (e *Expert) Forward(ctx context.Context, call *expert.Call) error {
	if err := wire.CheckCall(call); err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	return e.forward(ctx, call)
}

// Start implements expert.Starter. The request has left the host when it returns, unless the call is larger than a slot
// or all slots are taken; then a goroutine sends it.
func (e *Expert) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if err := wire.CheckCall(call); err != nil {
		return failed{fmt.Errorf("forward: %w", err)}
	}
	if call.X.Rows == 0 {
		return failed{nil}
	}
	if pl := e.link.plane; pl != nil && call.X.Rows <= pl.Layout().Rows(4*call.X.Cols, 4*call.X.Cols) {
		t, ok, err := pl.TryPost(wire.ForwardHead(call, timeLeft(ctx)), func(b []byte) { wire.PutForward(b, call) })
		if err != nil {
			return failed{e.link.failure(ctx, err)}
		}
		if ok {
			return &posted{link: e.link, ctx: ctx, call: call, ticket: t}
		}
	}
	return aside(func() error { return e.forward(ctx, call) })
}

// forward cuts a call into pieces that fit and makes them one after the other.
func (e *Expert) forward(ctx context.Context, call *expert.Call) error {
	for _, r := range e.link.pieces(call.X.Rows, 4*call.X.Cols, 4*call.X.Cols) {
		part := call
		if r.to-r.from != call.X.Rows {
			part = wire.SliceCall(call, r.from, r.to)
		}
		var err error
		if r.shared {
			err = e.share(ctx, part)
		} else {
			err = e.send(ctx, part)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// share makes a call through the plane.
func (e *Expert) share(ctx context.Context, call *expert.Call) error {
	t, err := e.link.plane.Post(ctx, wire.ForwardHead(call, timeLeft(ctx)), func(b []byte) { wire.PutForward(b, call) })
	if err != nil {
		return e.link.failure(ctx, err)
	}
	return (&posted{link: e.link, ctx: ctx, call: call, ticket: t}).Wait()
}

// send makes a call over gRPC.
func (e *Expert) send(ctx context.Context, call *expert.Call) error {
	req := wire.ForwardRequest(call)
	var reply *pb.ForwardReply
	err := e.link.call(ctx, func(ctx context.Context) (err error) {
		reply, err = e.link.expert.Forward(ctx, req)
		return err
	})
	if err != nil {
		return err
	}
	return wire.TakeForwardReply(call, reply)
}

// posted is a call in a slot.
type posted struct {
	link   *link
	ctx    context.Context
	call   *expert.Call
	ticket plane.Ticket
}

// Wait implements expert.Pending.
func (p *posted) Wait() error {
	err := p.ticket.Wait(p.ctx, callLimit, func(r plane.Reply, b []byte) error { return wire.TakeForward(p.call, r, b) })
	return p.link.failure(p.ctx, err)
}

// failed is a call that ended before it was sent.
type failed struct{ err error }

// Wait implements expert.Pending.
func (f failed) Wait() error { return f.err }

// running is a call in a goroutine, which ends with the call.
type running chan error

func aside(f func() error) running {
	r := make(running, 1)
	go func() { r <- f() }()
	return r
}

// Wait implements expert.Pending.
func (r running) Wait() error { return <-r }

// timeLeft is what the context still gives a call; 0 for no limit.
func timeLeft(ctx context.Context) time.Duration {
	d, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(d), time.Microsecond)
}

// piece is a range of a call's rows and the transport that takes it.
type piece struct {
	from, to int
	shared   bool
}

// messageBytes bounds the tensor in one gRPC message, far below the message limit, so that a large prompt doesn't hold
// three copies of itself in memory.
const messageBytes = 16 << 20

// pieces splits rows by what fits a slot, or a message where no row fits or there is no plane.
func (l *link) pieces(rows, in, out int) []piece {
	each, shared := 0, false
	if l.plane != nil {
		each = l.plane.Layout().Rows(in, out)
		shared = each > 0
	}
	if !shared {
		each = max(1, messageBytes/max(in, out))
	}
	var p []piece
	for from := 0; from < rows; from += each {
		p = append(p, piece{from, min(from+each, rows), shared})
	}
	return p
}

func (l *link) close() error {
	if l.process == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), killAfter)
	defer cancel()
	return l.process.Stop(ctx)
}

var (
	_ expert.Expert  = (*Expert)(nil)
	_ expert.Starter = (*Expert)(nil)
)
