package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pimoe/pimoe/server/access"
	"github.com/pimoe/pimoe/server/tracing"
)

const (
	grpcMethod = "GRPC" // of routes of the gRPC listener, in the table of rules, in metrics and in logs
	// grpcConnections are taken at most: each carries many requests. Where descriptors are few it is a quarter of them.
	grpcConnections = 256
	// grpcStreams are the requests at once on a connection: as many as limits.max_concurrent_requests by default.
	grpcStreams = 100
	// grpcHeader bounds a request's metadata, as 16 KiB bound an HTTP header.
	grpcHeader = 16 << 10
	// grpcMessage bounds a message: the largest tensor and what is around it.
	grpcMessage = tensorBody + 1<<20
)

// method is one row of the table of the gRPC listener. Every method is a stream to the library, which on the wire is the
// same: so each is authorised before its message is read, in one place.
type method struct {
	route
	take   func() proto.Message // a new request
	answer func(ctx context.Context, c *call, in proto.Message) error
	many   bool // requests come one after the other on a stream, until its client ends it
}

// call is one request of a method on its way through the edge.
type call struct {
	*exchange
	ss   grpc.ServerStream
	sent bool // a message has left
}

// beginCall is begin for a request of the gRPC listener.
func (s *Server) beginCall(ss grpc.ServerStream, m method) *call {
	s.running.add()
	md, _ := metadata.FromIncomingContext(ss.Context())
	x := &exchange{s: s, route: m.route, began: time.Now(), req: &request{id: requestID(first(md, "x-request-id"))}}
	x.trace = s.tracer.Begin(tracing.ParseParent(first(md, "traceparent"), first(md, "tracestate")), m.route.name(), m.route.work, x.began)
	x.ctx, x.cancel = context.WithCancelCause(tracing.With(s.base, x.trace))
	unwatch := context.AfterFunc(ss.Context(), func() { x.cancel(causeOf(ss.Context())) })
	x.stop = func() { unwatch() }
	return &call{exchange: x, ss: ss}
}

// causeOf is why a stream has ended before its request.
func causeOf(ctx context.Context) error {
	if err := ctx.Err(); !errors.Is(err, context.Canceled) {
		return err
	}
	return errGone
}

func first(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// serveCall handles a method with one request.
func (s *Server) serveCall(m method) grpc.StreamHandler {
	return func(_ any, ss grpc.ServerStream) error {
		c := s.beginCall(ss, m)
		_ = ss.SetHeader(c.identity()) // fails only behind the first message
		return c.finish(c.serve(m))
	}
}

// serve checks what is the same for all methods, reads the request and answers it. A panic ends this request alone.
func (c *call) serve(m method) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
		}
	}()
	if err := c.admit(m); err != nil {
		return err
	}
	in := m.take()
	if err := c.receive(in); err != nil {
		return err
	}
	return c.run(m, in)
}

// admit is the one check of every request that reaches a method. Without a credential nobody learns which methods exist.
func (c *call) admit(m method) error {
	if !m.rule.Open() || m.path == "" {
		if err := c.authoriseCall(); err != nil {
			return err
		}
	}
	if m.path == "" {
		return &fault{status: http.StatusNotImplemented, code: "method_not_found", message: "there is no such method"}
	}
	return nil
}

// authoriseCall is authorise with the credential of the metadata.
func (c *call) authoriseCall() error {
	md, _ := metadata.FromIncomingContext(c.ss.Context())
	p, err := c.s.principalOf(c.ctx, access.Credentials{Authorization: md.Get("authorization"), Method: http.MethodPost}, false)
	if err == nil && c.route.path != "" {
		err = c.route.rule.Allow(p)
	}
	c.req.principal = p
	c.ctx = access.With(c.ctx, p)
	return err
}

// receive reads one message.
func (c *call) receive(in proto.Message) error {
	err := c.s.rpc.within(c.s.limits.body, nil, func() error { return c.ss.RecvMsg(in) })
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errSlow):
		return &fault{status: http.StatusRequestTimeout, code: "request_timeout", message: "the request did not arrive in time"}
	case c.ss.Context().Err() != nil:
		return causeOf(c.ss.Context())
	case errors.Is(err, io.EOF):
		return &fault{status: http.StatusBadRequest, code: "malformed_request", message: "the request has no message"}
	case status.Code(err) == codes.ResourceExhausted:
		return &fault{status: http.StatusRequestEntityTooLarge, code: "body_too_large", message: "the message is larger than this method takes"}
	case status.Code(err) == codes.Unimplemented:
		return &fault{status: http.StatusUnsupportedMediaType, code: "unsupported_encoding", message: "compressed messages are not taken"}
	}
	return &fault{status: http.StatusBadRequest, code: "malformed_request", message: "the message is malformed"}
}

// run answers a request that was read, within its time.
func (c *call) run(m method, in proto.Message) error {
	if m.work {
		md, _ := metadata.FromIncomingContext(c.ss.Context())
		err := c.exchange.admit(first(md, "pimoe-priority"), proto.Size(in))
		if err != nil {
			return err
		}
		if c.req.take, err = acceptOf(first(md, "pimoe-accept")); err != nil {
			return err
		}
		unwatch := c.stop
		if err := c.limit(first(md, "x-request-timeout")); err != nil {
			return err
		}
		release := c.stop
		c.stop = func() { unwatch(); release() }
	}
	return m.answer(c.ctx, c, in)
}

// send writes one message; a client that does not read is cut off.
func (c *call) send(out proto.Message) error {
	err := c.s.rpc.within(c.s.limits.event, nil, func() error { return c.ss.SendMsg(out) })
	if err != nil {
		c.cancel(errGone)
		return errGone
	}
	c.sent = true
	return nil
}

// disclose sends what computed the answer as metadata, if no answer has left yet.
func (c *call) disclose(header map[string]string) {
	md := metadata.MD{}
	for k, v := range header {
		md.Set(k, v)
	}
	_ = c.ss.SetHeader(md) // fails only behind the first message
}

// finish ends the request and turns its error into a status.
func (c *call) finish(err error) error {
	c.stop()
	if err == nil {
		c.end(http.StatusOK)
		return nil
	}
	f := c.refusal(err)
	c.end(f.status)
	trailer := metadata.Pairs("pimoe-code", f.code)
	if f.retry {
		trailer.Set("retry-after", retryAfter(f.after))
	}
	c.ss.SetTrailer(trailer)
	return status.Error(f.grpc(), f.message)
}

// serveStream handles a method whose requests come one after the other. Each is an exchange of its own, and judged as such:
// a credential that ends while the stream is open ends with it. A request that is refused leaves the stream open.
func (s *Server) serveStream(m method) grpc.StreamHandler {
	return func(_ any, ss grpc.ServerStream) error {
		c := s.beginCall(ss, m)
		_ = ss.SetHeader(c.identity()) // fails only behind the first message
		if err := c.admit(m); err != nil {
			return c.finish(err)
		}
		c.dismiss()
		l := s.rpc.leases.take()
		defer l.end()
		for {
			in := m.take()
			l.work(false)
			err := s.rpc.within(0, l.over, func() error { return ss.RecvMsg(in) })
			l.work(true)
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case errors.Is(err, errStopping):
				return status.Error(codes.Unavailable, "the server is stopping")
			case err != nil:
				return err // the client has gone, or its message is too large or malformed: the library's words
			}
			if err := s.serveOne(ss, m, in); err != nil {
				return err
			}
		}
	}
}

// serveOne answers one request of a stream.
func (s *Server) serveOne(ss grpc.ServerStream, m method, in proto.Message) (err error) {
	c := s.beginCall(ss, m)
	err = func() (err error) {
		defer func() {
			if v := recover(); v != nil {
				err = fmt.Errorf("panic: %v\n%s", v, debug.Stack())
			}
		}()
		if err := c.admit(m); err != nil {
			return err
		}
		return c.run(m, in)
	}()
	if err == nil || faultOfAccess(err) != nil || ss.Context().Err() != nil {
		return c.finish(err)
	}
	c.stop()
	f := c.refusal(err)
	sent := c.send(streamError(in, f))
	c.end(f.status)
	return sent
}

// dismiss ends an exchange that was no request.
func (c *call) dismiss() {
	c.trace.End(tracing.End{ID: c.req.id, Method: c.route.method, Route: c.route.path, Tenant: c.req.principal.Tenant, Status: http.StatusOK, Took: time.Since(c.began)})
	c.stop()
	c.cancel(nil)
	c.s.running.done()
}

// codesOf is the table from HTTP to gRPC.
var codesOf = map[int]codes.Code{
	http.StatusBadRequest: codes.InvalidArgument, http.StatusUnprocessableEntity: codes.InvalidArgument, http.StatusUnsupportedMediaType: codes.Unimplemented,
	http.StatusUnauthorized: codes.Unauthenticated, http.StatusForbidden: codes.PermissionDenied, http.StatusNotFound: codes.NotFound,
	http.StatusRequestTimeout: codes.DeadlineExceeded, http.StatusRequestEntityTooLarge: codes.ResourceExhausted, http.StatusTooManyRequests: codes.ResourceExhausted,
	statusGone: codes.Canceled, http.StatusNotImplemented: codes.Unimplemented, http.StatusServiceUnavailable: codes.Unavailable, http.StatusGatewayTimeout: codes.DeadlineExceeded,
}

// grpc is the fault's code.
func (f *fault) grpc() codes.Code {
	if c, ok := codesOf[f.status]; ok {
		return c
	}
	return codes.Internal
}
