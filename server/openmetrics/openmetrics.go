// Package openmetrics writes Prometheus' text as OpenMetrics 1.0, which has exemplars: the name of a trace beside a bucket of
// a histogram. The library that counts knows neither types nor exemplars, so both are added here, from the names: _total is a
// counter, _bucket with le, _sum and _count are a histogram, all else is of unknown type.
//
// server uses it for scrapers that ask for it. The package refuses to count, and to change a value.
package openmetrics

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
)

// ContentType is what the text is sent as.
const ContentType = "application/openmetrics-text; version=1.0.0; charset=utf-8"

// Exemplar is a value that a bucket counts, and the trace that it comes from.
type Exemplar struct {
	TraceID string
	Value   float64
	Time    time.Time
}

// Wanted reports whether an Accept header asks for OpenMetrics.
func Wanted(accept string) bool { return strings.Contains(accept, "application/openmetrics-text") }

// Series is a series' name with label pairs, as Prometheus' text has it.
func Series(name string, labels ...string) string {
	if len(labels) == 0 {
		return name
	}
	pairs := make([]string, 0, len(labels)/2)
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, labels[i]+`="`+escaper.Replace(labels[i+1])+`"`)
	}
	return name + "{" + strings.Join(pairs, ",") + "}"
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// family is all samples of one metric.
type family struct {
	name, kind string
	lines      []string
}

// Write writes text. of is asked for the exemplar of a histogram's bucket by its series, without le, and its upper bound.
func Write(w io.Writer, text []byte, of func(series string, le float64) (Exemplar, bool)) error {
	var out bytes.Buffer
	for _, f := range families(text) {
		fmt.Fprintf(&out, "# TYPE %s %s\n", f.name, f.kind)
		for _, l := range f.lines {
			out.WriteString(l)
			if f.kind == "histogram" {
				out.WriteString(exemplarOf(l, of))
			}
			out.WriteByte('\n')
		}
	}
	out.WriteString("# EOF\n")
	_, err := w.Write(out.Bytes())
	return err
}

// families sorts lines to their metrics, each of which must be in one piece. Comments are dropped: types are found again.
func families(text []byte) []*family {
	by := map[string]*family{}
	var all []*family
	add := func(name, kind, line string) {
		f := by[name]
		if f == nil {
			f = &family{name: name, kind: kind}
			by[name] = f
			all = append(all, f)
		}
		f.lines = append(f.lines, line)
	}
	histograms, plain := map[string]bool{}, map[string]bool{}
	var lines []string
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(l); l == "" || l[0] == '#' {
			continue
		}
		l = tight(l)
		lines = append(lines, l)
		if base, ok := strings.CutSuffix(nameOf(l), "_bucket"); ok && strings.Contains(l, `le="`) {
			histograms[base] = true
		}
		plain[nameOf(l)] = true
	}
	for _, l := range lines {
		name := nameOf(l)
		base, of := name, ""
		for _, suffix := range []string{"_bucket", "_sum", "_count", "_total"} {
			if b, ok := strings.CutSuffix(name, suffix); ok {
				base, of = b, suffix
				break
			}
		}
		switch {
		case of != "" && of != "_total" && histograms[base]:
			add(base, "histogram", l)
		case of == "_total" && !plain[base]: // else there would be two metrics of one name
			add(base, "counter", l)
		default:
			add(name, "unknown", l)
		}
	}
	return all
}

// tight is a line without blanks between labels, which OpenMetrics does not have.
func tight(line string) string {
	from, to := strings.IndexByte(line, '{'), strings.LastIndexByte(line, '}')
	if from < 0 || to < from || !strings.Contains(line[from:to], ", ") {
		return line
	}
	var b strings.Builder
	quoted := false
	for i := from; i < to; i++ {
		switch c := line[i]; {
		case c == '\\' && quoted:
			b.WriteByte(c)
			i++
		case c == '"':
			quoted = !quoted
		case c == ' ' && !quoted:
			continue
		}
		b.WriteByte(line[i])
	}
	return line[:from] + b.String() + line[to:]
}

// nameOf is the metric's name in a line.
func nameOf(line string) string {
	if i := strings.IndexAny(line, "{ "); i >= 0 {
		return line[:i]
	}
	return line
}

// exemplarOf is what follows a bucket's line.
func exemplarOf(line string, of func(string, float64) (Exemplar, bool)) string {
	name, rest, ok := strings.Cut(line, "{")
	base, bucket := strings.CutSuffix(name, "_bucket")
	end := strings.LastIndexByte(rest, '}')
	if !ok || !bucket || end < 0 {
		return ""
	}
	labels, text := rest[:end], ""
	if i := strings.LastIndex(labels, `le="`); i >= 0 {
		text = strings.TrimSuffix(labels[i+len(`le="`):], `"`)
		labels = strings.TrimSuffix(labels[:i], ",")
	}
	le, err := strconv.ParseFloat(text, 64)
	if err != nil || math.IsNaN(le) {
		return ""
	}
	series := base
	if labels != "" {
		series += "{" + labels + "}"
	}
	x, ok := of(series, le)
	if !ok {
		return ""
	}
	return fmt.Sprintf(` # {trace_id="%s"} %s %.3f`, x.TraceID, strconv.FormatFloat(x.Value, 'g', -1, 64), float64(x.Time.UnixMilli())/1000)
}
