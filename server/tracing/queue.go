package tracing

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
)

const (
	// queued is how many spans wait for their export: those of a few followed requests with all their layers, some 2 MB.
	queued = 8192
	// batch is how many go in one export, and gather how long the first of them waits for the others.
	batch  = 512
	gather = time.Second
	// A collector that fails is asked again after a second, then less and less often.
	leastPause, mostPause = time.Second, 30 * time.Second
)

// queue is what a record goes through when it has ended: it never waits. One goroutine makes OTLP of them and exports it;
// while the collector is gone what does not fit is dropped, and counted.
type queue struct {
	to      collector
	source  source
	records chan record
	waiting atomic.Int64  // spans in records
	closing chan struct{} // closed by close
	done    chan struct{} // closed when the goroutine is gone
	ending  context.Context
	cancel  context.CancelFunc // of exports
	log     *slog.Logger
	pause   time.Duration // 0 = the last export went well

	exported, full, failed *metrics.Counter
}

func newQueue(to collector, o Options) *queue {
	q := &queue{
		to: to, source: newSource(o), records: make(chan record, queued), closing: make(chan struct{}), done: make(chan struct{}), log: o.Log,
		exported: o.Metrics.Counter("pimoe_trace_spans_exported_total"),
		full:     o.Metrics.Counter("pimoe_trace_spans_dropped_total", "reason", "queue_full"),
		failed:   o.Metrics.Counter("pimoe_trace_spans_dropped_total", "reason", "export_failed"),
	}
	o.Metrics.Gauge("pimoe_trace_spans_queued", func() float64 { return float64(q.waiting.Load()) })
	q.ending, q.cancel = context.WithCancel(context.Background())
	go q.run()
	return q
}

// put takes a record, or drops it. There are never more records than spans, so the channel has room.
func (q *queue) put(r record) {
	n := int64(r.spans())
	if q.waiting.Add(n) > queued {
		q.waiting.Add(-n)
		q.full.Add(int(n))
		return
	}
	q.records <- r
}

// close exports what is queued, until ctx ends. It is called once; what is put later is lost.
func (q *queue) close(ctx context.Context) error {
	close(q.closing)
	select {
	case <-q.done:
	case <-ctx.Done():
		q.cancel()
		<-q.done
	}
	q.cancel()
	return q.to.Stop(ctx)
}

// run exports until the queue is closed and empty, or its time is up.
func (q *queue) run() {
	defer close(q.done)
	for {
		b, more := q.next()
		if b.spans > 0 {
			q.export(b)
		}
		if !more {
			return
		}
	}
}

// bundle is what goes in one export.
type bundle struct {
	records []record
	spans   int
}

func (q *queue) add(b *bundle, r record) {
	n := r.spans()
	q.waiting.Add(int64(-n))
	b.records, b.spans = append(b.records, r), b.spans+n
}

// next gathers a bundle. more is false with the last one.
func (q *queue) next() (b bundle, more bool) {
	if q.pause > 0 {
		select {
		case <-time.After(q.pause):
		case <-q.closing:
		}
	}
	select {
	case r := <-q.records:
		q.add(&b, r)
	case <-q.closing:
		return q.rest()
	}
	ready := time.NewTimer(gather)
	defer ready.Stop()
	for b.spans < batch {
		select {
		case r := <-q.records:
			q.add(&b, r)
		case <-ready.C:
			return b, true
		case <-q.closing:
			return b, true
		}
	}
	return b, true
}

// rest is a bundle of what is left.
func (q *queue) rest() (b bundle, more bool) {
	for b.spans < batch {
		select {
		case r := <-q.records:
			q.add(&b, r)
		default:
			return b, false
		}
	}
	return b, q.ending.Err() == nil
}

func (q *queue) export(b bundle) {
	ctx, cancel := context.WithTimeout(q.ending, exportWithin)
	defer cancel()
	if err := q.to.UploadTraces(ctx, q.source.of(b)); err != nil {
		q.failed.Add(b.spans)
		if q.pause == 0 {
			q.log.Warn("the collector does not take spans; they are dropped until it does", "spans", b.spans, "error", err.Error())
		}
		q.pause = min(max(2*q.pause, leastPause), mostPause)
		return
	}
	if q.pause > 0 {
		q.log.Info("the collector takes spans again")
	}
	q.pause = 0
	q.exported.Add(b.spans)
}
