// Package openmetrics writes Prometheus' text as OpenMetrics 1.0, which has exemplars: the name of a trace beside a bucket of
// a histogram. Types and helps are those of the text, which has them from core/metrics/catalogue; what has none is of unknown type.
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

// Write writes text, in which metrics come by name and each one's lines are together, as catalogue.Text has them. of is asked for the exemplar of a
// histogram's bucket by its series, without le, and its upper bound.
func Write(w io.Writer, text []byte, of func(series string, le float64) (Exemplar, bool)) error {
	var out bytes.Buffer
	out.Grow(len(text) + len(text)/8)
	for _, f := range families(text) {
		fmt.Fprintf(&out, "# TYPE %s %s\n", f.name, f.kind)
		if f.help != "" {
			fmt.Fprintf(&out, "# HELP %s %s\n", f.name, f.help)
		}
		for _, l := range f.lines {
			out.WriteString(l)
			if f.kind == histogram {
				out.WriteString(exemplarOf(l, of))
			}
			out.WriteByte('\n')
		}
	}
	out.WriteString("# EOF\n")
	_, err := w.Write(out.Bytes())
	return err
}

// family is all samples of one metric.
type family struct {
	name, kind, help string
	lines            []string
}

// The types that have more to say than their name.
const (
	counter   = "counter"
	histogram = "histogram"
	summary   = "summary"
	unknown   = "unknown"
)

// families are the metrics of a text, in its order.
func families(text []byte) (all []*family) {
	names := map[string]bool{}
	now, help := &family{}, ""
	begin := func(f *family) {
		now, help = f, ""
		names[f.name] = true
		all = append(all, f)
	}
	for l := range strings.Lines(string(text)) {
		l = strings.TrimSpace(l)
		switch word := strings.SplitN(l, " ", 4); {
		case l == "":
		case l[0] == '#' && len(word) == 4 && word[1] == "HELP":
			help = strings.ReplaceAll(word[3], `"`, `\"`)
		case l[0] == '#' && len(word) == 4 && word[1] == "TYPE":
			begin(typed(word[2], word[3], help, names))
		case l[0] == '#':
		case now.has(nameOf(l)):
			now.lines = append(now.lines, tight(l))
		default:
			begin(&family{name: nameOf(l), kind: unknown, lines: []string{tight(l)}})
		}
	}
	return all
}

// typed is a family that says its type. A counter's name is that of its samples without _total; where something else has that
// name, or the samples have no _total, it can't be told as one.
func typed(name, kind, help string, taken map[string]bool) *family {
	if kind == counter {
		if base, ok := strings.CutSuffix(name, "_total"); ok && !taken[base] {
			name = base
		} else {
			kind = unknown
		}
	}
	return &family{name: name, kind: kind, help: help}
}

// has reports whether samples of a name are the family's.
func (f *family) has(name string) bool {
	suffix, ok := strings.CutPrefix(name, f.name)
	if !ok {
		return false
	}
	switch f.kind {
	case counter:
		return suffix == "_total"
	case histogram:
		return suffix == "_bucket" || suffix == "_sum" || suffix == "_count"
	case summary:
		return suffix == "" || suffix == "_sum" || suffix == "_count"
	}
	return suffix == ""
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
