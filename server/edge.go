package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"github.com/pimoe/pimoe/core/engine"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/idempotency"
	"github.com/pimoe/pimoe/server/limit"
	"github.com/pimoe/pimoe/server/tracing"
)

const (
	mimeJSON    = "application/json"
	mimeProblem = "application/problem+json"
	mimeEvents  = "text/event-stream; charset=utf-8"
	mimeBytes   = "application/octet-stream"
	mimeText    = "text/plain; charset=utf-8"
)

// request is a copy of all that a handler may see: Fiber reuses its buffers for the next request on the connection, and
// a request may live on in queues and streams.
type request struct {
	id          string
	body        []byte
	contentType string
	accept      string
	shape       string // X-Tensor-Shape
	freshness   string // Cache-Control, which says whether a kept answer will do
	known       string // If-None-Match
	cached      string // what the cache did, for the log; empty = it was not asked
	take        moe.Accept
	priority    engine.Priority
	quality     string // of the answer, for the log; empty = none yet
	model       string // of the path
	group       string // of the path
	version     string // of the path
	inferHeader string // Inference-Header-Content-Length
	asset       string // of the path
	profile     string // of the path
	query       url.Values
	principal   access.Principal
	client      netip.Addr         // that the request counts for; see clientOf
	job         string             // of the path
	claim       *idempotency.Claim // nil = the request has no idempotency key
	// sessionCookie and loginCookie are the values of the cookies of those names, for the routes of logins.
	sessionCookie, loginCookie string
	tokens                     struct{ prompt, completion int } // for the log
	features                   []string                         // that it uses, by what it asks for
	handshake                  *handshake                       // of the route of WebSockets
	numbered                   *numbered                        // nil = a stream ends with its connection
}

// reply is an answer: a body, or a stream that is written event by event.
type reply struct {
	status      int
	contentType string
	header      map[string]string
	cookies     []string // Set-Cookie
	body        []byte
	stream      func(ctx context.Context, w *events) error
	lasting     bool           // the same for everybody who may see it, until the server changes: browsers and CDNs may keep it
	outcome     map[string]any // of a change, for the audit log
	held        bool           // the stream lasts and says little
	hijack      func(net.Conn) // takes the connection over, without an answer
	// fail writes the error that ends a stream; nil = as OpenAI's streams of chunks do.
	fail func(w *events, f *fault)
}

// handler answers one route. An error becomes an error answer in the shape of the route.
type handler func(ctx context.Context, r *request) (*reply, error)

// exchange is one request on its way through the edge.
type exchange struct {
	s      *Server
	route  route
	req    *request
	conn   net.Conn
	around around
	began  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	stop   func() // ends timer and watcher of ctx, and waits for the watcher
	key    string // Idempotency-Key, of routes that take one
	trace  *tracing.Request
	code   string // of the error that it ended with

	grant   *limit.Grant // nil = none was asked for
	windows []limit.Window
}

// handle is the one place where Fiber's world ends: it copies the request, runs the handler and writes its reply.
func (s *Server) handle(rt route) fiber.Handler {
	return func(c *fiber.Ctx) error {
		x := s.begin(c, rt)
		x.req.model, x.req.group = strings.Clone(c.Params("model")), strings.Clone(c.Params("group"))
		x.req.job = strings.Clone(c.Params("job"))
		x.req.version, x.req.inferHeader = strings.Clone(c.Params("version")), strings.Clone(c.Get(headerLength))
		x.req.asset, x.req.profile = strings.Clone(c.Params("asset")), strings.Clone(c.Params("profile"))
		rep, err := x.answer(c)
		if err != nil {
			rep = x.refuse(err)
		}
		if rep.hijack != nil {
			x.takeOver(c, rep)
			return nil
		}
		rep = x.validated(rep)
		if x.holds(c, rep) {
			x.hold(c, rep)
			return nil
		}
		if rep.stream != nil {
			x.writeStream(c, rep)
			return nil
		}
		x.stop()
		x.write(c, rep)
		x.end(rep.status)
		return nil
	}
}

// begin copies what is needed of the request. Its context has no deadline yet.
func (s *Server) begin(c *fiber.Ctx, rt route) *exchange {
	s.running.add()
	x := &exchange{s: s, route: rt, began: time.Now(), conn: c.Context().Conn(), stop: func() {}}
	x.req = &request{
		id: requestID(c.Get("X-Request-Id")), contentType: strings.Clone(c.Get(fiber.HeaderContentType)),
		accept: strings.Clone(c.Get(fiber.HeaderAccept)), shape: strings.Clone(c.Get("X-Tensor-Shape")), client: s.clientOf(c),
		freshness: strings.Clone(c.Get(fiber.HeaderCacheControl)), known: strings.Clone(c.Get(fiber.HeaderIfNoneMatch)),
	}
	if name := s.guard.SessionCookie(); name != "" {
		x.req.sessionCookie, x.req.loginCookie = strings.Clone(c.Cookies(name)), strings.Clone(c.Cookies(s.guard.LoginCookie()))
	}
	x.around = s.around(c)
	if rt.once {
		x.key = strings.Clone(c.Get(onceHeader))
	}
	if rt.path == socketPath || rt.path == topicsPath {
		x.req.handshake = s.handshakeOf(c)
	}
	x.trace = s.tracer.Begin(tracing.ParseParent(c.Get("traceparent"), c.Get("tracestate")), rt.name(), rt.work, x.began)
	x.ctx, x.cancel = context.WithCancelCause(tracing.With(s.base, x.trace))
	return x
}

// answer checks what is the same for all routes and runs the handler. A panic ends this request alone.
func (x *exchange) answer(c *fiber.Ctx) (rep *reply, err error) {
	defer func() {
		if v := recover(); v != nil {
			rep, err = nil, fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	s := x.s
	if err := x.checkHost(); err != nil {
		return nil, err
	}
	if err := x.authorise(c); err != nil {
		return nil, err
	}
	if x.route.work {
		if err := x.admit(c.Get("Pimoe-Priority"), c.Request().Header.ContentLength()); err != nil {
			return nil, err
		}
	}
	if x.req.query, err = url.ParseQuery(string(c.Context().URI().QueryString())); err != nil {
		return nil, &fault{status: http.StatusBadRequest, code: "malformed_query", message: "the query string is malformed"}
	}
	if x.route.method == http.MethodPost {
		if err := x.readBody(c); err != nil {
			return nil, err
		}
	}
	if x.route.work {
		if s.drain.Load() {
			return nil, errStopping
		}
		if x.req.take, err = acceptOf(c.Get("Pimoe-Accept")); err != nil {
			return nil, err
		}
		if err := x.limit(c.Get("X-Request-Timeout")); err != nil {
			return nil, err
		}
	}
	return x.shown(x.once(c, x.changing))
}

// readBody copies the body of a known type. A compressed one is refused: it may unpack to a thousand times its size.
func (x *exchange) readBody(c *fiber.Ctx) error {
	unsupported := func(code, message string) error {
		return &fault{status: http.StatusUnsupportedMediaType, code: code, message: message}
	}
	if enc := c.Get(fiber.HeaderContentEncoding); enc != "" && !strings.EqualFold(enc, "identity") {
		return unsupported("unsupported_encoding", "compressed bodies are not taken: send the body without Content-Encoding")
	}
	if x.route.bare && x.req.contentType == "" && len(c.Context().Request.Body()) == 0 {
		return nil
	}
	kind, params, _ := strings.Cut(x.req.contentType, ";")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if kind != mimeJSON && (kind != mimeBytes || !x.route.bytes) && (kind != "" || !x.route.untyped) {
		return unsupported("unsupported_media_type", "send the body as Content-Type: application/json")
	}
	if _, charset, ok := strings.Cut(strings.ToLower(params), "charset="); ok && strings.Trim(charset, `" `) != "utf-8" {
		return unsupported("unsupported_charset", "send the body as UTF-8")
	}
	x.req.contentType = kind
	var err error
	x.req.body, err = takeBody(c)
	return err
}

// limit gives the request its deadline, X-Request-Timeout within the configured one, and watches its socket.
func (x *exchange) limit(header string) error {
	timeout := x.s.now.Load().Limits.RequestTimeout
	if header != "" {
		wanted, err := parseTimeout(header)
		if err != nil {
			return err
		}
		timeout = min(timeout, wanted)
	}
	ctx, release := context.WithTimeout(x.ctx, timeout)
	if x.repeatable() { // its client may come back for the answer
		x.ctx, x.stop = ctx, release
		return nil
	}
	unwatch := watch(ctx, x.conn, x.s.limits.watch, x.cancel)
	x.ctx, x.stop = ctx, func() { unwatch(); release() }
	return nil
}

// parseTimeout reads seconds ("2.5") or a duration ("2500ms").
func parseTimeout(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		var seconds float64
		if seconds, err = strconv.ParseFloat(text, 64); err == nil {
			d = time.Duration(min(seconds, 1e6) * float64(time.Second))
		}
	}
	if err != nil || d <= 0 {
		return 0, &fault{status: http.StatusBadRequest, code: "invalid_header", message: "X-Request-Timeout: expected seconds above 0 or a duration such as 2500ms", param: "X-Request-Timeout"}
	}
	return d, nil
}

// refuse logs an error that its client can't be told and turns it into an answer.
func (x *exchange) refuse(err error) *reply {
	f := x.refusal(err)
	sh := x.route.shape
	if x.route.path == processPath && sh == problemShape {
		return f.processReply(x.req.id)
	}
	return f.reply(sh, x.req.id)
}

// refusal is what the client may know of an error; the log has the rest.
func (x *exchange) refusal(err error) *fault {
	if cause := context.Cause(x.ctx); cause != nil && errors.Is(err, context.Canceled) {
		err = errors.Join(cause, err)
	}
	f := x.s.faultOf(err)
	x.code = f.code
	if faultOfAccess(err) != nil {
		x.s.meters.refused(f.code)
		x.log().Warn("access refused", "request", x.req.id, "route", x.route.name(), "code", f.code, "error", err.Error())
	} else if f.status >= http.StatusInternalServerError {
		level := slog.LevelWarn
		if faultOfOverload(err) != nil {
			level = slog.LevelDebug // there may be thousands a second, and each has its line of a request
		}
		if f.status == http.StatusInternalServerError {
			level = slog.LevelError
		}
		x.log().Log(context.Background(), level, "request failed", "request", x.req.id, "route", x.route.path, "code", f.code, "error", err.Error())
	}
	return f
}

// write sends a reply without a stream.
func (x *exchange) write(c *fiber.Ctx, rep *reply) {
	x.pack(c.Get(fiber.HeaderAcceptEncoding), rep)
	x.head(c, rep)
	c.Context().Response.SetBodyRaw(rep.body)
	x.writeDeadline(x.s.limits.write)
}

// head sets status and headers.
func (x *exchange) head(c *fiber.Ctx, rep *reply) {
	h := &c.Context().Response.Header
	h.SetStatusCode(rep.status)
	h.SetContentType(rep.contentType)
	h.Set("X-Request-Id", x.req.id)
	if id := x.trace.Traceparent(); id != "" {
		h.Set("Traceparent", id)
	}
	for k, v := range safety {
		h.Set(k, v)
	}
	for k, v := range rep.header {
		h.Set(k, v)
	}
	x.around.headers(h)
	x.limitHeaders(h.Set)
	for _, v := range rep.cookies {
		h.Add(fiber.HeaderSetCookie, v)
	}
	if x.s.drain.Load() || x.s.leaving.Load() {
		h.SetConnectionClose()
	}
}

// safety are headers of every answer; HSTS comes with TLS.
var safety = map[string]string{
	"X-Content-Type-Options":       "nosniff",
	"X-Frame-Options":              "DENY",
	"Referrer-Policy":              "no-referrer",
	"Content-Security-Policy":      "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
	"Permissions-Policy":           "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
	"Cross-Origin-Opener-Policy":   "same-origin",
	"Cross-Origin-Resource-Policy": "same-origin",
	"Cache-Control":                "no-store",
}

// writeStream hands the connection to the reply's stream. It runs on a goroutine of its own, after this handler has
// returned, and touches nothing of Fiber.
func (x *exchange) writeStream(c *fiber.Ctx, rep *reply) {
	x.head(c, rep)
	c.Context().Response.Header.Set("X-Accel-Buffering", "no")
	c.Context().SetBodyStreamWriter(func(w *bufio.Writer) {
		x.ended(rep.status, x.runStream(rep, &events{w: w, before: func() { x.writeDeadline(x.s.limits.event) }}))
	})
}

// ended ends a request with a stream; err is what the stream has ended with.
func (x *exchange) ended(status int, err error) {
	x.stop()
	if err != nil {
		status = x.refuse(err).status
		if errors.Is(context.Cause(x.ctx), errGone) {
			status = statusGone
		}
	}
	x.end(status)
}

// runStream writes the events, and at an error one more that says so.
func (x *exchange) runStream(rep *reply, w *events) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
		if err != nil && w.err == nil {
			if cause := context.Cause(x.ctx); cause != nil && errors.Is(err, context.Canceled) {
				err = errors.Join(cause, err)
			}
			if f := x.s.faultOf(err); rep.fail != nil {
				rep.fail(w, f)
			} else if x.route.shape == oipShape {
				w.data(f.oip(x.req.id))
			} else {
				w.data(f.openai(x.req.id).Body())
				w.done()
			}
		}
	}()
	err = rep.stream(x.ctx, w)
	if w.err != nil {
		x.cancel(errGone)
		err = errGone
	}
	return err
}

// writeDeadline bounds the next write: a client that does not read is cut off.
func (x *exchange) writeDeadline(d time.Duration) {
	if x.conn != nil {
		_ = x.conn.SetWriteDeadline(time.Now().Add(d)) // fails only on a closed connection, where the write fails too
	}
}

// end counts and logs the request. Prompts and paths never get into the log.
func (x *exchange) end(status int) {
	x.cancel(nil)
	x.settle()
	took := time.Since(x.began)
	x.countQuality()
	x.s.meters.request(x.route.name(), status, took)
	p := x.req.principal
	x.s.tenants.count(p.Tenant, x.req.tokens.prompt, x.req.tokens.completion)
	x.s.users.saw(p)
	if status < http.StatusBadRequest {
		x.s.used(x.req, x.route)
	}
	x.trace.End(tracing.End{
		ID: x.req.id, Method: x.route.method, Route: x.route.path, Tenant: p.Tenant, Status: status, Code: x.code,
		Prompt: x.req.tokens.prompt, Completion: x.req.tokens.completion, Took: took,
	})
	x.log().Info("request", "request", x.req.id, "route", x.route.name(), "status", status, "seconds", took.Seconds(),
		"prompt_tokens", x.req.tokens.prompt, "completion_tokens", x.req.tokens.completion, "quality", x.req.quality, "cache", x.req.cached,
		"principal", p.ID, "tenant", p.Tenant)
	x.s.running.done()
}

// log is the server's, with the name of the request's trace if it has one.
func (x *exchange) log() *slog.Logger {
	if id := x.trace.TraceID(); id != "" {
		return x.s.log.With("trace", id)
	}
	return x.s.log
}

// requestID takes a client's id if it is harmless in logs and headers, else it makes one.
func requestID(given string) string {
	if harmless.MatchString(given) {
		return strings.Clone(given)
	}
	return uuid.NewString()
}

var harmless = regexp.MustCompile(`^[A-Za-z0-9._:/-]{1,128}$`)
