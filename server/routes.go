package server

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"

	"github.com/pimoe/pimoe/server/access"
)

// route is one row of the table of routes.
type route struct {
	method, path string
	shape        shape
	rule         access.Rule // filled in by add
	admin        bool        // on the admin listener; filled in by add
	work         bool        // runs on the model: has a deadline, watches its client, is refused while draining
	bytes        bool        // also takes application/octet-stream
	bare         bool        // a POST that also comes without a body
	once         bool        // takes an Idempotency-Key
	untyped      bool        // also takes a body without Content-Type
	pack         bool        // its answers are compressed for those who take that; see pack
	change       *change     // what is recorded of it; nil = it changes nothing
	credential   bool        // nobody is let in without a credential, whatever the listener makes of them
	handle       handler
}

// name is the route in metrics and logs.
func (r route) name() string {
	if r.path == "" {
		return "unmatched"
	}
	return r.method + " " + r.path
}

const (
	processPath   = "/api/v1/process"
	jobsPath      = "/api/v1/jobs"
	jobPath       = jobsPath + "/:job"
	metricsPath   = "/metrics"
	openapiPath   = "/openapi.json"
	expertsPath   = "/admin/experts"
	groupPath     = expertsPath + "/:group/"
	trialPath     = "/admin/trial"
	configPath    = "/admin/config"
	reloadPath    = "/admin/reload"
	rebalancePath = "/admin/rebalance"
	releasePath   = groupPath + "release"
	generateBody  = 8 << 20   // bytes: a prompt that fills the longest context several times over, written as ids
	tensorBody    = 128 << 20 // bytes: 32 sequences of 2048 positions of 512 floats are 128 MiB in binary
)

// publicRoutes is everything on the public listener.
func (s *Server) publicRoutes() []route {
	const get, post = http.MethodGet, http.MethodPost
	routes := append(append(s.healthRoutes(), s.oipRoutes()...),
		route{method: get, path: "/v1/models", shape: openaiShape, pack: true, handle: s.models},
		route{method: get, path: "/v1/models/:model", shape: openaiShape, handle: s.model},
		route{method: post, path: "/v1/completions", shape: openaiShape, work: true, once: true, handle: s.completions},
		route{method: post, path: "/v1/chat/completions", shape: openaiShape, work: true, once: true, handle: s.chat},
		route{method: post, path: embeddingsPath, shape: openaiShape, work: true, handle: s.embeddings},
		route{method: post, path: responsesPath, shape: openaiShape, work: true, handle: s.responses},
		route{method: post, path: processPath, work: true, bytes: true, once: true, handle: s.process},
		route{method: get, path: "/api/v1/stats", pack: true, handle: s.stats},
		route{method: post, path: jobsPath, once: true, handle: s.createJob},
		route{method: get, path: jobsPath, handle: s.listJobs},
		route{method: get, path: jobPath, handle: s.job},
		route{method: http.MethodDelete, path: jobPath, handle: s.deleteJob},
		route{method: get, path: jobPath + "/result", handle: s.jobResult},
		route{method: post, path: jobPath + "/cancel", bare: true, handle: s.cancelJob},
		route{method: get, path: metricsPath, pack: true, handle: s.metrics},
		route{method: get, path: socketPath, handle: s.socket},
		route{method: get, path: topicsPath, handle: s.topics},
		route{method: get, path: "/docs", pack: true, handle: s.docs},
		route{method: get, path: openapiPath, pack: true, handle: s.openapi},
		route{method: get, path: access.LoginPath, handle: s.login},
		route{method: get, path: access.CallbackPath, handle: s.callback},
		route{method: get, path: access.SessionPath, handle: s.session},
		route{method: post, path: access.LogoutPath, handle: s.logout},
		route{method: get, path: livePath, handle: s.watchLive},
	)
	routes = append(routes, s.consoleRoutes(false)...)
	if s.cfg.Auth.PublicAdmin {
		for _, r := range s.changeRoutes() {
			r.credential = true
			routes = append(routes, r)
		}
	}
	return routes
}

// adminRoutes is everything on the admin listener, beside profiles. It listens on loopback only; see anonymity. It has also what the
// console needs.
func (s *Server) adminRoutes() []route {
	const get = http.MethodGet
	routes := append(s.healthRoutes(),
		route{method: get, path: metricsPath, handle: s.metrics},
		route{method: get, path: access.SessionPath, handle: s.session},
		route{method: get, path: "/v1/models", shape: openaiShape, handle: s.models},
		route{method: http.MethodPost, path: "/v1/chat/completions", shape: openaiShape, work: true, handle: s.chat},
		route{method: get, path: livePath, handle: s.watchLive},
	)
	routes = append(routes, s.debugRoutes()...)
	return append(append(routes, s.consoleRoutes(true)...), s.changeRoutes()...)
}

// changeRoutes is the admin API: what shows and changes the host. The public listener has it only with auth.public_admin.
func (s *Server) changeRoutes() []route {
	version := []string{"backend", "plugin", "precision"}
	trial := append([]string{"percent", "max_relative"}, version...)
	return append(append(append(s.replicaRoutes(), s.reportRoutes()...), s.snapshotRoutes()...),
		route{method: http.MethodGet, path: expertsPath, handle: s.experts},
		route{method: http.MethodPost, path: releasePath, change: &change{"experts.release", []string{"replica"}}, handle: s.release},
		route{method: http.MethodGet, path: configPath, handle: s.config},
		route{method: http.MethodPost, path: reloadPath, change: &change{"config.reload", nil}, handle: s.reloadNow},
		route{method: http.MethodGet, path: trialPath, handle: s.trial},
		route{method: http.MethodPost, path: groupPath + "swap", change: &change{"experts.swap", version}, handle: s.swap},
		route{method: http.MethodPost, path: groupPath + "attach", change: &change{"experts.attach", []string{"patience"}}, handle: s.attach},
		route{method: http.MethodPost, path: groupPath + "canary", change: &change{"experts.canary", trial}, handle: s.try("canary")},
		route{method: http.MethodPost, path: groupPath + "shadow", change: &change{"experts.shadow", trial}, handle: s.try("shadow")},
		route{method: http.MethodPost, path: groupPath + "promote", change: &change{"experts.promote", nil}, handle: s.promote},
		route{method: http.MethodPost, path: groupPath + "rollback", change: &change{"experts.rollback", nil}, handle: s.rollback},
		route{method: http.MethodPost, path: groupPath + "scale", change: &change{"experts.scale", []string{"replicas"}}, handle: s.scale},
		route{method: http.MethodGet, path: rebalancePath, handle: s.rebalance},
		route{method: http.MethodGet, path: alertsPath, handle: s.alertList},
		route{method: http.MethodPost, path: rebalancePath, change: &change{"experts.rebalance", nil}, handle: s.regroup},
	)
}

// healthRoutes tell a platform how the host is; all are open.
func (s *Server) healthRoutes() []route {
	const get = http.MethodGet
	return []route{
		{method: get, path: "/health", handle: s.health},
		{method: get, path: "/livez", handle: s.livez},
		{method: get, path: "/readyz", handle: s.readyz},
		{method: get, path: "/startupz", handle: s.startupz},
	}
}

// serverLimits are times that tests shorten.
type serverLimits struct {
	header    time.Duration // to read a request's header, and to wait for the first one on a connection
	body      time.Duration // to read a body
	idle      time.Duration // between two requests on a connection
	write     time.Duration // to write an answer
	event     time.Duration // to write one event of a stream
	keepAlive time.Duration // between events of a stream that has nothing to say
	watch     time.Duration // between two looks at a running request's socket
	lastWords time.Duration // to write errors at the end
	watching  time.Duration // that one stream of /api/v1/live lasts
	memory    time.Duration // between two looks at the memory in use
	linger    time.Duration // least time between the begin of a drain and the end of kept connections
}

var defaultLimits = serverLimits{
	header: 5 * time.Second,  // a slow mobile link needs about 2 s; every half-open connection costs a descriptor
	body:   time.Minute,      // the largest body in this time is 2 MB/s
	idle:   75 * time.Second, // above the usual 60 s of proxies, so that they close first
	write:  30 * time.Second, event: 10 * time.Second,
	keepAlive: 5 * time.Second,        // below the idle limits of proxies
	watch:     200 * time.Millisecond, // ten looks within the two seconds in which a gone client's slot must be free
	lastWords: 2 * time.Second,
	watching:  10 * time.Minute,       // so long may somebody watch on who has lost the right to
	memory:    500 * time.Millisecond, // a prompt's pages fill more slowly than a fifth of any sensible limit in this time
	linger:    500 * time.Millisecond, // clients under load send their next request well within it; a person who stops the host hardly notices
}

// app is a Fiber app with the routes and the limits of every listener; its error names a route without a rule.
func (s *Server) app(routes []route, admin bool) (*fiber.App, error) {
	app := fiber.New(fiber.Config{
		AppName: "pimoe", DisableStartupMessage: true, Immutable: true, CaseSensitive: true,
		ReadTimeout: s.limits.header, IdleTimeout: s.limits.idle,
		ReadBufferSize: 16 << 10, // bounds a request's header: tokens and tracing headers fit several times over
		BodyLimit:      generateBody, DisablePreParseMultipartForm: true, StreamRequestBody: true, ErrorHandler: s.unmatched(admin),
	})
	app.Server().HeaderReceived = s.bodyLimits
	app.Server().CloseOnShutdown = true
	app.Server().KeepHijackedConns = true // WebSockets are the hub's to close
	return app, s.add(app, routes, admin)
}

// add registers routes that have a rule, and no others; what answers GET answers HEAD.
func (s *Server) add(app *fiber.App, routes []route, admin bool) error {
	for _, r := range routes {
		rule, err := s.table.Of(r.name())
		if err != nil {
			return err
		}
		r.rule, r.admin = rule, admin
		app.Add(r.method, r.path, s.handle(r))
		if r.method == http.MethodGet {
			app.Add(http.MethodHead, r.path, s.handle(r))
		}
	}
	return nil
}

// bodyLimits gives each request its own time and size for a body, once its header is known.
func (s *Server) bodyLimits(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	path, _, _ := strings.Cut(string(h.RequestURI()), "?")
	return fasthttp.RequestConfig{ReadTimeout: s.limits.bodyTime(h.ContentLength()), MaxRequestBodySize: bodyLimit(path)}
}

// unmatched answers requests that reach no handler: unknown routes and methods, and what could not be read. Without a
// key it does not tell which routes exist.
func (s *Server) unmatched(admin bool) fiber.ErrorHandler {
	return func(c *fiber.Ctx, err error) error {
		x := s.begin(c, route{method: c.Method()})
		defer x.stop()
		if path := c.Path(); strings.HasPrefix(path, "/v1/") || path == "/v1" {
			x.route.shape = openaiShape
		} else if strings.HasPrefix(path, oipPath+"/") || path == oipPath {
			x.route.shape = oipShape
		}
		if rep := x.preflight(c); rep != nil {
			x.write(c, rep)
			x.end(rep.status)
			return nil
		}
		f := faultOfFiber(err)
		if why := refusalOf(x.conn); why != "" {
			f.message += ": " + why
		}
		if f.status == http.StatusNotFound || f.status == http.StatusMethodNotAllowed {
			if p, denied := s.principal(x.ctx, c, admin); denied != nil {
				f = s.faultOf(denied)
				s.meters.refused(f.code)
			} else {
				f.allow, x.req.principal = strings.Clone(c.GetRespHeader(fiber.HeaderAllow)), p
			}
		}
		c.Context().Response.Header.Del(fiber.HeaderAllow)
		rep := f.reply(x.route.shape, x.req.id)
		x.write(c, rep)
		x.end(rep.status)
		return nil
	}
}

// faultOfFiber names what Fiber and fasthttp refuse on their own.
func faultOfFiber(err error) *fault {
	status := http.StatusBadRequest
	if e, ok := err.(*fiber.Error); ok { //nolint:errorlint // Fiber passes its own values
		status = e.Code
	}
	known := map[int]fault{
		http.StatusNotFound:                    {code: "route_not_found", message: "there is no such route; see /docs"},
		http.StatusMethodNotAllowed:            {code: "method_not_allowed", message: "this route has other methods, listed in the header Allow"},
		http.StatusRequestEntityTooLarge:       {code: "body_too_large", message: "the body is larger than this route takes"},
		http.StatusRequestHeaderFieldsTooLarge: {code: "header_too_large", message: "the request's header is larger than 16 KiB"},
		http.StatusRequestTimeout:              {code: "request_timeout", message: "the request did not arrive in time"},
	}
	f, ok := known[status]
	if !ok {
		status, f = http.StatusBadRequest, fault{code: "malformed_request", message: "the request is malformed HTTP"}
	}
	f.status = status
	return &f
}

// fixed is a handler of a constant answer.
func fixed(contentType string, body []byte, header map[string]string) handler {
	return func(context.Context, *request) (*reply, error) {
		return &reply{status: http.StatusOK, contentType: contentType, body: body, header: header}, nil
	}
}
