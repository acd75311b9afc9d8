// Package tracing follows some requests by OpenTelemetry: from HTTP through the queue, prefill and decode, into the layers of
// some steps, each call on a process and the plugin's own time, and sends the spans by OTLP to a collector. It takes
// over what a client says in traceparent and tracestate, and makes the exemplars of latency histograms.
//
// server uses it: New, then Begin for each request and Close. Nothing of a request's text, tokens or experts' numbers
// gets into a span, but the names of expert groups do, and where each expert is a process of its own they tell of the text:
// whoever reads the collector reads that. The package refuses to wait for a collector: what it does not take in time is
// dropped and counted. It never reads baggage.
package tracing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc/credentials"

	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
)

// Options are what a Tracer is made of.
type Options struct {
	Version string // of the service
	Model   string // its id
	Metrics *metrics.Registry
	Log     *slog.Logger
	Now     func() time.Time // nil = time.Now
}

// Tracer follows requests. Its methods are safe for concurrent use.
type Tracer struct {
	rates     atomic.Pointer[config.Tracing]
	queue     *queue // nil = nothing is followed
	now       func() time.Time
	allowance allowance
	followed  *metrics.Counter
	refused   *metrics.Counter
	exemplars *Exemplars
}

// New makes a Tracer. Without an endpoint it follows nothing and costs nothing; it still takes the ids that clients send.
func New(cfg config.Tracing, o Options) (*Tracer, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	t := &Tracer{now: o.Now, exemplars: NewExemplars(o.Now)}
	t.Apply(cfg)
	if cfg.Endpoint == "" {
		return t, nil
	}
	collector, err := collectorOf(cfg)
	if err == nil {
		err = collector.Start(context.Background()) // it does not connect yet
	}
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	quiet.Do(func() { otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {})) })
	t.followed = o.Metrics.Counter("pimoe_trace_requests_total", "outcome", "followed")
	t.refused = o.Metrics.Counter("pimoe_trace_requests_total", "outcome", "over_limit")
	t.queue = newQueue(collector, o)
	return t, nil
}

// quiet keeps OpenTelemetry from writing to standard error on its own: the queue counts what goes wrong, and logs it.
var quiet sync.Once

// exportWithin bounds one export: a collector near by takes milliseconds.
const exportWithin = 5 * time.Second

// collector is the client of one. Start comes first; Stop ends what is under way.
type collector interface {
	Start(context.Context) error
	UploadTraces(context.Context, []*otlp.ResourceSpans) error
	Stop(context.Context) error
}

// collectorOf makes the client of the configured one.
func collectorOf(cfg config.Tracing) (collector, error) {
	c, err := config.ParseCollector(cfg.Endpoint)
	if err != nil {
		return nil, err
	}
	headers, err := config.ParseHeaders(cfg.Headers)
	if err != nil {
		return nil, err
	}
	var secured *tls.Config
	if c.TLS {
		if secured, err = tlsOf(cfg.CAFile); err != nil {
			return nil, err
		}
	}
	// What fails is dropped by the queue, which also waits before the next try.
	if c.GRPC {
		o := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpoint(c.Addr), otlptracegrpc.WithHeaders(headers), otlptracegrpc.WithTimeout(exportWithin),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: false}),
		}
		if secured == nil {
			o = append(o, otlptracegrpc.WithInsecure())
		} else {
			o = append(o, otlptracegrpc.WithTLSCredentials(credentials.NewTLS(secured)))
		}
		return otlptracegrpc.NewClient(o...), nil
	}
	o := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(c.URL), otlptracehttp.WithHeaders(headers), otlptracehttp.WithTimeout(exportWithin),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}), otlptracehttp.WithCompression(otlptracehttp.GzipCompression),
	}
	if secured != nil {
		o = append(o, otlptracehttp.WithTLSClientConfig(secured))
	}
	return otlptracehttp.NewClient(o...), nil
}

func tlsOf(caFile string) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile == "" {
		return c, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("tracing.ca_file: %w", err)
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tracing.ca_file %s: no certificate in it: %w", caFile, sdk.ErrInvalid)
	}
	return c, nil
}

// Apply changes what is followed. The collector stays.
func (t *Tracer) Apply(cfg config.Tracing) { t.rates.Store(&cfg) }

// On reports whether requests may be followed.
func (t *Tracer) On() bool { return t.queue != nil }

// Exemplars are of the requests that were followed.
func (t *Tracer) Exemplars() *Exemplars { return t.exemplars }

// Close sends what is left, until ctx ends.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil || t.queue == nil {
		return nil
	}
	return t.queue.close(ctx)
}

// decide reports whether a request is followed. asked says that its client wants it.
func (t *Tracer) decide(asked bool) bool {
	r := t.rates.Load()
	if !(asked && r.Clients == "follow") && rand.Float64() >= r.SampleRatio {
		return false
	}
	if !t.allowance.take(t.now(), r.MaxPerSecond) {
		t.refused.Inc()
		return false
	}
	t.followed.Inc()
	return true
}

// allowance is how many requests may still be followed in this second.
type allowance struct {
	mu     sync.Mutex // guards all below
	second int64
	taken  int
}

func (a *allowance) take(now time.Time, most int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := now.Unix(); s != a.second {
		a.second, a.taken = s, 0
	}
	if a.taken >= most {
		return false
	}
	a.taken++
	return true
}
