package dashboard

import (
	"fmt"
	"strings"
)

// Instances are the hosts that the variable instance lists.
const Instances = `up{job="pimoe"}`

// All are the pages.
func All() []Dashboard { return []Dashboard{system(), application(), business(), experts()} }

// of is a series of the chosen hosts.
func of(name string, where ...string) string {
	return name + "{" + strings.Join(append([]string{`instance=~"$instance"`}, where...), ",") + "}"
}

// rate is how fast a counter grows, summed by some labels.
func rate(by, name string, where ...string) string {
	return sumBy(by, "rate("+of(name, where...)+"[$__rate_interval])")
}

func sumBy(by, expr string) string {
	if by == "" {
		return "sum(" + expr + ")"
	}
	return "sum by (" + by + ") (" + expr + ")"
}

// quantiles are the median, the 95th and the 99th percentile of a histogram.
func quantiles(name string, where ...string) (out []Query) {
	for _, q := range []string{"0.5", "0.95", "0.99"} {
		out = append(out, Query{"histogram_quantile(" + q + ", " + rate("le", name+"_bucket", where...) + ")", "p" + strings.TrimPrefix(q+"0", "0.")[:2]})
	}
	return out
}

func graph(title, unit string, queries ...Query) Panel {
	return Panel{Title: title, Unit: unit, Queries: queries}
}

func bars(title, unit, expr, legend string) Panel {
	return Panel{Title: title, Kind: Table, Unit: unit, Queries: []Query{{expr, legend}}}
}

func figure(title, unit, expr, legend string) Panel {
	return Panel{Title: title, Kind: Number, Unit: unit, Queries: []Query{{expr, legend}}}
}

// system is what the hosts and their processes use.
func system() Dashboard {
	perHost := "{{instance}}"
	return Dashboard{UID: "pimoe-system", Title: "PiMoE: system", Rows: []Row{
		{"Machine", []Panel{
			graph("Processors", "percentunit", Query{of("pimoe_system_cpu_ratio"), perHost}),
			graph("Load", "short", Query{of("pimoe_system_load1"), perHost}),
			graph("Memory used", "percentunit", Query{of("pimoe_system_memory_used_ratio"), perHost}),
			graph("Memory", "bytes", Query{of("pimoe_system_memory_used_bytes"), "used " + perHost}, Query{of("pimoe_system_memory_total_bytes"), "of " + perHost}),
			graph("Disk free", "percentunit", Query{of("pimoe_system_disk_free_bytes") + " / " + of("pimoe_system_disk_total_bytes"), "{{volume}} " + perHost}),
			graph("Disk traffic", "Bps", Query{rate("instance", "pimoe_system_disk_read_bytes_total"), "read " + perHost}, Query{rate("instance", "pimoe_system_disk_written_bytes_total"), "written " + perHost}),
			graph("Network", "Bps", Query{rate("instance", "pimoe_system_network_received_bytes_total"), "received " + perHost}, Query{rate("instance", "pimoe_system_network_sent_bytes_total"), "sent " + perHost}),
			graph("Power", "watt", Query{rate("instance, domain", "pimoe_energy_joules_total"), "{{domain}} " + perHost}),
			figure("Version", "none", sumBy("version", of("pimoe_build_info")), "{{version}}"),
		}},
		{"Processes", []Panel{
			graph("Processors by process", "none", Query{rate("process", "pimoe_process_cpu_seconds_total"), "{{process}}"}),
			graph("Resident memory", "bytes", Query{sumBy("process", of("pimoe_process_resident_bytes")), "{{process}}"}),
			graph("Private memory", "bytes", Query{sumBy("process", of("pimoe_process_private_bytes")), "{{process}}"}),
			graph("Page faults", "ops", Query{rate("process, kind", "pimoe_process_page_faults_total"), "{{kind}} {{process}}"}),
			graph("Open descriptors", "short", Query{sumBy("process", of("pimoe_process_open_descriptors")), "{{process}}"}),
			graph("Goroutines of the host", "short", Query{of("go_goroutines"), perHost}),
		}},
	}}
}

// application is how requests fare.
func application() Dashboard {
	requests := "pimoe_http_requests_total"
	asked := `route=~"(POST|GRPC) .+"`
	return Dashboard{UID: "pimoe-application", Title: "PiMoE: application", Rows: []Row{
		{"Requests", []Panel{
			graph("Requests by route", "reqps", Query{rate("route", requests), "{{route}}"}),
			graph("Requests by status", "reqps", Query{rate("code", requests), "{{code}}"}),
			graph("Share that fails", "percentunit", Query{rate("", requests, asked, `code=~"5.."`) + " / " + rate("", requests, asked), "failed"}),
			graph("Time of a request", "s", quantiles("pimoe_http_request_seconds", asked)...),
			graph("Under way", "short", Query{sumBy("", of("pimoe_http_requests_in_flight")), "requests"}, Query{sumBy("", of("pimoe_ws_connections")), "WebSockets"}),
			graph("Refused", "reqps", Query{rate("reason", "pimoe_auth_failures_total"), "who: {{reason}}"}, Query{rate("limit", "pimoe_rate_limited_total"), "how often: {{limit}}"}),
		}},
		{"Answers", []Panel{
			graph("Time to the first token", "s", quantiles("pimoe_time_to_first_token_seconds")...),
			graph("Time between tokens", "s", quantiles("pimoe_inter_token_seconds")...),
			graph("Time in the queue", "s", quantiles("pimoe_queue_seconds")...),
			graph("Tokens", "short", Query{rate("", "pimoe_prompt_tokens_total"), "read"}, Query{rate("", "pimoe_completion_tokens_total"), "written"}, Query{rate("", "pimoe_cached_tokens_total"), "taken over"}),
			graph("Requests in the engine", "short", Query{sumBy("", of("pimoe_engine_running")), "running"}, Query{sumBy("", of("pimoe_engine_queued")), "waiting"}),
			graph("Oldest that waits", "s", Query{of("pimoe_queue_oldest_seconds"), "{{instance}}"}),
			graph("Ends", "reqps", Query{rate("reason", "pimoe_engine_finished_total"), "{{reason}}"}),
			graph("Status of answers", "reqps", Query{rate("status", "pimoe_answers_total"), "{{status}}"}),
			graph("Refused by the policy", "reqps", Query{rate("", "pimoe_degraded_refused_total"), "refused"}),
		}},
		{"Engine", []Panel{
			graph("Time of a step", "s", quantiles("pimoe_engine_step_seconds")...),
			graph("Sequences in a step", "short", quantiles("pimoe_engine_batch_sequences")...),
			graph("Tokens in a step", "short", quantiles("pimoe_engine_batch_tokens")...),
			graph("Cache of keys and values", "percentunit", Query{of("pimoe_kv_used_ratio"), "{{instance}}"}),
			graph("Its pages", "short", Query{sumBy("state", of("pimoe_engine_pages")), "{{state}}"}),
			graph("Put back for lack of pages", "ops", Query{rate("", "pimoe_engine_preemptions_total"), "requests"}),
		}},
		{"Around it", []Panel{
			graph("Kept answers", "reqps", Query{rate("outcome", "pimoe_cache_requests_total"), "{{outcome}}"}),
			graph("Jobs", "short", Query{sumBy("state", of("pimoe_jobs")), "{{state}}"}),
			graph("Alerts that fire", "short", Query{sumBy("severity", of("pimoe_alerts_firing")), "{{severity}}"}),
			graph("Certificate ends in", "s", Query{of("pimoe_tls_certificate_expires_seconds"), "{{instance}}"}),
			graph("Answers kept for repetitions", "short", Query{sumBy("", of("pimoe_idempotency_keys")), "answers"}),
			graph("Series left out", "short", Query{sumBy("", of("pimoe_metrics_dropped_series_total")), "series"}),
		}},
	}}
}

// business is who uses it, and what that costs.
func business() Dashboard {
	tenants := "pimoe_tenant_tokens_total"
	return Dashboard{UID: "pimoe-business", Title: "PiMoE: business", Rows: []Row{
		{"Use", []Panel{
			graph("Active users", "short", Query{sumBy("window", of("pimoe_active_users")), "{{window}}"}),
			graph("Requests by tenant", "reqps", Query{rate("tenant", "pimoe_tenant_requests_total"), "{{tenant}}"}),
			graph("Tokens by tenant", "short", Query{rate("tenant, kind", tenants), "{{tenant}} {{kind}}"}),
			bars("Tokens since the start", "short", "sort_desc("+sumBy("tenant", of(tenants))+")", "{{tenant}}"),
			graph("Features", "ops", Query{rate("feature", "pimoe_features_used_total"), "{{feature}}"}),
			figure("Answers since the start", "short", sumBy("", of("pimoe_answers_total")), "answers"),
		}},
		{"Cost", []Panel{
			graph("Processor time by tenant", "none", Query{rate("tenant, model", "pimoe_tenant_cpu_seconds_total"), "{{tenant}} {{model}}"}),
			graph("Memory traffic by tenant", "Bps", Query{rate("tenant, model", "pimoe_tenant_read_bytes_total"), "{{tenant}} {{model}}"}),
			graph("Processor seconds for 1000 tokens", "s", Query{
				"1000 * " + rate("", "pimoe_tenant_cpu_seconds_total") + " / " + rate("", tenants), "seconds",
			}),
			graph("Energy of a token", "joule", Query{rate("", "pimoe_energy_joules_total") + " / " + rate("", "pimoe_completion_tokens_total"), "joules"}),
			graph("Answers that cost nothing", "percentunit", Query{
				rate("", "pimoe_cache_requests_total", `outcome=~"hit_.+"`) + " / " + rate("", "pimoe_cache_requests_total"), "kept",
			}),
			graph("Prompt tokens that cost nothing", "percentunit", Query{rate("", "pimoe_cached_tokens_total") + " / " + rate("", "pimoe_prompt_tokens_total"), "taken over"}),
		}},
		{"Promise", []Panel{
			graph("Share of requests answered", "percentunit", Query{
				fmt.Sprintf("1 - (%s or vector(0)) / %s", rate("", "pimoe_http_requests_total", `code=~"5.."`), rate("", "pimoe_http_requests_total")), "answered",
			}),
			graph("Share of answers that are exact", "percentunit", Query{rate("", "pimoe_answers_total", `status="exact"`) + " / " + rate("", "pimoe_answers_total"), "exact"}),
			graph("Known questions routed right", "percentunit", Query{of("pimoe_routing_accuracy_ratio"), "{{instance}}"}),
		}},
	}}
}

// experts is what the experts' processes do.
func experts() Dashboard {
	group := "{{group}}"
	return Dashboard{UID: "pimoe-experts", Title: "PiMoE: experts", Rows: []Row{
		{"Processes", []Panel{
			graph("Replicas ready", "short", Query{sumBy("group", of("pimoe_expert_ready")), group}),
			graph("Replicas wanted", "short", Query{sumBy("group", of("pimoe_expert_replicas_wanted")), group}),
			graph("Restarts", "short", Query{sumBy("process", "increase("+of("pimoe_process_restarts_total")+"[$__rate_interval])"), "{{process}}"}),
			graph("Contradictions", "short", Query{sumBy("group", of("pimoe_invariant_violations_total")), group}),
			graph("Errors", "ops", Query{rate("group", "pimoe_expert_errors_total"), group}),
			graph("Values that are no numbers", "ops", Query{rate("group", "pimoe_expert_nonfinite_total"), group}),
		}},
		{"Calls", []Panel{
			graph("Calls", "ops", Query{rate("group", "pimoe_expert_calls_total"), group}),
			graph("Rows", "ops", Query{rate("group", "pimoe_expert_rows_total"), group}),
			graph("Time of a call, p95", "s", Query{"histogram_quantile(0.95, " + rate("group, le", "pimoe_expert_call_seconds_bucket") + ")", group}),
			graph("Repeated", "ops", Query{rate("group", "pimoe_expert_retries_total"), "again " + group}, Query{rate("group", "pimoe_expert_hedges_total"), "elsewhere too " + group}),
			graph("Compared", "ops", Query{rate("outcome", "pimoe_rechecks_total"), "{{outcome}}"}),
			graph("Rows of stand-ins", "ops", Query{rate("group, how", "pimoe_expert_fallback_rows_total"), "{{how}} " + group}),
		}},
		{"Router", []Panel{
			graph("Calls by source", "ops", Query{rate("source", "pimoe_router_calls_total"), "{{source}}"}),
			graph("Failed calls", "ops", Query{rate("", "pimoe_router_errors_total"), "errors"}),
			graph("Observations", "ops", Query{rate("", "pimoe_router_observations_total"), "told"}),
		}},
		{"Use of experts", []Panel{
			graph("Rows by unit", "ops", Query{"topk(16, " + rate("layer, expert", "pimoe_unit_rows_total") + ")", "layer {{layer}}, expert {{expert}}"}),
			bars("Share of a layer's rows", "percentunit", "sort_desc(max by (layer, expert) ("+of("pimoe_unit_share_ratio")+"))", "layer {{layer}}, expert {{expert}}"),
			graph("Evenness (entropy)", "percentunit", Query{"avg by (layer) (" + of("pimoe_layer_entropy_ratio") + ")", "layer {{layer}}"}),
			graph("Busiest expert against the mean", "short", Query{"max by (layer) (" + of("pimoe_layer_balance_ratio") + ")", "layer {{layer}}"}),
			graph("Drift of the routing", "short", Query{"max by (layer) (" + of("pimoe_layer_drift_ratio") + ")", "layer {{layer}}"}),
		}},
	}}
}
