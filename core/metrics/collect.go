package metrics

import "io"

// Collect adds series that someone else keeps: at each Write f prints them as Prometheus text, without HELP and TYPE. It must
// not block. They don't count against the registry's bound, so f must have one of its own.
func (r *Registry) Collect(f func(w io.Writer)) { r.set.RegisterMetricsWriter(f) }

// Series is a series' name with label pairs, as Prometheus text has it.
func Series(name string, labels ...string) string { return series(name, labels) }
