package alert

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pimoe/pimoe/core/config"
)

// step is the time between two samples of a provocation.
const step = time.Minute

// gone is a value that is not there.
var gone = math.NaN()

// track is a series with its values, one a step.
type track struct {
	series string // as in PromQL
	values []float64
}

// provocation makes a rule's alert fire in the steps of trouble, and not before; after them it is resolved.
type provocation struct {
	rule   string
	tracks []track
	calm   int // steps before
	bad    int // steps of trouble
	after  int // steps until it must be resolved
}

// level is a gauge in three phases.
func (p provocation) level(series string, calm, bad float64) track {
	var out []float64
	for i := range p.calm + p.bad + p.after {
		v := calm
		if i >= p.calm && i < p.calm+p.bad {
			v = bad
		}
		out = append(out, v)
	}
	return track{series, out}
}

// count is a counter that grows by so much a step in three phases.
func (p provocation) count(series string, calm, bad float64) track {
	t := p.level(series, calm, bad)
	sum := 0.0
	for i, v := range t.values {
		sum += v
		t.values[i] = sum
	}
	return t
}

// thresholds are the defaults, with every rule.
func thresholds() config.Alerts {
	a := config.Default().Alerts
	a.MinTokensPerSecond = 100
	return a
}

// provocations has a cause for every rule.
func provocations() []provocation {
	make := func(rule string, bad int, tracks func(p provocation) []track) provocation {
		p := provocation{rule: rule, calm: 10, bad: bad, after: 16}
		p.tracks = tracks(p)
		return p
	}
	gauge := func(rule, series string, calm, bad float64) provocation {
		return make(rule, 12, func(p provocation) []track { return []track{p.level(series, calm, bad)} })
	}
	failures := func(rule string, calm, bad, after int, share float64) provocation {
		p := provocation{rule: rule, calm: calm, bad: bad, after: after}
		good := `pimoe_http_requests_total{code="200",route="POST /v1/completions"}`
		failed := `pimoe_http_requests_total{code="503",route="POST /v1/completions"}`
		p.tracks = []track{p.count(good, 600, 600*(1-share)), p.count(failed, 0, 600*share), p.count(`pimoe_http_requests_total{code="503",route="GET /readyz"}`, 60, 60)}
		return p
	}
	slow := func(rule, name, labels string) provocation {
		return make(rule, 14, func(p provocation) []track {
			bucket := func(le string) string {
				return name + "_bucket{" + strings.TrimPrefix(labels+`,le="`+le+`"}`, ",")
			}
			return []track{p.count(bucket("0.05"), 95, 10), p.count(bucket("0.1"), 98, 40), p.count(bucket("0.25"), 100, 100), p.count(bucket("+Inf"), 100, 100)}
		})
	}
	return []provocation{
		gauge("PimoeCPUHigh", "pimoe_system_cpu_ratio", 0.3, 0.93),
		gauge("PimoeMemoryHigh", "pimoe_system_memory_used_ratio", 0.5, 0.9),
		make("PimoeDiskFull", 12, func(p provocation) []track {
			return []track{p.level(`pimoe_system_disk_free_bytes{volume="home"}`, 5e10, 4e9), p.level(`pimoe_system_disk_total_bytes{volume="home"}`, 1e11, 1e11)}
		}),
		gauge("PimoeCertificateExpires", "pimoe_tls_certificate_expires_seconds", 30*86400, 5*86400+3600),
		gauge("PimoeAuditUnwritable", "pimoe_audit_writable", 1, 0),
		failures("PimoeErrorsHigh", 10, 8, 12, 0.2),
		slow("PimoeFirstTokenSlow", "pimoe_time_to_first_token_seconds", ""),
		slow("PimoeProcessSlow", "pimoe_http_request_seconds", `route="POST /api/v1/process"`),
		failures("PimoeBudgetBurnsFast", 70, 40, 15, 0.05),
		failures("PimoeBudgetBurns", 60, 60, 50, 0.05),
		gauge("PimoeQueueOld", "pimoe_queue_oldest_seconds", 0.01, 1.5),
		make("PimoeThroughputLow", 14, func(p provocation) []track {
			return []track{p.count("pimoe_completion_tokens_total", 60*500, 60*20)}
		}),
		make("PimoeExpertCrashLoop", 10, func(p provocation) []track {
			return []track{p.count(`pimoe_process_restarts_total{process="e3"}`, 0, 1), p.count(`pimoe_process_restarts_total{process="e4"}`, 0, 0)}
		}),
		make("PimoeStandInUsed", 8, func(p provocation) []track {
			return []track{p.count(`pimoe_router_calls_total{source="stand-in"}`, 0, 30), p.count(`pimoe_router_calls_total{source="plugin"}`, 900, 0)}
		}),
		make("PimoeAnswersDegraded", 8, func(p provocation) []track {
			return []track{p.count(`pimoe_answers_total{status="degraded"}`, 0, 5), p.count(`pimoe_answers_total{status="exact"}`, 60, 55)}
		}),
	}
}

// start is the time of the first step; promtool's is the epoch.
var start = time.Unix(0, 0)

// at are the samples of a step.
func at(t testing.TB, tracks []track, n int) []Sample {
	t.Helper()
	var text strings.Builder
	for _, tr := range tracks {
		if v := tr.values[n]; !math.IsNaN(v) {
			fmt.Fprintf(&text, "%s %v\n", tr.series, v)
		}
	}
	samples, err := Parse([]byte(text.String()), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return samples
}

// Every rule that the host evaluates fires when its cause is there for long enough, and is resolved when it is gone.
func TestEveryAlertFiresAndResolves(t *testing.T) {
	rules := Rules(thresholds())
	provoked := provocations()
	for _, r := range rules {
		if !r.Outside && !slices.ContainsFunc(provoked, func(p provocation) bool { return p.rule == r.Name }) {
			t.Errorf("nothing provokes %s", r.Name)
		}
	}
	for _, p := range provoked {
		t.Run(p.rule, func(t *testing.T) {
			e := NewEvaluator(rules)
			fired, resolved := -1, -1
			for n := range p.calm + p.bad + p.after {
				for _, a := range e.Step(start.Add(time.Duration(n)*step), at(t, p.tracks, n)) {
					switch {
					case a.Rule != p.rule:
						if !related(p.rule, a.Rule) {
							t.Errorf("step %d: %s is %s, too", n, a.Rule, a.State)
						}
					case a.State == Firing:
						fired = n
						if a.Fired.Sub(a.Since) < holdOf(rules, p.rule) || a.Runbook == "" || strings.Contains(a.Summary, "{") {
							t.Errorf("it fires as %+v", a)
						}
					case a.State == Resolved:
						resolved = n
					}
				}
			}
			if fired < p.calm || fired >= p.calm+p.bad {
				t.Errorf("it fires at step %d, the cause is there from %d to %d", fired, p.calm, p.calm+p.bad-1)
			}
			if resolved < p.calm+p.bad {
				t.Errorf("it is resolved at step %d, the cause ends at %d", resolved, p.calm+p.bad)
			}
			for _, a := range e.Active() {
				if !related(p.rule, a.Rule) || a.Rule == p.rule {
					t.Errorf("still there: %+v", a)
				}
			}
		})
	}
}

// related are the rules that fire for one cause.
func related(a, b string) bool {
	failing := []string{"PimoeErrorsHigh", "PimoeBudgetBurnsFast", "PimoeBudgetBurns"}
	return slices.Contains(failing, a) && slices.Contains(failing, b)
}

func holdOf(rules []Rule, name string) time.Duration {
	return rules[slices.IndexFunc(rules, func(r Rule) bool { return r.Name == name })].For
}

// An alert ends below the second threshold only, and a short peak is none.
func TestHysteresisAndFor(t *testing.T) {
	rules := []Rule{{Name: "X", Value: Series{Name: "x"}, Fire: 80, Clear: 70, For: 2 * time.Minute, KeepFiring: time.Minute, Severity: Info, Unit: Count, Summary: "x is {value} at {place}"}}
	e := NewEvaluator(rules)
	want := map[int]State{8: Firing, 13: Resolved}
	values := []float64{75, 85, 75, 85, 85, 75, 85, 85, 90, 75, 71, 80, 60, 60, 75, 60}
	for n, v := range values {
		changed := e.Step(start.Add(time.Duration(n)*step), []Sample{{Name: "x", Labels: Labels{{"place", "a"}}, Value: v}})
		if s := want[n]; s == "" && len(changed) > 0 || s != "" && (len(changed) != 1 || changed[0].State != s) {
			t.Errorf("step %d with %v: %+v, want %q", n, v, changed, s)
		}
		if n == 8 && changed[0].Summary != "x is 90 at a" {
			t.Errorf("summary %q", changed[0].Summary)
		}
	}
}

// Other rules take over: an alert of a rule that stays goes on, one of a rule that is gone ends.
func TestUse(t *testing.T) {
	x := Rule{Name: "X", Value: Series{Name: "x"}, Fire: 1, Clear: 1, Severity: Info}
	y := Rule{Name: "Y", Value: Series{Name: "y"}, Fire: 1, Clear: 1, Severity: Info}
	e := NewEvaluator([]Rule{x})
	both := []Sample{{Name: "x", Value: 2}, {Name: "y", Value: 2}}
	if changed := e.Step(start, both); len(changed) != 1 || changed[0].Rule != "X" {
		t.Fatalf("%+v", changed)
	}
	e.Use([]Rule{x, y})
	if changed := e.Step(start.Add(step), both); len(changed) != 1 || changed[0].Rule != "Y" {
		t.Errorf("with one more rule %+v", changed)
	}
	e.Use([]Rule{y})
	if changed := e.Step(start.Add(2*step), both); len(changed) > 0 || len(e.Active()) != 1 || e.Wants("x") {
		t.Errorf("with one less %+v, %+v", changed, e.Active())
	}
}
