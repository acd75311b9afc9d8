package alert

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// State is how far an alert is.
type State string

// The states.
const (
	Pending  State = "pending" // the condition holds, not yet for long enough
	Firing   State = "firing"
	Resolved State = "resolved"
)

// Alert is one thing that is wrong now, or was.
type Alert struct {
	Rule     string            `json:"rule"`
	Severity Severity          `json:"severity"`
	State    State             `json:"state"`
	Labels   map[string]string `json:"labels"`
	Value    float64           `json:"value"`   // the last one for which the condition held
	Reading  string            `json:"reading"` // Value as people read it
	Limit    string            `json:"limit"`   // where the rule begins to fire, such as "above 10%"
	Summary  string            `json:"summary"`
	Runbook  string            `json:"runbook"`
	Since    time.Time         `json:"since"`    // when the condition began to hold
	Fired    time.Time         `json:"fired"`    // zero while it is pending
	Resolved time.Time         `json:"resolved"` // zero until then
}

// Evaluator turns samples into alerts. Its methods are for one goroutine.
type Evaluator struct {
	rules   []Rule
	history *History
	active  map[string]map[string]*tracked // by the rule's name and the labels
}

// tracked is an alert that is pending or fires.
type tracked struct {
	Alert
	keeping time.Time // since when it fires although the condition no longer holds
}

// NewEvaluator makes an evaluator for rules; those that are Outside are left out.
func NewEvaluator(rules []Rule) *Evaluator {
	e := &Evaluator{active: map[string]map[string]*tracked{}, history: NewHistory(nil)}
	e.Use(rules)
	return e
}

// Use takes other rules. Alerts of rules that stay go on; those of rules that are gone end without a word.
func (e *Evaluator) Use(rules []Rule) {
	e.rules = slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return r.Outside })
	e.history.Use(e.rules)
	for name := range e.active {
		if !slices.ContainsFunc(e.rules, func(r Rule) bool { return r.Name == name }) {
			delete(e.active, name)
		}
	}
}

// Wants reports whether a rule looks at series of a name.
func (e *Evaluator) Wants(name string) bool { return e.history.Wants(name) }

// Dropped is how many samples found no place in the history.
func (e *Evaluator) Dropped() int { return e.history.Dropped() }

// Step takes the samples of a moment, later than the last one, and returns the alerts that have begun to fire or were resolved.
func (e *Evaluator) Step(at time.Time, samples []Sample) (changed []Alert) {
	e.history.Add(at, samples)
	for _, r := range e.rules {
		changed = append(changed, e.step(r, at)...)
	}
	return changed
}

// step is Step for one rule.
func (e *Evaluator) step(r Rule, at time.Time) (changed []Alert) {
	known := e.active[r.Name]
	if known == nil {
		known = map[string]*tracked{}
		e.active[r.Name] = known
	}
	firing := func(labels string) bool { t := known[labels]; return t != nil && t.State == Firing }
	held := map[string]bool{}
	for _, x := range r.holds(e.history, firing) {
		key := x.labels.String()
		held[key] = true
		t := known[key]
		if t == nil {
			t = &tracked{Alert: Alert{Rule: r.Name, State: Pending, Labels: map[string]string{}, Since: at}}
			for _, l := range x.labels {
				t.Labels[l.Name] = l.Value
			}
			known[key] = t
		}
		t.Value, t.Reading, t.Limit, t.Severity = finite(x.value), r.Unit.text(x.value), r.limit(), r.Severity
		t.Summary, t.Runbook, t.keeping = r.summary(x.labels, x.value), r.Runbook(), time.Time{}
	}
	for key, t := range known {
		switch {
		case held[key] && t.State == Pending && at.Sub(t.Since) >= r.For:
			t.State, t.Fired = Firing, at
			changed = append(changed, t.Alert)
		case held[key]:
		case t.State == Pending:
			delete(known, key)
		default:
			if t.keeping.IsZero() {
				t.keeping = at
			}
			if at.Sub(t.keeping) < r.KeepFiring {
				continue
			}
			delete(known, key)
			t.State, t.Resolved = Resolved, at
			changed = append(changed, t.Alert)
		}
	}
	sortAlerts(changed)
	return changed
}

// Active are the alerts that are pending or fire, those that fire first.
func (e *Evaluator) Active() []Alert {
	out := []Alert{}
	for _, known := range e.active {
		for _, t := range known {
			out = append(out, t.Alert)
		}
	}
	sortAlerts(out)
	return out
}

// finite is a value that JSON can hold.
func finite(v float64) float64 { return min(max(v, -math.MaxFloat64), math.MaxFloat64) }

func sortAlerts(list []Alert) {
	slices.SortFunc(list, func(a, b Alert) int {
		return cmp.Or(cmp.Compare(a.State, b.State), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Summary, b.Summary), a.Since.Compare(b.Since))
	})
}
