// Package metrics counts what the host does, in a set of VictoriaMetrics/metrics that is printed as Prometheus text.
// It adds to that library labels as pairs, with escaping, and a bound on the number of series, so that no input from
// outside can grow memory.
//
// core/engine, core/host and server use it. It refuses to serve HTTP and to keep history.
package metrics

import (
	"io"
	"strings"
	"sync"
	"sync/atomic"

	vm "github.com/VictoriaMetrics/metrics"
)

// Counter, Gauge and Histogram are the library's types; a histogram has `le` buckets.
type (
	Counter   = vm.Counter
	Gauge     = vm.Gauge
	Histogram = vm.PrometheusHistogram
)

// maxSeries bounds a registry. A model with 64 processes needs about 64 x 10 series; ten times that is a bug.
const maxSeries = 10_000

// Seconds are histogram buckets for latencies from a tenth of a millisecond to half a minute.
var Seconds = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Registry is a set of series. Its methods are safe for concurrent use; asking twice for the same name and labels
// gives the same series.
type Registry struct {
	set    *vm.Set
	known  sync.Map // names of the series
	series atomic.Int64
	drop   *vm.Counter
	// distributions are *Distribution by series.
	distributions sync.Map
}

// New makes an empty registry.
func New() *Registry {
	set := vm.NewSet()
	return &Registry{set: set, drop: set.NewCounter("pimoe_metrics_dropped_series_total")}
}

// Counter is the counter of a name and label pairs: Counter("pimoe_x_total", "code", "200").
func (r *Registry) Counter(name string, labels ...string) *Counter {
	name = series(name, labels)
	if !r.room(name) {
		return new(vm.Counter)
	}
	return r.set.GetOrCreateCounter(name)
}

// Gauge is a value that is set. With f not nil it is asked at each scrape; f must not block.
func (r *Registry) Gauge(name string, f func() float64, labels ...string) *Gauge {
	name = series(name, labels)
	if !r.room(name) {
		return new(vm.Gauge)
	}
	return r.set.GetOrCreateGauge(name, f)
}

// Histogram has upper bounds as buckets; nil means Seconds.
func (r *Registry) Histogram(name string, bounds []float64, labels ...string) *Histogram {
	h, _ := r.histogram(series(name, labels), bounds)
	return h
}

// histogram also says whether there was room for the series.
func (r *Registry) histogram(name string, bounds []float64) (h *Histogram, kept bool) {
	if bounds == nil {
		bounds = Seconds
	}
	if !r.room(name) {
		return vm.NewSet().NewPrometheusHistogramExt("dropped", bounds), false
	}
	return r.set.GetOrCreatePrometheusHistogramExt(name, bounds), true
}

// Write prints all series as Prometheus text.
func (r *Registry) Write(w io.Writer) { r.set.WritePrometheus(w) }

// room is false, and counts, for a series that is new when the registry is full.
func (r *Registry) room(name string) bool {
	if _, ok := r.known.Load(name); ok {
		return true
	}
	if r.series.Add(1) > maxSeries {
		r.series.Add(-1)
		r.drop.Inc()
		return false
	}
	if _, twice := r.known.LoadOrStore(name, struct{}{}); twice {
		r.series.Add(-1)
	}
	return true
}

// series is name{k="v",...}.
func series(name string, labels []string) string {
	if len(labels) == 0 {
		return name
	}
	return string(AppendSeries(nil, name, labels...))
}

// AppendSeries appends name{k="v",...} to b. An odd number of label strings is a programming error.
func AppendSeries(b []byte, name string, labels ...string) []byte {
	if len(labels)%2 != 0 {
		panic("metrics: labels come in pairs")
	}
	b = append(b, name...)
	if len(labels) == 0 {
		return b
	}
	for i := 0; i < len(labels); i += 2 {
		sep := byte(',')
		if i == 0 {
			sep = '{'
		}
		b = append(append(append(b, sep), labels[i]...), '=', '"')
		b = append(append(b, escaper.Replace(labels[i+1])...), '"')
	}
	return append(b, '}')
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
