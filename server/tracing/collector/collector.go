// Package collector is a receiver of spans for tests: OTLP over HTTP and over gRPC, on loopback, that keeps what it gets. It
// can be told to fail, and not to answer.
//
// The tests of server/tracing, server and server/acceptance use it. It refuses to be a collector: it keeps everything.
package collector

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	collect "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Span is a span that has come in.
type Span struct {
	Name, Trace, ID, Parent, State string
	Kind                           string // internal, server or client
	Failed                         bool
	Attributes                     map[string]string
	Links                          []string // ids of spans
	Begin, End                     time.Time
}

// Collector keeps spans.
type Collector struct {
	HTTP, GRPC string // endpoints, as tracing.endpoint takes them

	collect.UnimplementedTraceServiceServer
	mu      sync.Mutex // guards all below
	spans   []Span
	service string
	headers map[string]string // of the last export
	exports int
	broken  bool
}

// Start runs a collector until the test ends.
func Start(t testing.TB) *Collector {
	t.Helper()
	c := &Collector{}
	web := httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(web.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	rpc := grpc.NewServer()
	collect.RegisterTraceServiceServer(rpc, c)
	done := make(chan error, 1)
	go func() { done <- rpc.Serve(ln) }()
	t.Cleanup(func() { rpc.Stop(); <-done })
	c.HTTP, c.GRPC = web.URL, "grpc://"+ln.Addr().String()
	return c
}

// serve takes OTLP over HTTP.
func (c *Collector) serve(w http.ResponseWriter, r *http.Request) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = z
	}
	var req collect.ExportTraceServiceRequest
	b, err := io.ReadAll(body)
	if err == nil {
		err = proto.Unmarshal(b, &req)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, fmt.Sprint("no export: ", err), http.StatusBadRequest)
		return
	}
	if !c.take(&req, func(name string) string { return r.Header.Get(name) }) {
		http.Error(w, "broken", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf") // an empty answer is a whole one
}

// Export takes OTLP over gRPC.
func (c *Collector) Export(ctx context.Context, req *collect.ExportTraceServiceRequest) (*collect.ExportTraceServiceResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(name string) string {
		if v := md.Get(name); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	if !c.take(req, first) {
		return nil, status.Error(codes.InvalidArgument, "broken")
	}
	return &collect.ExportTraceServiceResponse{}, nil
}

func (c *Collector) take(req *collect.ExportTraceServiceRequest, header func(string) string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.exports++
	c.headers = map[string]string{"authorization": header("authorization"), "x-scope": header("x-scope")}
	if c.broken {
		return false
	}
	for _, rs := range req.GetResourceSpans() {
		c.service = attributes(rs.GetResource().GetAttributes())["service.name"]
		for _, ss := range rs.GetScopeSpans() {
			for _, s := range ss.GetSpans() {
				c.spans = append(c.spans, spanOf(s))
			}
		}
	}
	return true
}

func spanOf(s *otlp.Span) Span {
	out := Span{
		Name: s.GetName(), Trace: hex.EncodeToString(s.GetTraceId()), ID: hex.EncodeToString(s.GetSpanId()), Parent: hex.EncodeToString(s.GetParentSpanId()),
		State: s.GetTraceState(), Attributes: attributes(s.GetAttributes()), Failed: s.GetStatus().GetCode() == otlp.Status_STATUS_CODE_ERROR,
		Begin: time.Unix(0, int64(s.GetStartTimeUnixNano())), End: time.Unix(0, int64(s.GetEndTimeUnixNano())),
		Kind: map[otlp.Span_SpanKind]string{otlp.Span_SPAN_KIND_INTERNAL: "internal", otlp.Span_SPAN_KIND_SERVER: "server", otlp.Span_SPAN_KIND_CLIENT: "client"}[s.GetKind()],
	}
	for _, l := range s.GetLinks() {
		out.Links = append(out.Links, hex.EncodeToString(l.GetSpanId()))
	}
	return out
}

func attributes(list []*common.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range list {
		switch v := kv.GetValue().GetValue().(type) {
		case *common.AnyValue_StringValue:
			out[kv.GetKey()] = v.StringValue
		case *common.AnyValue_IntValue:
			out[kv.GetKey()] = fmt.Sprint(v.IntValue)
		case *common.AnyValue_BoolValue:
			out[kv.GetKey()] = fmt.Sprint(v.BoolValue)
		default:
			out[kv.GetKey()] = fmt.Sprint(v)
		}
	}
	return out
}

// Break has all exports refused, or taken again.
func (c *Collector) Break(broken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = broken
}

// Spans are those that have come.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Last is the service's name, a header of the last export, and how many exports there were.
func (c *Collector) Last(header string) (service, value string, exports int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.service, c.headers[header], c.exports
}

// Await is the spans as soon as enough reports that they are all there.
func (c *Collector) Await(t testing.TB, what string, enough func([]Span) bool) []Span {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		spans := c.Spans()
		if enough(spans) {
			return spans
		}
		if time.Now().After(until) {
			t.Fatalf("no %s among %d spans: %+v", what, len(spans), spans)
		}
	}
}
