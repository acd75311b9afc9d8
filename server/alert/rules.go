package alert

import (
	"time"

	"github.com/pimoe/pimoe/core/config"
)

const (
	// window is what rates look back at: long enough that a single slow request of a quiet server is not all of it.
	window = 5 * time.Minute
	// settled is how much of a threshold a value must leave before an alert ends.
	settled = 0.9
)

// work are the requests that ask for something to be computed or changed. Probes and pages would hide how they fare.
var work = []Match{{"route", "=~", "(POST|GRPC) .+"}}

// Rules are the rules of a configuration, which must be valid.
func Rules(c config.Alerts) []Rule {
	var out []Rule
	for _, r := range all(c) {
		if r, on := override(r, c.Overrides); on {
			out = append(out, r)
		}
	}
	return out
}

// override is a rule as the operator wants it; false if not at all. Later overrides win.
func override(r Rule, list []config.AlertOverride) (Rule, bool) {
	on := true
	for _, o := range list {
		if o.Rule != r.Name {
			continue
		}
		on = !o.Off
		if o.For != "" {
			r.For = o.Hold()
		}
		if o.Severity != "" {
			r.Severity = Severity(o.Severity)
		}
	}
	return r, on
}

// all are the rules before overrides.
func all(c config.Alerts) []Rule {
	rules := append(machine(c), requests(c)...)
	rules = append(rules, experts(c)...)
	return append(rules, Rule{
		Name: "PimoeDown", Outside: true, Value: Series{"up", []Match{{"job", "=", "pimoe"}}}, Below: true, Fire: 1, Clear: 1,
		For: time.Minute, Severity: Critical, Unit: Count, Summary: "{instance} does not answer",
	})
}

// machine are the rules about what the host runs on.
func machine(c config.Alerts) []Rule {
	cpu, memory := float64(c.CPUPercent)/100, float64(c.MemoryPercent)/100
	disk := float64(c.DiskFreePercent) / 100
	return []Rule{
		{
			Name: "PimoeCPUHigh", Value: Series{Name: "pimoe_system_cpu_ratio"}, Fire: cpu, Clear: cpu * settled,
			For: 5 * time.Minute, Severity: Warning, Unit: Ratio, Summary: "the processors are {value} busy",
		},
		{
			Name: "PimoeMemoryHigh", Value: Series{Name: "pimoe_system_memory_used_ratio"}, Fire: memory, Clear: memory * settled,
			For: 2 * time.Minute, Severity: Warning, Unit: Ratio, Summary: "{value} of the memory is used",
		},
		{
			Name: "PimoeDiskFull", Below: true, Fire: disk, Clear: disk / settled,
			Value: Arithmetic{"/", Series{Name: "pimoe_system_disk_free_bytes"}, Series{Name: "pimoe_system_disk_total_bytes"}},
			For:   5 * time.Minute, Severity: Warning, Unit: Ratio, Summary: "{value} of the disk {volume} is free",
		},
		{
			Name: "PimoeCertificateExpires", Value: Series{Name: "pimoe_tls_certificate_expires_seconds"}, Below: true,
			Fire: c.Certificate.Seconds(), Clear: c.Certificate.Seconds(), Severity: Warning, Unit: Seconds,
			Summary: "the certificate of the public listener ends in {value}",
		},
		{
			Name: "PimoeAuditUnwritable", Value: Series{Name: "pimoe_audit_writable"}, Below: true, Fire: 1, Clear: 1,
			For: time.Minute, Severity: Critical, Unit: Count, Summary: "changes are refused: the audit log can't be written",
		},
	}
}

// requests are the rules about what clients feel.
func requests(c config.Alerts) []Rule {
	errors, budget := float64(c.ErrorPercent)/100, 1-c.ObjectivePercent/100
	p95 := func(name string, where []Match) Expr {
		return Quantile{0.95, Aggregate{"sum", []string{"le"}, Rate{Series{name, where}, window}}}
	}
	rules := []Rule{
		{
			Name: "PimoeErrorsHigh", Value: failed(window), Fire: errors, Clear: errors * settled,
			For: time.Minute, Severity: Critical, Unit: Ratio, Summary: "{value} of the requests fail",
		},
		{
			Name: "PimoeFirstTokenSlow", Value: p95("pimoe_time_to_first_token_seconds_bucket", nil), Fire: c.P95.Seconds(), Clear: c.P95.Seconds() * settled,
			For: 5 * time.Minute, Severity: Warning, Unit: Seconds, Summary: "one answer of 20 begins later than {value}",
		},
		{
			Name: "PimoeProcessSlow", Value: p95("pimoe_http_request_seconds_bucket", []Match{{"route", "=", "POST /api/v1/process"}}),
			Fire: c.P95.Seconds(), Clear: c.P95.Seconds() * settled,
			For: 5 * time.Minute, Severity: Warning, Unit: Seconds, Summary: "one call of /api/v1/process of 20 takes longer than {value}",
		},
		{
			// 2 % of a month's budget in an hour, and still: the window of five minutes ends it soon after the cause.
			Name: "PimoeBudgetBurnsFast", Value: failed(time.Hour), Fire: 14.4 * budget, Clear: 14.4 * budget,
			While: Threshold{Of: failed(5 * time.Minute), Bound: 14.4 * budget},
			For:   2 * time.Minute, Severity: Critical, Unit: Ratio, Summary: "the month's error budget is gone in two days: {value} of the last hour's requests failed",
		},
		{
			Name: "PimoeBudgetBurns", Value: failed(6 * time.Hour), Fire: 6 * budget, Clear: 6 * budget,
			While: Threshold{Of: failed(30 * time.Minute), Bound: 6 * budget},
			For:   15 * time.Minute, Severity: Warning, Unit: Ratio, Summary: "the month's error budget is gone in five days: {value} of the last six hours' requests failed",
		},
		{
			Name: "PimoeQueueOld", Value: Series{Name: "pimoe_queue_oldest_seconds"}, Fire: c.QueueAge.Seconds(), Clear: c.QueueAge.Seconds() * settled,
			For: 30 * time.Second, KeepFiring: time.Minute, Severity: Warning, Unit: Seconds, Summary: "a request has waited for {value}",
		},
	}
	if c.MinTokensPerSecond > 0 {
		floor := float64(c.MinTokensPerSecond)
		rules = append(rules, Rule{
			Name: "PimoeThroughputLow", Value: Aggregate{"sum", nil, Rate{Series{Name: "pimoe_completion_tokens_total"}, window}}, Below: true,
			Fire: floor, Clear: floor / settled, For: 5 * time.Minute, Severity: Warning, Unit: Count, Summary: "only {value} tokens a second are written",
		})
	}
	return rules
}

// failed is the share of requests in a window that the server could not answer.
func failed(window time.Duration) Expr {
	sum := func(where ...Match) Expr {
		return Aggregate{"sum", nil, Rate{Series{"pimoe_http_requests_total", append(work[:1:1], where...)}, window}}
	}
	return Arithmetic{"/", sum(Match{"code", "=~", "5.."}), sum()}
}

// experts are the rules about processes and what stands in for them.
func experts(c config.Alerts) []Rule {
	return []Rule{
		{
			Name: "PimoeExpertCrashLoop", Value: Aggregate{"sum", []string{"process"}, Increase{Series{Name: "pimoe_process_restarts_total"}, 10 * time.Minute}},
			Fire: float64(c.Restarts), Clear: float64(c.Restarts), KeepFiring: 5 * time.Minute, Severity: Critical, Unit: Count,
			Summary: "{process} was restarted {value} times in ten minutes",
		},
		{
			Name: "PimoeStandInUsed", Value: Aggregate{"sum", nil, Increase{Series{"pimoe_router_calls_total", []Match{{"source", "=", "stand-in"}}}, window}},
			Severity: Warning, Unit: Count, Summary: "the stand-in has answered {value} calls for the router",
		},
		{
			Name: "PimoeAnswersDegraded", Value: Aggregate{"sum", []string{"status"}, Increase{Series{"pimoe_answers_total", []Match{{"status", "!=", "exact"}}}, window}},
			Severity: Warning, Unit: Count, Summary: "{value} answers were {status}: experts were missing",
		},
	}
}
