package client

import (
	"context"
	"fmt"
	"sync"
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

// ShardTensor is a tensor in one of the Command's Shards: little-endian bytes, row-major unless Packing names another layout,
// which the plugin must have declared (sdk.CapPacking).
type ShardTensor struct {
	Shard          int
	Offset, Length int64
	DType          tensor.DType
	Shape          []int
	Packing        string
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

// Devices asks for the devices that compute for the process, without asking one that tells of none (sdk.CapDevices). What it says
// is checked for its form.
func (e *Expert) Devices(ctx context.Context) ([]expert.Device, error) {
	if !e.Info().Has(sdk.CapDevices) {
		return nil, nil
	}
	s, err := e.link.stats(ctx)
	if err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	list, err := wire.DevicesOf(s.GetDevices())
	if err != nil {
		return nil, fmt.Errorf("devices: %w", err)
	}
	return list, nil
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

// Start implements expert.Starter. The request lies in the process's memory when it returns, as far as there are free slots;
// the rest of a call that is larger than a slot follows in Wait, as answers come. A process that sleeps is woken by Wake or
// Wait. Without a slot, or without shared memory, a goroutine makes the call. Nothing is allocated for a call in slots.
func (e *Expert) Start(ctx context.Context, call *expert.Call) expert.Pending {
	if err := wire.CheckCall(call); err != nil {
		return failed{fmt.Errorf("forward: %w", err)}
	}
	if call.Y.Rows == 0 {
		return failed{nil}
	}
	p := newPosted(e.link, ctx, call)
	if p == nil {
		return e.mail(ctx, call)
	}
	if err := p.post(); err != nil {
		return failed{p.end(err)}
	}
	if p.sent == 0 {
		return aside(p.Wait)
	}
	return p
}

// Wake wakes the process for the calls that Start has posted. Wait does it as well; a caller who begins calls in several
// processes wakes them when the last has been posted, because a thread that is woken may take the caller's core: first
// those threads that are bound to other cores, then, with all, the rest.
func (e *Expert) Wake(all bool) {
	if e.link.plane != nil {
		e.link.plane.Wake(all)
	}
}

// forward makes a call and waits for it.
func (e *Expert) forward(ctx context.Context, call *expert.Call) error {
	if call.Y.Rows == 0 {
		return nil
	}
	if p := newPosted(e.link, ctx, call); p != nil {
		return p.Wait()
	}
	return e.send(ctx, call)
}

// send makes a call over gRPC, in messages of a bounded size.
func (e *Expert) send(ctx context.Context, call *expert.Call) error {
	each := max(1, messageBytes/(4*call.X.Cols))
	for from := 0; from < call.Y.Rows; from += each {
		part := call
		if each < call.Y.Rows {
			part = wire.SliceCall(call, from, min(from+each, call.Y.Rows))
		}
		req := wire.ForwardRequest(part)
		var reply *pb.ForwardReply
		err := e.link.call(ctx, func(ctx context.Context) error {
			return carriedBy(ctx).overGRPC(ctx, func(ctx context.Context, o ...grpc.CallOption) (err error) {
				reply, err = e.link.expert.Forward(ctx, req, o...)
				return err
			})
		})
		if err == nil {
			err = wire.TakeForwardReply(part, reply)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// mailed is a call over gRPC, in a goroutine that ends with it.
type mailed struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error // set before done is closed
}

func (e *Expert) mail(ctx context.Context, call *expert.Call) *mailed {
	ctx, cancel := context.WithCancel(ctx)
	m := &mailed{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		m.err = e.send(ctx, call)
	}()
	return m
}

// Wait implements expert.Pending.
func (m *mailed) Wait() error {
	<-m.done
	m.cancel()
	return m.err
}

// Settled implements Settling.
func (m *mailed) Settled(within time.Duration) bool {
	select {
	case <-m.done:
		return true
	default:
	}
	if within <= 0 {
		return false
	}
	t := time.NewTimer(within)
	defer t.Stop()
	select {
	case <-m.done:
		return true
	case <-t.C:
		return false
	}
}

// Abandon implements Settling. gRPC gives a call up at once, whatever the other end does.
func (m *mailed) Abandon() {
	m.cancel()
	<-m.done
}

// posted is a call in slots: one if it fits, else several, in the order of its rows.
type posted struct {
	link    *link
	ctx     context.Context
	call    *expert.Call
	each    int // rows that fit a slot
	sent    int // rows that are on their way or back
	carried *Carried
	flights []flight
}

// flight is a part of a call in a slot.
type flight struct {
	call   *expert.Call // the whole or a part
	ticket plane.Ticket
}

var postedPool = sync.Pool{New: func() any { return new(posted) }}

// newPosted prepares a call for the plane; nil if it can't go there.
func newPosted(l *link, ctx context.Context, call *expert.Call) *posted {
	if l.plane == nil {
		return nil
	}
	each := l.plane.Layout().Rows(4*call.X.Cols, 4*call.X.Cols)
	if each == 0 {
		return nil
	}
	p := postedPool.Get().(*posted)
	p.link, p.ctx, p.call, p.each, p.sent, p.carried = l, ctx, call, each, 0, carriedBy(ctx)
	return p
}

// end gives the memory back and names the error's cause.
func (p *posted) end(err error) error {
	err = p.link.failure(p.ctx, err)
	clear(p.flights)
	*p = posted{flights: p.flights[:0]}
	postedPool.Put(p)
	return err
}

// post sends what has not been sent, as far as there are free slots.
func (p *posted) post() error {
	for p.sent < p.call.Y.Rows {
		part := p.part()
		t, ok, err := p.link.plane.TryPost(part.Lane-1, p.head(part), func(b []byte) { wire.PutForward(b, part) })
		if err != nil || !ok {
			return err
		}
		p.fly(part, t)
	}
	return nil
}

// part is the next piece to be sent.
func (p *posted) part() *expert.Call {
	if p.call.Y.Rows <= p.each {
		return p.call
	}
	return wire.SliceCall(p.call, p.sent, min(p.sent+p.each, p.call.Y.Rows))
}

// head is the header of a part.
func (p *posted) head(part *expert.Call) plane.Head {
	h := wire.ForwardHead(part, timeLeft(p.ctx))
	h.Trace = p.carried.trace()
	return h
}

func (p *posted) fly(part *expert.Call, t plane.Ticket) {
	p.flights = append(p.flights, flight{part, t})
	p.sent += part.Y.Rows
}

// Wait implements expert.Pending. It blocks for a slot only while it has nothing under way, so that calls that share the
// slots can't wait for each other.
func (p *posted) Wait() error {
	var first error
	for n := 0; ; n++ {
		if n == len(p.flights) {
			if p.sent == p.call.Y.Rows || first != nil {
				return p.end(first)
			}
			part := p.part()
			t, err := p.link.plane.Post(p.ctx, part.Lane-1, p.head(part), func(b []byte) { wire.PutForward(b, part) })
			if err != nil {
				return p.end(err)
			}
			p.fly(part, t)
		}
		f := p.flights[n]
		err := f.ticket.Wait(p.ctx, callLimit, func(r plane.Reply, b []byte) error {
			p.carried.take(r.Began, r.Took)
			return wire.TakeForward(f.call, r, b)
		})
		if first == nil {
			first = err
		}
		if first == nil {
			first = p.post()
		}
	}
}

// Settling is a Pending of a call in another process: it can be looked at, and given up instead of being waited for.
type Settling interface {
	expert.Pending
	// Settled waits at most the time within, and reports whether Wait returns at once. A call of which a part is still to be
	// sent counts as settled, since only Wait sends it.
	Settled(within time.Duration) bool
	// Abandon takes the place of Wait: nobody touches X or Y any more, and the answer is thrown away when it comes.
	Abandon()
}

// Settled implements Settling.
func (p *posted) Settled(within time.Duration) bool {
	if p.sent < p.call.Y.Rows {
		return true
	}
	until := time.Now().Add(within)
	for _, f := range p.flights {
		if !f.ticket.Settled(time.Until(until)) {
			return false
		}
	}
	return true
}

// Abandon implements Settling.
func (p *posted) Abandon() {
	for _, f := range p.flights {
		f.ticket.Leave()
	}
	p.end(nil)
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
	_ Settling       = (*posted)(nil)
	_ Settling       = (*mailed)(nil)
	_ expert.Expert  = (*Expert)(nil)
	_ expert.Starter = (*Expert)(nil)
)
