// Package catalogue lists every metric that /metrics may print: its type, unit, labels and what it says. /metrics takes
// HELP and TYPE from it, docs/metrics.md is made from it, and whoever writes a query (alerts, dashboards, autoscalers) can
// hold it against the list. Tests fail for a series that is not in it, and for an entry that no server prints.
//
// It is values and text. It counts nothing, and it refuses to know who does.
package catalogue

import (
	"slices"
	"strings"
)

// Type is a metric's type as Prometheus has it.
type Type string

// The types.
const (
	Counter   Type = "counter"
	Gauge     Type = "gauge"
	Histogram Type = "histogram"
	Summary   Type = "summary"
)

// Section says what a metric is about.
type Section string

// The sections, in the order in which they are documented.
const (
	System      Section = "The machine"
	Process     Section = "Processes"
	Application Section = "Requests and answers"
	Engine      Section = "The engine"
	Business    Section = "Tenants and users"
	Experts     Section = "Experts"
	Router      Section = "The router"
	State       Section = "Kept answers, jobs and shared state"
	Host        Section = "The host"
)

// Sections are all of them.
var Sections = []Section{System, Process, Application, Engine, Business, Experts, Router, State, Host}

// Metric is one entry.
type Metric struct {
	Name    string
	Type    Type
	Unit    string // "seconds", "bytes", "ratio" (0 to 1), "joules", or what is counted
	Help    string // one sentence without a full stop
	Labels  []string
	Section Section
	// When says what must be so for a server to print it at all, such as a setting; empty = every server that has had a
	// request prints it.
	When string
}

// All are all entries, by section and then as listed.
func All() []Metric { return slices.Clone(entries) }

// Lookup is the entry of a metric's name.
func Lookup(name string) (Metric, bool) {
	m, ok := byName[name]
	return m, ok
}

// Of is the entry that a series belongs to: the name in a line of /metrics, or in a query, may have the suffix of a part of a
// histogram or a summary.
func Of(series string) (Metric, bool) {
	if m, ok := byName[series]; ok {
		return m, true
	}
	for _, suffix := range [...]string{"_bucket", "_sum", "_count"} {
		if name, ok := strings.CutSuffix(series, suffix); ok {
			m, known := byName[name]
			if known && (m.Type == Histogram || m.Type == Summary && suffix != "_bucket") {
				return m, true
			}
		}
	}
	return Metric{}, false
}

// Has reports whether series of the metric have a label. Every part of a histogram has le, every one of a summary quantile.
func (m Metric) Has(label string) bool {
	return slices.Contains(m.Labels, label) || m.Type == Histogram && label == "le" || m.Type == Summary && label == "quantile"
}

var byName = func() map[string]Metric {
	out := make(map[string]Metric, len(entries))
	for _, m := range entries {
		if _, twice := out[m.Name]; twice {
			panic("catalogue: two entries of one name")
		}
		out[m.Name] = m
	}
	return out
}()
