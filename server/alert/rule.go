package alert

import (
	"fmt"
	"strings"
	"time"
)

// Severity says what to do about an alert.
type Severity string

// The severities.
const (
	Info     Severity = "info"     // worth knowing
	Warning  Severity = "warning"  // within the day
	Critical Severity = "critical" // now: clients notice
)

// Severities are all of them.
func Severities() []Severity { return []Severity{Info, Warning, Critical} }

// Rule is one thing that can be wrong.
type Rule struct {
	Name string
	// Value is compared with Fire; one alert for each set of labels that it yields.
	Value Expr
	Below bool // fires below Fire, not above
	// Fire is where an alert begins, Clear where one that fires ends: hysteresis. The same value for none.
	Fire, Clear float64
	// While, if not nil, must yield the same labels at the begin.
	While Expr
	// For is how long the condition must hold before the alert fires, KeepFiring how long it goes on after the last time.
	For, KeepFiring time.Duration
	Severity        Severity
	Unit            Unit
	// Summary is a sentence for people; {value} stands for the value in Unit and {NAME} for a label.
	Summary string
	// Outside says that the host can't know it of itself: only Prometheus has the rule.
	Outside bool
}

// Runbook is where it says what to do.
func (r Rule) Runbook() string {
	return "https://github.com/pimoe/pimoe/blob/main/docs/alerts.md#" + strings.ToLower(r.Name)
}

func (r Rule) fires() Threshold  { return Threshold{Of: r.Value, Below: r.Below, Bound: r.Fire} }
func (r Rule) clears() Threshold { return Threshold{Of: r.Value, Below: r.Below, Bound: r.Clear} }

// Expr is the whole condition in PromQL. Hysteresis is there by Prometheus' own series of alerts: what fires already need not be
// beyond Fire, only beyond Clear.
func (r Rule) Expr() string {
	begin := r.fires().String()
	if r.While != nil {
		begin += " and " + operand(r.While)
	}
	if r.Clear == r.Fire {
		return begin
	}
	return fmt.Sprintf("(%s) or (%s and ignoring (alertname, alertstate, severity) ALERTS{alertname=%q,alertstate=\"firing\"})", begin, r.clears(), r.Name)
}

// holds are the values for which the condition holds; firing says for which labels the alert fires already.
func (r Rule) holds(h *History, firing func(labels string) bool) (out vector) {
	var guard map[string]bool
	if r.While != nil {
		guard = map[string]bool{}
		for _, e := range r.While.eval(h) {
			guard[e.labels.String()] = true
		}
	}
	begin, end := r.fires(), r.clears()
	for _, e := range r.Value.eval(h) {
		key := e.labels.String()
		if begin.holds(e.value) && (guard == nil || guard[key]) || r.Clear != r.Fire && end.holds(e.value) && firing(key) {
			out = append(out, e)
		}
	}
	return out
}

// summary is the sentence for one alert.
func (r Rule) summary(labels Labels, value float64) string {
	return r.fill(r.Unit.text(value), func(name string) string { return labels.Get(name) })
}

// limit says in words where the rule begins to fire.
func (r Rule) limit() string {
	side := "above "
	if r.Below {
		side = "below "
	}
	return side + r.Unit.text(r.Fire)
}

// fill puts the value and labels into the summary.
func (r Rule) fill(value string, label func(name string) string) string {
	var b strings.Builder
	rest := r.Summary
	for {
		before, after, found := strings.Cut(rest, "{")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		name, after, _ := strings.Cut(after, "}")
		if name == "value" {
			b.WriteString(value)
		} else {
			b.WriteString(label(name))
		}
		rest = after
	}
}

// Description is a rule for people and programs that only look at it.
type Description struct {
	Name       string   `json:"name"`
	Severity   Severity `json:"severity"`
	Expr       string   `json:"expr"` // PromQL
	For        string   `json:"for"`
	KeepFiring string   `json:"keep_firing"`
	Runbook    string   `json:"runbook"`
	Outside    bool     `json:"outside"` // only Prometheus evaluates it
}

// Describe describes rules.
func Describe(rules []Rule) []Description {
	out := []Description{}
	for _, r := range rules {
		out = append(out, Description{r.Name, r.Severity, r.Expr(), duration(r.For), duration(r.KeepFiring), r.Runbook(), r.Outside})
	}
	return out
}
