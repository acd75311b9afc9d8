package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/service"
	"github.com/pimoe/pimoe/sdk/internal/wire"
)

// RemoteOptions say whom to connect to.
type RemoteOptions struct {
	Address      string        // HOST:PORT
	ServerName   string        // that the certificate must be for; empty = the host of Address
	Certificates *Certificates // nil = without TLS, to loopback addresses only
}

const (
	// dialLimit bounds one try to connect: a machine that can't be reached must not hold up the next try for as long as
	// TCP would.
	dialLimit = 3 * time.Second
	// leaveLimit is how long calls may go on after the other end has asked for a new connection. Stop's context may end sooner.
	leaveLimit = 5 * time.Second
	// remoteWindow is what may be under way unread on a connection and on each call: a tensor of one message.
	remoteWindow = messageBytes
)

// ErrUntrusted is in the error of Connect if one end's certificate is not accepted by the other.
var ErrUntrusted = errors.New("the certificate is not accepted")

// Remote is an expert process on another machine, as far as a host has to do with it: one connection, from the handshake
// to its end. There is never a second one behind it, so what has been tested is what answers. Its owner calls Stop when done
// with it, also after it has ended. All methods are safe for concurrent use.
type Remote struct {
	address  string
	link     *link
	conn     *grpc.ClientConn
	wire     *watchedConn
	describe expert.Description

	asked   atomic.Bool  // to end
	calls   atomic.Int64 // under way
	exited  chan struct{}
	once    sync.Once
	death   Death // written before exited is closed
	stop    sync.Once
	watched sync.WaitGroup
	life    context.Context
	cancel  context.CancelFunc
}

// Connect connects, proves to the other end who this host is and has it prove the same, and asks what it computes. After an
// error nothing is left of the try.
func Connect(ctx context.Context, o RemoteOptions) (*Remote, error) {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w: %w", o.Address, err, sdk.ErrInvalid)
	}
	if o.Certificates == nil && !loopback(host) {
		return nil, fmt.Errorf("connect to %s: without TLS only loopback addresses are allowed: %w", o.Address, sdk.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	c, err := dial(ctx, host, o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.Address, err)
	}
	r := &Remote{address: o.Address, exited: make(chan struct{}), wire: &watchedConn{Conn: c}}
	r.life, r.cancel = context.WithCancel(context.Background())
	if err := r.begin(ctx); err != nil {
		r.cut("the connection failed")
		r.free()
		return nil, fmt.Errorf("connect to %s: %w", o.Address, err)
	}
	return r, nil
}

// begin speaks gRPC on the connection, and on no other: a second one might lead to another process.
func (r *Remote) begin(ctx context.Context) (err error) {
	var given atomic.Bool
	r.conn, err = grpc.NewClient("passthrough:///"+r.address,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // TLS, where there is any, lies below
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if given.Swap(true) {
				return nil, errors.New("the connection has ended")
			}
			return r.wire, nil
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(service.MaxRemoteMessage), grpc.MaxCallSendMsgSize(service.MaxRemoteMessage)),
		grpc.WithInitialWindowSize(remoteWindow), grpc.WithInitialConnWindowSize(remoteWindow),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(), grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return fmt.Errorf("grpc: %w", err)
	}
	r.link = newLink(nil, r.conn)
	r.link.kind, r.link.remote = sdk.KindExpert, r
	reply, err := pb.NewRemoteClient(r.conn).Describe(ctx, &pb.DescribeRequest{Protocol: wire.RemoteProtocol})
	if err != nil {
		return wire.FromContext(wire.FromStatus(err))
	}
	if r.describe, err = wire.DescriptionBack(reply); err != nil {
		return err
	}
	info := reply.GetInfo()
	if info.GetKind() != string(sdk.KindExpert) {
		return fmt.Errorf("describe: a %.40q, want an expert: %w", info.GetKind(), sdk.ErrUnsupported)
	}
	r.link.info.Store(info)
	r.watched.Go(r.watch)
	return nil
}

// watch notices the connection's end: it broke, or the other end has asked for a new one.
func (r *Remote) watch() {
	for state := r.conn.GetState(); state == connectivity.Ready; state = r.conn.GetState() {
		if !r.conn.WaitForStateChange(r.life, state) {
			return
		}
	}
	if cause := r.wire.cause(); cause != nil {
		r.end("the connection broke: " + cause.Error())
		return
	}
	r.end("the other end asked for a new connection")
}

// end tells everybody, once, that there is no expert here any more.
func (r *Remote) end(cause string) {
	r.once.Do(func() {
		r.death = Death{Lost: cause, ExitCode: -1, Asked: r.asked.Load(), At: time.Now(), LastLines: []string{r.address + ": " + cause}}
		close(r.exited)
	})
}

// Address is the endpoint.
func (r *Remote) Address() string { return r.address }

// Description is what the process says of itself.
func (r *Remote) Description() expert.Description { return r.describe }

// Expert is the process as an expert.
func (r *Remote) Expert() *Expert { return &Expert{link: r.link} }

// PID is 0: the process is not of this machine.
func (r *Remote) PID() int { return 0 }

// Exited is closed as soon as the connection has ended.
func (r *Remote) Exited() <-chan struct{} { return r.exited }

// Ending is whether the connection has ended: nobody sees its process from here.
func (r *Remote) Ending() bool { return isClosed(r.exited) }

// Death tells how it ended.
func (r *Remote) Death() Death {
	<-r.exited
	return r.death
}

// Beat tells that there is no heartbeat; Ping stands in for it.
func (r *Remote) Beat() (uint64, bool) { return 0, false }

// Stopped is never known of another machine.
func (r *Remote) Stopped() bool { return false }

// AtWork is false: nobody sees its process from here.
func (r *Remote) AtWork() bool { return false }

// Ping asks for a sign of life.
func (r *Remote) Ping(ctx context.Context) error { return r.link.ping(ctx) }

// Lanes are none: calls go over gRPC.
func (r *Remote) Lanes() (lanes, bound int) { return 0, 0 }

// Confined lists nothing: another machine's operator confines what runs there.
func (r *Remote) Confined() []Measure { return nil }

// Cut breaks the connection as an accident would.
func (r *Remote) Cut() { r.cut("the connection was cut on purpose") }

// Kill ends the connection now. Calls that are under way on one which the other end wants to end may still finish; Stop waits
// for them.
func (r *Remote) Kill() error {
	r.asked.Store(true)
	select {
	case <-r.exited:
		if r.wire.cause() == nil {
			return nil
		}
	default:
	}
	r.cut("the host has ended the connection")
	return nil
}

func (r *Remote) cut(cause string) {
	r.end(cause)
	r.wire.Close()
}

// drainLook is between two looks at the calls that are under way.
const drainLook = 2 * time.Millisecond

// Stop ends the connection, after the calls that are under way as far as ctx allows, and frees everything that belongs to it.
// It may be called several times.
func (r *Remote) Stop(ctx context.Context) error {
	r.asked.Store(true)
	r.stop.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, leaveLimit)
		defer cancel()
		for r.calls.Load() > 0 && r.wire.cause() == nil && ctx.Err() == nil {
			time.Sleep(drainLook)
		}
		r.cut("the host has ended the connection")
		r.free()
	})
	return nil
}

func (r *Remote) free() {
	r.cancel()
	if r.conn != nil {
		r.conn.Close()
	}
	r.wire.Close()
	r.watched.Wait()
}

// failure names the cause of a failed call.
func (r *Remote) failure(ctx context.Context, err error) error {
	if !errors.Is(err, sdk.ErrUnavailable) && (!errors.Is(err, context.Canceled) || ctx.Err() != nil) {
		return wire.FromContext(err)
	}
	// The call's end is often seen before the connection's.
	wait := time.NewTimer(250 * time.Millisecond)
	defer wait.Stop()
	select {
	case <-r.exited:
		return &LostError{Address: r.address, Death: r.death}
	case <-ctx.Done():
	case <-wait.C:
	}
	return wire.FromContext(err)
}

// LostError is the error of every call on a connection to another machine that has ended. It wraps sdk.ErrUnavailable.
type LostError struct {
	Address string
	Death   Death
}

func (e *LostError) Error() string { return "expert at " + e.Address + " is lost: " + e.Death.Lost }

// Unwrap gives the class.
func (e *LostError) Unwrap() error { return sdk.ErrUnavailable }
