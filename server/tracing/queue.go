package tracing

import (
	"context"
	"log/slog"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/pimoe/pimoe/core/metrics"
)

const (
	// queued is how many spans wait for their export: those of a few followed requests with all their layers, some 8 MB.
	queued = 8192
	// batch is how many go in one export, and gather how long the first of them waits for the others.
	batch  = 512
	gather = time.Second
	// A collector that fails is asked again after a second, then less and less often.
	leastPause, mostPause = time.Second, 30 * time.Second
)

// queue is what a span goes through when it has ended: it never waits. One goroutine exports; while the collector is
// gone what does not fit is dropped, and counted. OpenTelemetry's own batcher would do the same but for the count.
type queue struct {
	exporter sdktrace.SpanExporter
	spans    chan sdktrace.ReadOnlySpan
	closing  chan struct{} // closed by Shutdown
	done     chan struct{} // closed when the goroutine is gone
	end      context.Context
	cancel   context.CancelFunc // of exports
	log      *slog.Logger
	pause    time.Duration // 0 = the last export went well

	exported, full, failed *metrics.Counter
}

func newQueue(e sdktrace.SpanExporter, o Options) *queue {
	q := &queue{
		exporter: e, spans: make(chan sdktrace.ReadOnlySpan, queued), closing: make(chan struct{}), done: make(chan struct{}), log: o.Log,
		exported: o.Metrics.Counter("pimoe_trace_spans_exported_total"),
		full:     o.Metrics.Counter("pimoe_trace_spans_dropped_total", "reason", "queue_full"),
		failed:   o.Metrics.Counter("pimoe_trace_spans_dropped_total", "reason", "export_failed"),
	}
	o.Metrics.Gauge("pimoe_trace_spans_queued", func() float64 { return float64(len(q.spans)) })
	q.end, q.cancel = context.WithCancel(context.Background())
	go q.run()
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (q *queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	select {
	case q.spans <- s:
	default:
		q.full.Inc()
	}
}

// ForceFlush implements sdktrace.SpanProcessor: whoever wants it waits for the next export.
func (q *queue) ForceFlush(context.Context) error { return nil }

// Shutdown implements sdktrace.SpanProcessor: what is queued is exported, until ctx ends. It is called once.
func (q *queue) Shutdown(ctx context.Context) error {
	close(q.closing)
	select {
	case <-q.done:
	case <-ctx.Done():
		q.cancel()
		<-q.done
	}
	q.cancel()
	return q.exporter.Shutdown(ctx)
}

// run exports until the queue is closed and empty, or its time is up.
func (q *queue) run() {
	defer close(q.done)
	for {
		spans, more := q.next()
		if len(spans) > 0 {
			q.export(spans)
		}
		if !more {
			return
		}
	}
}

// next gathers a batch. more is false with the last one.
func (q *queue) next() (spans []sdktrace.ReadOnlySpan, more bool) {
	if q.pause > 0 {
		select {
		case <-time.After(q.pause):
		case <-q.closing:
		}
	}
	select {
	case s := <-q.spans:
		spans = append(spans, s)
	case <-q.closing:
		return q.rest()
	}
	ready := time.NewTimer(gather)
	defer ready.Stop()
	for len(spans) < batch {
		select {
		case s := <-q.spans:
			spans = append(spans, s)
		case <-ready.C:
			return spans, true
		case <-q.closing:
			return spans, true
		}
	}
	return spans, true
}

// rest is a batch of what is left.
func (q *queue) rest() (spans []sdktrace.ReadOnlySpan, more bool) {
	for len(spans) < batch {
		select {
		case s := <-q.spans:
			spans = append(spans, s)
		default:
			return spans, false
		}
	}
	return spans, q.end.Err() == nil
}

func (q *queue) export(spans []sdktrace.ReadOnlySpan) {
	ctx, cancel := context.WithTimeout(q.end, exportWithin)
	defer cancel()
	if err := q.exporter.ExportSpans(ctx, spans); err != nil {
		q.failed.Add(len(spans))
		if q.pause == 0 {
			q.log.Warn("the collector does not take spans; they are dropped until it does", "spans", len(spans), "error", err.Error())
		}
		q.pause = min(max(2*q.pause, leastPause), mostPause)
		return
	}
	if q.pause > 0 {
		q.log.Info("the collector takes spans again")
	}
	q.pause = 0
	q.exported.Add(len(spans))
}

var _ sdktrace.SpanProcessor = (*queue)(nil)
