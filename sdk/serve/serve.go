// Package serve is the plugin author's half: call Expert or Router from main and the process speaks to a PiMoE host
// until the host ends it.
//
//	func main() { serve.Expert(&mine{}) }
//
// What a plugin may count on, and what is asked of it:
//   - Write nothing to standard output before calling serve: the host reads the handshake there and ends a process
//     that prints anything else. Afterwards standard output goes where standard error goes.
//   - Standard error is the log. Every line reaches the host's log, tagged and cut at 8 KiB; Logger writes JSON lines.
//   - The environment is almost empty, the working folder is private, and weights arrive as read-only mappings: a
//     plugin needs no file system.
//   - SIGINT is ignored, because a terminal sends it to the whole group and the host decides who ends. SIGTERM ends the
//     process after the running calls. If the host dies, the process ends at once.
//
// The package refuses to run without a host. It imports neither the engine nor any backend.
package serve

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/internal/bootstrap"
	"github.com/pimoe/pimoe/sdk/internal/plane"
	"github.com/pimoe/pimoe/sdk/internal/service"
	"github.com/pimoe/pimoe/sdk/router"
)

// Option changes how a plugin is served.
type Option func(*config)

type config struct {
	drain time.Duration
}

// DrainFor bounds how long a process that was told to end waits for its running calls. The default is 10 s; the host
// usually has less patience and kills after its own limit.
func DrainFor(d time.Duration) Option { return func(c *config) { c.drain = d } }

// Expert serves an expert and does not return: it ends the process.
func Expert(e expert.Expert, opts ...Option) {
	run(func(shards [][]byte) service.Service { return service.NewExpert(e, shards) }, opts)
}

// Router serves a router and does not return: it ends the process.
func Router(r router.Router, opts ...Option) {
	run(func([][]byte) service.Service { return service.NewRouter(r) }, opts)
}

// Logger writes JSON lines to standard error, which is the host's log.
func Logger() *slog.Logger { return slog.New(slog.NewJSONHandler(os.Stderr, nil)) }

func run(make func(shards [][]byte) service.Service, opts []Option) {
	c := config{drain: 10 * time.Second}
	for _, o := range opts {
		o(&c)
	}
	if os.Getenv(bootstrap.CookieKey) != bootstrap.CookieValue {
		fmt.Fprintln(os.Stderr, "This program is a PiMoE plugin. It is started by a PiMoE host, not by hand; `pimoe plugins test PATH` tries it.")
		os.Exit(2)
	}
	if err := c.serve(make); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// spareProcs is how many of the runtime's processors there are beside those that the lanes hold: one for the control plane
// and the heartbeat, one for a thread that an author's code may use while the lanes look for calls.
const spareProcs = 2

// serve does everything between the first and the last breath of a plugin process.
func (c config) serve(make func(shards [][]byte) service.Service) error {
	watcher := findWatcher()
	signal.Ignore(syscall.SIGINT)
	term := newSignal(syscall.SIGTERM)
	doc, err := bootstrap.Read()
	if err != nil {
		return err
	}
	if doc.Plane != nil {
		runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), doc.Plane.Lanes+spareProcs))
	}
	keepFromChildren(doc.Lifeline)
	go watch(doc.Lifeline)
	stdout, err := takeStdout()
	if err != nil {
		return err
	}
	shards, err := mapShards(doc.Shards)
	if err != nil {
		return err
	}
	svc := make(shards)
	shared, release, err := attach(doc, svc, watcher)
	if err != nil {
		return err
	}
	control, err := listen(doc, svc)
	if err != nil {
		return err
	}
	if err := announce(stdout, control); err != nil {
		return err
	}
	select {
	case <-term:
	case <-control.ended: // go-plugin's own Shutdown call
	}
	return c.finish(svc, shared, release, control)
}

// finish lets the running calls end, then everything else.
func (c config) finish(svc service.Service, shared *plane.Plugin, release func() error, control *control) error {
	ctx, cancel := context.WithTimeout(context.Background(), c.drain)
	defer cancel()
	err := svc.Finish(ctx)
	if err == nil {
		err = release()
	}
	if err == nil && shared != nil {
		err = shared.Stop(ctx)
	}
	control.end()
	if err != nil {
		return err // calls still run, so the author's value is not closed under them
	}
	return svc.Close()
}

func newSignal(s os.Signal) <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, s)
	return c
}

// watch ends the process when the host is gone: the pipe's other end is open in the host alone. There is nobody left
// who could want an answer, so nothing is drained.
func watch(fd int) {
	var b [1]byte
	for {
		n, err := syscall.Read(fd, b[:])
		if err == syscall.EINTR || n > 0 {
			continue
		}
		os.Exit(3)
	}
}

// attach maps the plane and starts its workers, if the document has one. release is for when no call runs any more.
func attach(doc bootstrap.Document, svc service.Service, w watcher) (p *plane.Plugin, release func() error, err error) {
	release = func() error { return nil }
	if doc.Plane == nil {
		return nil, release, nil
	}
	if doc.Plane.Version != plane.Version {
		return nil, nil, fmt.Errorf("the host's plane is version %d, this plugin's %d", doc.Plane.Version, plane.Version)
	}
	requests := os.NewFile(uintptr(doc.Plane.Requests), "requests")
	results := os.NewFile(uintptr(doc.Plane.Results), "results")
	defer requests.Close()
	defer results.Close()
	if p, err = plane.Attach(doc.Plane.Layout, doc.Plane.Cores, requests, results); err != nil {
		return nil, nil, err
	}
	hold()
	p.Idle = rest
	p.Busy = w.rest
	if s, wants := svc.(service.Sharing); wants {
		release = s.Share(p.Memory())
	}
	p.Serve(svc.Handle)
	return p, release, nil
}

// control is the running gRPC server.
type control struct {
	address string
	network string
	server  *grpc.Server
	stop    context.CancelFunc
	ended   chan struct{}
}

// flushFor is how long the last answers may take to leave: they are written, and a living host reads them at once.
const flushFor = time.Second

// end closes the server after the answers of finished calls have left; go-plugin's own end would cut them off.
func (c *control) end() {
	cut := time.AfterFunc(flushFor, c.server.Stop)
	c.server.GracefulStop()
	cut.Stop()
	c.stop()
	<-c.ended
}

// listen starts go-plugin's gRPC server. Its test mode is used because it leaves the process to us: standard output and
// error, signals, exit status and the moment of the handshake are then decided here. In the ordinary mode it would put
// its own pipes in place of the standard streams, and the last lines of a process that fails would be lost with it.
func listen(doc bootstrap.Document, svc service.Service) (*control, error) {
	tlsConfig, err := tlsFrom(doc)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var server *grpc.Server // set before ready is sent to
	ended, ready := make(chan struct{}), make(chan *goplugin.ReattachConfig, 1)
	go goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: bootstrap.Protocol, MagicCookieKey: bootstrap.CookieKey, MagicCookieValue: bootstrap.CookieValue,
		},
		Plugins:     goplugin.PluginSet{"pimoe": registrar{register: svc.Register}},
		TLSProvider: tlsConfig,
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			server = grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(service.MaxMessage), grpc.MaxSendMsgSize(service.MaxMessage))...)
			return server
		},
		Logger: hclog.New(&hclog.LoggerOptions{
			Name: "go-plugin", Level: hclog.Warn, Output: os.Stderr, JSONFormat: true,
			// A listener that we closed on purpose is no error.
			Exclude: func(_ hclog.Level, msg string, _ ...any) bool { return msg == "grpc server" && ctx.Err() != nil },
		}),
		Test: &goplugin.ServeTestConfig{Context: ctx, ReattachConfigCh: ready, CloseCh: ended},
	})
	select {
	case r := <-ready:
		return &control{address: r.Addr.String(), network: r.Addr.Network(), server: server, stop: cancel, ended: ended}, nil
	case <-ended:
		cancel()
		return nil, fmt.Errorf("no control socket; standard error says why")
	}
}

// registrar is a go-plugin plugin that only registers a service.
type registrar struct {
	goplugin.NetRPCUnsupportedPlugin
	register func(*grpc.Server)
}

// GRPCServer implements goplugin.GRPCPlugin.
func (r registrar) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	r.register(s)
	return nil
}

// GRPCClient implements goplugin.GRPCPlugin.
func (registrar) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, fmt.Errorf("package serve has no client half")
}

// announce writes go-plugin's handshake line.
func announce(stdout *os.File, c *control) error {
	defer stdout.Close()
	if _, err := fmt.Fprintf(stdout, "%d|%d|%s|%s|grpc|\n", goplugin.CoreProtocolVersion, bootstrap.Protocol, c.network, c.address); err != nil {
		return fmt.Errorf("handshake: %w", err)
	}
	return nil
}
