package alert

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Expr is an expression: Series, Rate, Increase, Aggregate, Quantile, Arithmetic, Threshold. Its String is PromQL, and what it
// yields in a history is what Prometheus would.
type Expr interface {
	fmt.Stringer
	eval(h *History) vector
	// visit tells of each Series and how far back it is looked at.
	visit(f func(s Series, back time.Duration))
}

// vector has at most one value for the same labels.
type vector []element

type element struct {
	labels Labels
	value  float64
}

// Series is the present value of the series of a name whose labels match.
type Series struct {
	Name  string
	Where []Match
}

// Match is a condition: Op is one of = != =~ !~; expressions are anchored at both ends.
type Match struct{ Label, Op, Value string }

// String is PromQL.
func (s Series) String() string {
	if len(s.Where) == 0 {
		return s.Name
	}
	parts := make([]string, len(s.Where))
	for i, m := range s.Where {
		parts[i] = m.Label + m.Op + strconv.Quote(m.Value)
	}
	return s.Name + "{" + strings.Join(parts, ",") + "}"
}

func (s Series) visit(f func(Series, time.Duration)) { f(s, 0) }

func (s Series) eval(h *History) (out vector) {
	for _, x := range h.find(s) {
		if v, ok := x.last(h.now); ok {
			out = append(out, element{x.labels, v})
		}
	}
	return out
}

// matcher compiles the conditions. One that is none is a programming error: rules are made by this program.
func (s Series) matcher() func(Labels) bool {
	tests := make([]func(string) bool, len(s.Where))
	for i, m := range s.Where {
		switch m.Op {
		case "=":
			tests[i] = func(v string) bool { return v == m.Value }
		case "!=":
			tests[i] = func(v string) bool { return v != m.Value }
		case "=~", "!~":
			re := regexp.MustCompile("^(?:" + m.Value + ")$")
			tests[i] = func(v string) bool { return re.MatchString(v) == (m.Op == "=~") }
		default:
			panic("alert: a condition has one of the operators = != =~ !~")
		}
	}
	return func(l Labels) bool {
		for i, m := range s.Where {
			if !tests[i](l.Get(m.Label)) {
				return false
			}
		}
		return true
	}
}

// Rate is how much counters grew in a window, a second.
type Rate struct {
	Of     Series
	Window time.Duration
}

// String is PromQL.
func (r Rate) String() string { return "rate(" + r.Of.String() + "[" + duration(r.Window) + "])" }

func (r Rate) visit(f func(Series, time.Duration)) { f(r.Of, r.Window) }

func (r Rate) eval(h *History) vector { return growths(h, r.Of, r.Window, 1/r.Window.Seconds()) }

// Increase is how much counters grew in a window.
type Increase struct {
	Of     Series
	Window time.Duration
}

// String is PromQL.
func (i Increase) String() string {
	return "increase(" + i.Of.String() + "[" + duration(i.Window) + "])"
}

func (i Increase) visit(f func(Series, time.Duration)) { f(i.Of, i.Window) }

func (i Increase) eval(h *History) vector { return growths(h, i.Of, i.Window, 1) }

func growths(h *History, of Series, window time.Duration, scale float64) (out vector) {
	begin := h.now - window.Milliseconds()
	for _, s := range h.find(of) {
		if v, ok := growth(s.window(begin), begin, h.now); ok {
			out = append(out, element{s.labels, v * scale})
		}
	}
	return out
}

// Aggregate puts values together that share the labels By: Op is sum, max or min.
type Aggregate struct {
	Op string
	By []string
	Of Expr
}

// String is PromQL.
func (a Aggregate) String() string {
	by := ""
	if len(a.By) > 0 {
		by = " by (" + strings.Join(a.By, ", ") + ") "
	}
	return a.Op + by + "(" + a.Of.String() + ")"
}

func (a Aggregate) visit(f func(Series, time.Duration)) { a.Of.visit(f) }

func (a Aggregate) eval(h *History) (out vector) {
	at := map[string]int{}
	for _, e := range a.Of.eval(h) {
		labels := e.labels.only(a.By)
		i, there := at[labels.String()]
		switch {
		case !there:
			at[labels.String()] = len(out)
			out = append(out, element{labels, e.value})
		case a.Op == "sum":
			out[i].value += e.value
		case a.Op == "max" && !(out[i].value >= e.value), a.Op == "min" && !(out[i].value <= e.value): // a NaN gives way
			out[i].value = e.value
		}
	}
	return out
}

// Quantile is the Q-quantile of histograms, from the rates of their buckets.
type Quantile struct {
	Q  float64
	Of Expr
}

// String is PromQL.
func (q Quantile) String() string {
	return "histogram_quantile(" + number(q.Q) + ", " + q.Of.String() + ")"
}

func (q Quantile) visit(f func(Series, time.Duration)) { q.Of.visit(f) }

func (q Quantile) eval(h *History) (out vector) {
	at := map[string]int{}
	var groups [][]bucket
	for _, e := range q.Of.eval(h) {
		bound, err := strconv.ParseFloat(e.labels.Get("le"), 64)
		if err != nil {
			continue // no bucket
		}
		labels := e.labels.without("le")
		i, there := at[labels.String()]
		if !there {
			i = len(out)
			at[labels.String()] = i
			out, groups = append(out, element{labels: labels}), append(groups, nil)
		}
		groups[i] = append(groups[i], bucket{bound, e.value})
	}
	for i := range out {
		out[i].value = quantile(q.Q, groups[i])
	}
	return out
}

// Arithmetic is Left Op Right for values with the same labels; Op is + - * or /.
type Arithmetic struct {
	Op          string
	Left, Right Expr
}

// String is PromQL.
func (a Arithmetic) String() string {
	return operand(a.Left) + " " + a.Op + " " + operand(a.Right)
}

// operand is an expression beside an operator.
func operand(e Expr) string {
	switch e.(type) {
	case Arithmetic, Threshold:
		return "(" + e.String() + ")"
	}
	return e.String()
}

func (a Arithmetic) visit(f func(Series, time.Duration)) { a.Left.visit(f); a.Right.visit(f) }

func (a Arithmetic) eval(h *History) (out vector) {
	right := map[string]float64{}
	for _, e := range a.Right.eval(h) {
		right[e.labels.String()] = e.value
	}
	for _, e := range a.Left.eval(h) {
		if r, ok := right[e.labels.String()]; ok {
			out = append(out, element{e.labels, compute(a.Op, e.value, r)})
		}
	}
	return out
}

func compute(op string, a, b float64) float64 {
	switch op {
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "/":
		return a / b
	}
	panic("alert: arithmetic has one of the operators + - * /")
}

// Threshold are the values beyond a bound: above it, or Below it.
type Threshold struct {
	Of    Expr
	Below bool
	Bound float64
}

// String is PromQL.
func (t Threshold) String() string {
	op := " > "
	if t.Below {
		op = " < "
	}
	return operand(t.Of) + op + number(t.Bound)
}

func (t Threshold) visit(f func(Series, time.Duration)) { t.Of.visit(f) }

func (t Threshold) eval(h *History) (out vector) {
	for _, e := range t.Of.eval(h) {
		if t.holds(e.value) {
			out = append(out, e)
		}
	}
	return out
}

// holds is false for NaN.
func (t Threshold) holds(v float64) bool {
	if t.Below {
		return v < t.Bound
	}
	return v > t.Bound
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// duration is d as PromQL has it: 90 s are 1m30s, and no unit is zero.
func duration(d time.Duration) string {
	if d == 0 {
		return "0s"
	}
	var b strings.Builder
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if n := d / u.of; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			d -= n * u.of
		}
	}
	return b.String()
}

var (
	_ Expr = Series{}
	_ Expr = Rate{}
	_ Expr = Increase{}
	_ Expr = Aggregate{}
	_ Expr = Quantile{}
	_ Expr = Arithmetic{}
	_ Expr = Threshold{}
)
