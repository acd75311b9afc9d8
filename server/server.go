package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/alert/lookout"
	"github.com/pimoe/pimoe/server/audit"
	"github.com/pimoe/pimoe/server/cache"
	"github.com/pimoe/pimoe/server/certs"
	"github.com/pimoe/pimoe/server/disk"
	"github.com/pimoe/pimoe/server/durable"
	"github.com/pimoe/pimoe/server/handover"
	"github.com/pimoe/pimoe/server/instance"
	"github.com/pimoe/pimoe/server/limit"
	"github.com/pimoe/pimoe/server/live"
	"github.com/pimoe/pimoe/server/memory"
	"github.com/pimoe/pimoe/server/profiling"
	"github.com/pimoe/pimoe/server/redisdb"
	"github.com/pimoe/pimoe/server/tracing"
	"github.com/pimoe/pimoe/server/web"
)

// Option changes a Server in New.
type Option func(*options)

type options struct {
	pprof   bool
	taken   []handover.Listener
	read    func() (config.Config, error)
	version string
	audit   *audit.Log
	state   *durable.DB
	clock   func() time.Time // of tests
	recent  func() []byte
}

// Pprof serves the profiles of net/http/pprof on the admin listener.
func Pprof() Option { return func(o *options) { o.pprof = true } }

// Version is what /health and /metrics say of the build; without it the module's own version.
func Version(v string) Option { return func(o *options) { o.version = v } }

// Reloadable gives the Server a way to read the configuration again, for Reload and the admin API.
func Reloadable(read func() (config.Config, error)) Option { return func(o *options) { o.read = read } }

// Inherited are listeners that were taken over from a host before. One whose address is another than the configured one is
// closed.
func Inherited(list []handover.Listener) Option { return func(o *options) { o.taken = list } }

// Server serves one instance. Life: New binds the addresses, Run serves until its context ends, Close ends everything
// at once; Close works after a New whose Run was never called. The instance stays open: its owner closes it.
type Server struct {
	log     *slog.Logger
	cfg     config.Config // as it was at the start
	now     atomic.Pointer[config.Config]
	printed atomic.Pointer[printed] // the last one asked for
	web     atomic.Pointer[web.Policy]
	read    func() (config.Config, error) // the configuration again; nil = it can't be reloaded
	service service
	forms   forms
	meters  *meters
	tracer  *tracing.Tracer
	kept    *profiling.Recorder
	recent  func() []byte // what the log has last said; nil = nobody keeps it
	audit   *audit.Log    // nil = nothing is recorded
	build   build
	guard   *access.Guard
	table   *access.Table
	certs   *certs.Store // nil = the public listener speaks HTTP
	tenants *tenants
	users   *users
	labels  *labels
	limiter *limit.Limiter
	memory  *memory.Watch
	disk    *disk.Watch
	redis   *redisdb.DB // nil where redis.url is empty
	answers *cache.Cache
	live    *live.Hub
	clock   func() time.Time // by which credentials are judged
	state   state            // jobs and kept answers
	alerts  *lookout.Watch   // nil = no rules are evaluated
	started time.Time

	public, admin *listener // admin is nil where it is off
	rpc           *door     // nil where it is off

	base      context.Context // of all requests; cancelled when the server stops for good
	cancel    context.CancelCauseFunc
	drain     atomic.Bool   // no new work is taken
	leaving   atomic.Bool   // another process has the listeners: connections end with their next answer
	left      chan struct{} // closed by Leave
	leave     sync.Once
	wasUp     atomic.Bool // the instance has been ready once
	sockets   *sockets
	running   *tally       // requests between their first byte read and their last event written
	once      sync.Once    // Close
	reloading sync.Mutex   // held by reload
	copying   sync.Mutex   // held by snapshot
	limits    serverLimits // times and sizes, smaller in tests
}

// listener is one bound address with its app.
type listener struct {
	net.Listener
	app *fiber.App
}

// New binds the public and the admin address of cfg.Server for an opened instance.
func New(inst *instance.Instance, cfg config.Config, log *slog.Logger, opts ...Option) (*Server, error) {
	return newServer(serviceOf(inst), cfg, log, opts...)
}

func newServer(svc service, cfg config.Config, log *slog.Logger, opts ...Option) (*Server, error) {
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	s := &Server{log: log, cfg: cfg, service: svc, build: buildOf(o.version), audit: o.audit, started: time.Now(), running: newTally(), limits: defaultLimits}
	s.now.Store(&cfg)
	s.read, s.recent = o.read, o.recent
	s.left = make(chan struct{})
	s.forms.vocabulary = sync.OnceValues(svc.vocabulary)
	s.base, s.cancel = context.WithCancelCause(context.Background())
	watched := svc.live
	if cfg.Alerts.Enabled {
		watched.Alerts = s.alertsNow
	}
	s.live = live.New(watched, live.Options{})
	s.meters = newMeters(svc.metrics, s.build, s.running)
	if s.audit != nil {
		svc.metrics.Gauge("pimoe_audit_writable", s.auditWritable)
	}
	s.clock = time.Now
	s.sockets = newSockets(s)
	if o.clock != nil {
		s.clock = o.clock
	}
	s.tenants = newTenants(cfg.Metrics.Tenants, svc.id, s.clock)
	s.users, s.labels = newUsers(svc.metrics, s.clock), &labels{r: svc.metrics}
	s.newState(o.state)
	if err := errors.Join(s.openTracing(), s.openProfiles(), s.newGuard(cfg), s.useWeb(cfg), s.useTLS(cfg), s.openShared(cfg)); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.openLimits(cfg)
	s.disk = disk.Start(disk.Options{Path: cfg.Home, Every: s.limits.memory, Log: s.log})
	svc.metrics.Gauge("pimoe_home_writable", s.homeWritable)
	if err := s.openCache(cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.bind(&o); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.openAlerts(cfg.Alerts)
	return s, nil
}

func (s *Server) bind(o *options) error {
	if err := checkPublic(s.cfg.Server.Addr, s.guard.Configured()); err != nil {
		return err
	}
	defer o.closeTaken()
	ln, err := o.listen("public", "server.addr", s.cfg.Server.Addr, connectionsLeft())
	if err != nil {
		return err
	}
	s.boundGuests(ln)
	s.public = &listener{Listener: ln}
	if s.public.app, err = s.app(s.publicRoutes(), false); err != nil {
		return err
	}
	if err := s.openDoor(o); err != nil {
		return err
	}
	if s.cfg.Server.AdminAddr == "off" {
		return nil
	}
	if err := checkAdmin(s.cfg.Server.AdminAddr); err != nil {
		return err
	}
	if ln, err = o.listen("admin", "server.admin_addr", s.cfg.Server.AdminAddr, adminConnections); err != nil {
		return err
	}
	s.admin = &listener{Listener: ln}
	s.admin.app, err = s.adminApp(o.pprof || s.cfg.Profiling.Pprof)
	return err
}

// Addr is the bound public address.
func (s *Server) Addr() string { return s.public.Addr().String() }

// AdminAddr is the bound admin address; empty where the admin listener is off.
func (s *Server) AdminAddr() string {
	if s.admin == nil {
		return ""
	}
	return s.admin.Addr().String()
}

// Run serves until ctx ends, then stops gracefully: /readyz answers 503, new work is refused, running requests get up
// to Server.DrainTimeout to end, and the listeners close. What still runs then is ended with a clear error. Run returns
// nil after a stop that ctx asked for.
func (s *Server) Run(ctx context.Context) error {
	defer s.state.start(s.log)()
	failed := make(chan error, 3)
	var serving sync.WaitGroup
	for name, l := range map[string]*listener{"public": s.public, "admin": s.admin} {
		if l == nil {
			continue
		}
		serving.Go(func() {
			if err := l.app.Listener(s.front(l)); err != nil && !errors.Is(err, net.ErrClosed) {
				failed <- fmt.Errorf("serve %s listener on %s: %w", name, l.Addr(), err)
			}
		})
	}
	if s.rpc != nil {
		serving.Go(func() {
			if err := s.rpc.serve(); err != nil {
				failed <- fmt.Errorf("serve gRPC listener on %s: %w", s.rpc.Addr(), err)
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
		s.stop()
	case <-s.left:
		s.depart(ctx)
		s.stop()
	case err = <-failed:
	}
	err = errors.Join(err, s.Close())
	serving.Wait()
	return err
}

// stop is the graceful half of the end.
func (s *Server) stop() {
	s.drain.Store(true)
	s.live.Close() // who watches would be waited for
	if s.rpc != nil {
		s.rpc.leases.close()
	}
	began := time.Now()
	s.state.pause()
	s.log.Info("draining", "requests", s.running.count(), "timeout", s.now.Load().Server.DrainTimeout.String())
	s.sockets.leave()
	ctx, cancel := context.WithTimeout(context.Background(), s.now.Load().Server.DrainTimeout)
	defer cancel()
	err := s.service.engine.Drain(ctx)
	s.state.stopJobs(ctx)
	if err == nil {
		err = s.running.wait(ctx)
	}
	if err != nil {
		s.log.Warn("drain timeout, ending what still runs", "requests", s.running.count(), "error", err.Error())
		s.cancel(errStopping)
		late, cancel := context.WithTimeout(context.Background(), s.limits.lastWords)
		defer cancel()
		_ = s.running.wait(late) // whoever has not ended by now is cut off by Close
	}
	s.linger(began.Add(s.limits.linger))
	s.log.Info("drained", "seconds", time.Since(began).Seconds())
}

// linger leaves kept connections a moment in which their next request is answered, with a refusal that also closes the
// connection. Without it such a request would meet a closed socket, and its client could not know whether it ran.
func (s *Server) linger(until time.Time) {
	for s.public.connections() > 0 && time.Now().Before(until) {
		time.Sleep(10 * time.Millisecond) // fasthttp has no signal for it
	}
}

// Close ends the server at once: it cancels running requests and closes the listeners and connections.
func (s *Server) Close() error {
	var err error
	s.once.Do(func() {
		s.drain.Store(true)
		s.live.Close()
		if s.running.count() > 0 {
			s.cancel(errStopping)
		}
		if s.rpc != nil {
			s.rpc.close(s.limits.lastWords)
		}
		for _, l := range []*listener{s.public, s.admin} {
			if l == nil {
				continue
			}
			// Shutdown waits for responses that are still being written; who reads too slowly is cut off.
			ctx, cancel := context.WithTimeout(context.Background(), s.limits.lastWords)
			if e := l.app.ShutdownWithContext(ctx); e != nil && !errors.Is(e, context.DeadlineExceeded) && !errors.Is(e, net.ErrClosed) {
				err = errors.Join(err, e)
			}
			cancel()
			_ = l.Listener.Close() // also when it never served; a second close is no error worth telling
		}
		s.cancel(errStopping)
		s.sockets.close()
		s.state.stopJobs(s.base) // whose end is now
		s.alerts.Close()
		s.closeCache()
		s.closeLimits()
		s.disk.Close()
		err = errors.Join(err, s.closeShared())
		if s.guard != nil { // of a New that failed
			s.guard.Close()
		}
		s.kept.Close()
		err = errors.Join(err, s.closeTracing())
	})
	return err
}

// errStopping is the cause of a request that the server's end has cancelled.
var errStopping = fmt.Errorf("the server is stopping: %w", sdk.ErrUnavailable)

var _ io.Closer = (*Server)(nil)
