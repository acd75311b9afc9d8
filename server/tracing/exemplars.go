package tracing

import (
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/openmetrics"
)

// mostSeries bounds the histograms that have exemplars: as many as there are routes, several times over.
const mostSeries = 512

// Exemplars are the last followed request of each bucket of latency histograms with the bounds metrics.Seconds. The library
// that counts has none.
type Exemplars struct {
	now func() time.Time
	mu  sync.Mutex // guards all below
	by  map[string][]openmetrics.Exemplar
}

// NewExemplars has none.
func NewExemplars(now func() time.Time) *Exemplars {
	return &Exemplars{now: now, by: map[string][]openmetrics.Exemplar{}}
}

// Note makes a followed request the exemplar of the bucket that its value is in.
func (e *Exemplars) Note(name string, value float64, traceID string, labels ...string) {
	key := openmetrics.Series(name, labels...)
	e.mu.Lock()
	defer e.mu.Unlock()
	buckets := e.by[key]
	if buckets == nil {
		if len(e.by) == mostSeries {
			return
		}
		buckets = make([]openmetrics.Exemplar, len(metrics.Seconds)+1)
		e.by[key] = buckets
	}
	at, _ := slices.BinarySearch(metrics.Seconds, value) // a bound belongs to its bucket
	buckets[at] = openmetrics.Exemplar{TraceID: traceID, Value: value, Time: e.now()}
}

// Of is the exemplar of the bucket with the upper bound le of a histogram; infinite for the last one.
func (e *Exemplars) Of(series string, le float64) (openmetrics.Exemplar, bool) {
	at, exact := slices.BinarySearch(metrics.Seconds, le)
	if !exact && at < len(metrics.Seconds) {
		return openmetrics.Exemplar{}, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	buckets := e.by[series]
	if buckets == nil || buckets[at].TraceID == "" {
		return openmetrics.Exemplar{}, false
	}
	return buckets[at], true
}
