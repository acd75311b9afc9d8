package alert

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

// The format of promtool's tests of rules.
type (
	promTests struct {
		Files    []string   `yaml:"rule_files"`
		Interval string     `yaml:"evaluation_interval"`
		Tests    []promTest `yaml:"tests"`
	}
	promTest struct {
		Name     string       `yaml:"name"`
		Interval string       `yaml:"interval"`
		Series   []promSeries `yaml:"input_series"`
		Alerts   []promAlerts `yaml:"alert_rule_test,omitempty"`
		Exprs    []promExpr   `yaml:"promql_expr_test,omitempty"`
	}
	promSeries struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	}
	promAlerts struct {
		At       string      `yaml:"eval_time"`
		Name     string      `yaml:"alertname"`
		Expected []promAlert `yaml:"exp_alerts"`
	}
	promAlert struct {
		Labels      map[string]string `yaml:"exp_labels"`
		Annotations map[string]string `yaml:"exp_annotations"`
	}
	promExpr struct {
		Expr     string       `yaml:"expr"`
		At       string       `yaml:"eval_time"`
		Expected []promSample `yaml:"exp_samples"`
	}
	promSample struct {
		Labels string  `yaml:"labels"`
		Value  float64 `yaml:"value"`
	}
)

// promValues are values as promtool has them. A series that ends gets the mark that Prometheus makes of it.
func promValues(values []float64) string {
	words := make([]string, len(values))
	for i, v := range values {
		switch {
		case !math.IsNaN(v):
			words[i] = strconv.FormatFloat(v, 'f', -1, 64)
		case i > 0 && !math.IsNaN(values[i-1]):
			words[i] = "stale"
		default:
			words[i] = "_"
		}
	}
	return strings.Join(words, " ")
}

func promTracks(tracks []track) (out []promSeries) {
	for _, t := range tracks {
		out = append(out, promSeries{t.series, promValues(t.values)})
	}
	return out
}

// promtool runs the tests against rules.
func promtool(t *testing.T, rules []Rule, every time.Duration, tests []promTest) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("needs promtool (Debian: prometheus)")
	}
	dir := t.TempDir()
	text, err := Prometheus(rules, every)
	if err != nil {
		t.Fatal(err)
	}
	tested, err := yaml.Marshal(promTests{Files: []string{"rules.yml"}, Interval: duration(every), Tests: tests})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"rules.yml": text, "tests.yml": tested} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"check", "rules", "--lint-fatal", "rules.yml"}, {"test", "rules", "tests.yml"}} {
		cmd := exec.CommandContext(t.Context(), tool, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("promtool %v: %v\n%.6000s", args, err, out)
		}
	}
}

// shortened is an expression whose windows are a second shorter. Prometheus 3 leaves out the sample at the begin of a window, as
// we do, and Prometheus 2 has it: in a window that no sample begins they agree.
func shortened(e Expr) Expr {
	switch x := e.(type) {
	case Rate:
		x.Window -= time.Second
		return x
	case Increase:
		x.Window -= time.Second
		return x
	case Aggregate:
		x.Of = shortened(x.Of)
		return x
	case Quantile:
		x.Of = shortened(x.Of)
		return x
	case Arithmetic:
		x.Left, x.Right = shortened(x.Left), shortened(x.Right)
		return x
	case Threshold:
		x.Of = shortened(x.Of)
		return x
	}
	return e
}

// alertsNow is the series ALERTS as Prometheus has it for alerts.
func alertsNow(list []Alert) []promSample {
	out := []promSample{}
	for _, a := range list {
		labels := Labels{{"alertname", a.Rule}, {"alertstate", string(a.State)}, {"severity", string(a.Severity)}}
		for k, v := range a.Labels {
			labels = append(labels, Label{k, v})
		}
		slices.SortFunc(labels, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
		out = append(out, promSample{"ALERTS" + labels.String(), 1})
	}
	return out
}

// scenario is what one simulation of promtool shows: provocations that have no series in common happen at once.
type scenario struct {
	tracks   []track
	provoked []provocation
}

// steps is how long it lasts.
func (s scenario) steps() int { return len(s.tracks[0].values) }

func scenarios() (out []scenario) {
	var rest scenario
	for _, p := range provocations() {
		if related(p.rule, p.rule) {
			out = append(out, scenario{p.tracks, []provocation{p}})
			continue
		}
		rest.provoked = append(rest.provoked, p)
		rest.tracks = append(rest.tracks, p.tracks...)
	}
	longest := 0
	for _, t := range rest.tracks {
		longest = max(longest, len(t.values))
	}
	for i, t := range rest.tracks { // each goes on as it ends
		for len(t.values) < longest {
			t.values = append(t.values, t.values[len(t.values)-1])
		}
		rest.tracks[i] = t
	}
	return append(out, rest)
}

// Every rule means in Prometheus what it means here: the same alerts are pending and fire at every step of a provocation, with
// the same words.
func TestPrometheusAgreesOnEveryRule(t *testing.T) {
	rules := Rules(thresholds())
	for i, r := range rules {
		rules[i].Value = shortened(r.Value)
		if r.While != nil {
			rules[i].While = shortened(r.While)
		}
	}
	var tests []promTest
	told := map[string]bool{}
	for _, s := range scenarios() {
		test := promTest{Name: s.provoked[0].rule, Interval: duration(step), Series: promTracks(s.tracks)}
		e := NewEvaluator(rules)
		for n := range s.steps() {
			now := time.Duration(n) * step
			for _, a := range e.Step(start.Add(now), at(t, s.tracks, n)) {
				if a.State != Firing || told[a.Rule] {
					continue
				}
				told[a.Rule] = true
				labels := map[string]string{"severity": string(a.Severity)}
				for k, v := range a.Labels {
					labels[k] = v
				}
				test.Alerts = append(test.Alerts, promAlerts{duration(now), a.Rule, []promAlert{{labels, map[string]string{"summary": a.Summary, "runbook": a.Runbook}}}})
			}
			test.Exprs = append(test.Exprs, promExpr{"ALERTS", duration(now), alertsNow(e.Active())})
		}
		tests = append(tests, test)
	}
	for _, p := range provocations() {
		if !told[p.rule] {
			t.Errorf("%s never fires", p.rule)
		}
	}
	promtool(t, rules, step, tests)
}

// The rules as they are exported fire and are resolved in Prometheus, also the one that the host can't evaluate.
func TestPromtoolOnTheRuleFile(t *testing.T) {
	down := provocation{rule: "PimoeDown", calm: 10, bad: 10, after: 10}
	down.tracks = []track{down.level(`up{instance="a:8080",job="pimoe"}`, 1, 0)}
	var tests []promTest
	for _, s := range append(scenarios(), scenario{down.tracks, []provocation{down}}) {
		test := promTest{Name: s.provoked[0].rule, Interval: duration(step), Series: promTracks(s.tracks)}
		for _, p := range s.provoked {
			for n, want := range map[int][]promSample{p.calm - 1: {}, p.calm + p.bad - 1: {{"{}", 1}}, p.calm + p.bad + p.after - 1: {}} {
				test.Exprs = append(test.Exprs, promExpr{fmt.Sprintf(`max(ALERTS{alertname=%q,alertstate="firing"})`, p.rule), duration(time.Duration(n) * step), want})
			}
		}
		tests = append(tests, test)
	}
	promtool(t, Rules(thresholds()), step, tests)
}

// Generated rules over generated series have the same alerts here and in Prometheus at every step.
func TestPrometheusAgreesOnGeneratedRules(t *testing.T) {
	const steps, every = 45, 20 * time.Second
	seeds, err := strconv.ParseUint(cmp.Or(os.Getenv("PIMOE_TEST_ALERT_SEEDS"), "1"), 10, 16) // see make alert-rules
	if err != nil {
		t.Fatal(err)
	}
	for seed := range seeds {
		g := generator{rand.New(rand.NewPCG(seed, 7))}
		tracks := g.tracks(steps)
		var rules []Rule
		for n := range 40 {
			rules = append(rules, g.rule(t, n, tracks, steps, every))
		}
		test := promTest{Name: fmt.Sprint("seed ", seed), Interval: duration(every), Series: promTracks(tracks)}
		e := NewEvaluator(rules)
		firing, pending := 0, 0
		for n := range steps {
			now := time.Duration(n) * every
			e.Step(start.Add(now), at(t, tracks, n))
			list := e.Active()
			for _, a := range list {
				if a.State == Firing {
					firing++
				} else {
					pending++
				}
			}
			test.Exprs = append(test.Exprs, promExpr{"ALERTS", duration(now), alertsNow(list)})
		}
		if firing < 200 || pending < 50 {
			t.Errorf("seed %d: only %d firing and %d pending: the rules say little", seed, firing, pending)
		}
		promtool(t, rules, every, []promTest{test})
	}
}

// generator makes rules and series.
type generator struct{ *rand.Rand }

// tracks are gauges, counters that restart, and histograms, some of which come and go.
func (g generator) tracks(steps int) (out []track) {
	series := func(name string, value func(n int, before float64) float64) {
		t := track{series: name}
		begin, end := 0, steps
		if g.IntN(3) == 0 {
			begin = g.IntN(steps / 3)
			end = begin + g.IntN(steps)
		}
		v := float64(g.IntN(100))
		for n := range steps {
			v = value(n, v)
			if n >= begin && n < end {
				t.values = append(t.values, v)
			} else {
				t.values = append(t.values, gone)
			}
		}
		out = append(out, t)
	}
	for _, x := range []string{"p", "q", "r"} {
		for _, name := range []string{"one", "two"} {
			series(name+`{x="`+x+`"}`, func(_ int, v float64) float64 { return max(0, v+g.NormFloat64()*20) })
		}
		for _, y := range []string{"200", "503"} {
			series(`many_total{x="`+x+`",y="`+y+`"}`, func(_ int, v float64) float64 {
				if g.IntN(25) == 0 {
					return g.Float64() * 3
				}
				return v + g.Float64()*10
			})
		}
		for i, le := range []string{"0.1", "1", "10", "+Inf"} {
			series(`time_bucket{x="`+x+`",le="`+le+`"}`, func(_ int, v float64) float64 { return v + float64(i+1)*(5+g.Float64()) })
		}
	}
	return out
}

// value is an expression.
func (g generator) value() Expr {
	counters := Series{Name: "many_total"}
	if g.IntN(2) == 0 {
		counters.Where = []Match{{"y", []string{"=", "!=", "=~", "!~"}[g.IntN(4)], []string{"503", "5.."}[g.IntN(2)]}}
	}
	window := time.Duration(1+g.IntN(5))*time.Minute + 7*time.Second // no sample is at a window's begin
	by := [][]string{nil, {"x"}, {"x", "y"}}[g.IntN(3)]
	switch g.IntN(8) {
	case 0:
		return Series{Name: "one", Where: []Match{{"x", "=~", "p|q"}}}
	case 1:
		return Arithmetic{[]string{"+", "-", "*", "/"}[g.IntN(4)], Series{Name: "one"}, Series{Name: "two"}}
	case 2:
		return Rate{counters, window}
	case 3:
		return Increase{counters, window}
	case 4:
		return Aggregate{[]string{"sum", "max", "min"}[g.IntN(3)], by, Rate{counters, window}}
	case 5:
		return Quantile{[]float64{0.5, 0.95}[g.IntN(2)], Aggregate{"sum", []string{"le"}, Rate{Series{Name: "time_bucket"}, window}}}
	case 6:
		return Quantile{0.9, Rate{Series{Name: "time_bucket"}, window}}
	default:
		failed := Series{"many_total", []Match{{"y", "=", "503"}}}
		return Arithmetic{"/", Aggregate{"sum", []string{"x"}, Rate{failed, window}}, Aggregate{"sum", []string{"x"}, Rate{Series{Name: "many_total"}, window}}}
	}
}

// rule has thresholds among the values that its expression takes, and never one of them.
func (g generator) rule(t *testing.T, n int, tracks []track, steps int, every time.Duration) Rule {
	for {
		r := Rule{
			Name: fmt.Sprint("Rule", n), Value: g.value(), Below: g.IntN(3) == 0, Severity: Severities()[g.IntN(3)], Unit: Count, Summary: "{value}",
			For: time.Duration(g.IntN(4)) * every, KeepFiring: time.Duration(g.IntN(3)) * every,
		}
		h := NewHistory([]Rule{r})
		var values []float64
		for n := range steps {
			h.Add(start.Add(time.Duration(n)*every), at(t, tracks, n))
			for _, e := range r.Value.eval(h) {
				if !math.IsNaN(e.value) && !math.IsInf(e.value, 0) {
					values = append(values, e.value)
				}
			}
		}
		slices.Sort(values)
		values = slices.Compact(values)
		if len(values) < 10 {
			continue
		}
		between := func(share float64) float64 {
			i := int(share * float64(len(values)-2))
			return (values[i] + values[i+1]) / 2
		}
		r.Fire = between(0.3 + 0.4*g.Float64())
		r.Clear = r.Fire
		if g.IntN(2) == 0 {
			toward := 0.2
			if r.Below {
				toward = 0.8
			}
			r.Clear = between(toward)
		}
		if g.IntN(4) == 0 {
			r.While = Threshold{Of: r.Value, Bound: between(0.5), Below: g.IntN(2) == 0}
		}
		return r
	}
}
