package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/internal/pb"
	"github.com/pimoe/pimoe/sdk/internal/service"
)

// connect lets go-plugin run the launch and dial. go-plugin's own pieces that a hostile plugin could use, its broker
// and its copying of standard streams, are refused before they leave the host.
func (p *Process) connect(ctx context.Context, c Command, l *launch, der []byte) error {
	p.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: bootstrap.Protocol, MagicCookieKey: bootstrap.CookieKey, MagicCookieValue: bootstrap.CookieValue,
		},
		Plugins:          goplugin.PluginSet{"pimoe": dialed{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, _ string) (runner.Runner, error) {
			l.env = cmd.Env
			return l, nil
		},
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: p.dir},
		TLSConfig:        c.Identity.tlsFor(der),
		SkipHostEnv:      true,
		StartTimeout:     c.StartTimeout,
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithContextDialer(p.dial(l)),
			grpc.WithStreamInterceptor(refuseStreams),
			grpc.WithIdleTimeout(0),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(service.MaxMessage), grpc.MaxCallSendMsgSize(service.MaxMessage)),
		},
	})
	proto, err := p.client.Client()
	if err != nil {
		return err // the launch's own error: go-plugin returns it as it is
	}
	raw, err := proto.Dispense("pimoe")
	if err != nil {
		return fmt.Errorf("start plugin %s: %w", c.Path, err)
	}
	p.conn = raw.(*grpc.ClientConn)
	p.link = newLink(p, p.conn)
	return p.meet(ctx, c, l)
}

// meet asks for the Info, which also tells an expert from a router.
func (p *Process) meet(ctx context.Context, c Command, l *launch) error {
	want := c.Kind
	if want == "" {
		want = sdk.KindExpert
	}
	info, err := p.ask(ctx, want)
	if errors.Is(err, sdk.ErrUnsupported) {
		other := sdk.KindRouter
		if want == sdk.KindRouter {
			other = sdk.KindExpert
		}
		if info, err = p.ask(ctx, other); err == nil && c.Kind != "" {
			return &StartError{Path: c.Path, Reason: ReasonKind, Text: fmt.Sprintf("it is a plugin of kind %q, not %q", other, want), class: sdk.ErrUnsupported}
		}
		want = other
	}
	var dead *DeadError
	switch {
	case errors.As(err, &dead):
		d := p.Death()
		return &StartError{Path: c.Path, Reason: ReasonExited, Text: "it ended right after the handshake: " + d.withLines(), Death: &d, class: sdk.ErrUnavailable}
	case l.stranger.Load() != nil:
		return &StartError{Path: c.Path, Reason: ReasonAddress, Text: (*l.stranger.Load()).Error(), class: sdk.ErrUnavailable}
	case errors.Is(err, sdk.ErrDeadline):
		return silent(c, "it shook hands but did not answer")
	case err != nil:
		return &StartError{Path: c.Path, Reason: ReasonControl, Text: "no answer on its control socket: " + err.Error(), class: sdk.ErrUnavailable, cause: err}
	}
	p.link.kind = want
	info.Kind = string(want)
	p.link.info.Store(info)
	if p.link.Info().Has(sdk.CapGRPCOnly) {
		p.bare, p.link.plane = true, nil
	}
	return nil
}

func silent(c Command, what string) error {
	return &StartError{Path: c.Path, Reason: ReasonTimeout, Text: fmt.Sprintf("%s within %v", what, c.StartTimeout), class: sdk.ErrDeadline}
}

func (p *Process) ask(ctx context.Context, kind sdk.Kind) (info *pb.InfoReply, err error) {
	err = p.link.call(ctx, func(ctx context.Context) (err error) {
		if kind == sdk.KindRouter {
			info, err = p.link.router.Info(ctx, &pb.InfoRequest{})
		} else {
			info, err = p.link.expert.Info(ctx, &pb.InfoRequest{})
		}
		return err
	})
	return info, err
}

// refuseStreams: PiMoE's services have no streams; go-plugin's broker and its copy of standard output do.
func refuseStreams(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, grpc.Streamer, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "not used")
}

// dial reaches the socket that the handshake named, which was checked to lie in the process's own folder, and makes
// sure that the child is who listens there.
func (p *Process) dial(l *launch) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "unix", l.address)
		if err != nil {
			return nil, err
		}
		pid, err := peerPID(conn.(*net.UnixConn))
		if err == nil && p.guest == nil && pid != p.PID() { // a guest may be a debugger's child
			err = fmt.Errorf("process %d listens on the socket of process %d", pid, p.PID())
		}
		if err != nil {
			conn.Close()
			l.stranger.Store(&err)
			return nil, err
		}
		return conn, nil
	}
}

// dialed gives go-plugin's connection out.
type dialed struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (dialed) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error {
	return errors.New("package client has no server half")
}

func (dialed) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return conn, nil
}
