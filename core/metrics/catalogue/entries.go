package catalogue

// The conditions that several entries share.
const (
	whenMeasured = "`metrics.interval` is not 0"
	whenLinux    = "the host runs on Linux"
	whenSeen     = whenMeasured + ", and the system shows the process to the host"
	whenPlugins  = "`experts.isolation` is process"
	whenUnits    = whenMeasured + ", and `experts.isolation` is process"
	whenTenants  = "the scraper's role is operator or higher"
	whenShares   = whenMeasured + ", and " + whenTenants
	whenRedis    = "`redis.url` is set"
	whenState    = "`state.file` is not off"
	whenJobs     = "jobs have run"
	whenSockets  = "WebSockets have been used"
	whenCache    = "`cache.answers` is on"
	whenLabels   = "a request has had labels for its routes"
)

// entries is the catalogue.
var entries = []Metric{
	{"pimoe_system_cpu_ratio", Gauge, "ratio", "Busy time of all cores of the machine over the last interval", nil, System, whenMeasured},
	{"pimoe_system_memory_used_bytes", Gauge, "bytes", "Memory of the machine that is in use and can't be had back by dropping caches", nil, System, whenMeasured},
	{"pimoe_system_memory_total_bytes", Gauge, "bytes", "Memory of the machine", nil, System, whenMeasured},
	{"pimoe_system_memory_used_ratio", Gauge, "ratio", "Share of the machine's memory that is in use", nil, System, whenMeasured},
	{"pimoe_system_load1", Gauge, "tasks", "Load average of the last minute", nil, System, whenMeasured},
	{"pimoe_system_disk_free_bytes", Gauge, "bytes", "Room that is left for the host's user on the file system of a folder: home is the store's, root is /", []string{"volume"}, System, whenMeasured},
	{"pimoe_system_disk_total_bytes", Gauge, "bytes", "Size of that file system", []string{"volume"}, System, whenMeasured},
	{"pimoe_system_disk_read_bytes_total", Counter, "bytes", "Bytes read from all disks of the machine since it started", nil, System, whenMeasured},
	{"pimoe_system_disk_written_bytes_total", Counter, "bytes", "Bytes written to all disks of the machine since it started", nil, System, whenMeasured},
	{"pimoe_system_network_received_bytes_total", Counter, "bytes", "Bytes received on all network interfaces but loopback", nil, System, whenMeasured},
	{"pimoe_system_network_sent_bytes_total", Counter, "bytes", "Bytes sent on all network interfaces but loopback", nil, System, whenMeasured},
	{"pimoe_energy_joules_total", Counter, "joules", "Energy used since the host started, as the processor's counters (RAPL) say", []string{"domain"}, System, whenMeasured + ", and the machine lets the host read `/sys/class/powercap`"},

	{"pimoe_process_cpu_seconds_total", Counter, "seconds", "CPU time of a process, over all its restarts", []string{"process", "replica"}, Process, whenSeen},
	{"pimoe_process_resident_bytes", Gauge, "bytes", "Memory of a process that is in RAM, shared weights included", []string{"process", "replica"}, Process, whenSeen},
	{"pimoe_process_private_bytes", Gauge, "bytes", "Memory that only this process uses", []string{"process", "replica"}, Process, whenSeen},
	{"pimoe_process_page_faults_total", Counter, "faults", "Page faults of a process, over all its restarts: major ones waited for a disk", []string{"process", "replica", "kind"}, Process, whenSeen},
	{"pimoe_process_open_descriptors", Gauge, "descriptors", "Open file descriptors of a process", []string{"process", "replica"}, Process, whenSeen},
	{"pimoe_process_restarts_total", Counter, "restarts", "Starts of a process after its first one", []string{"process"}, Process, whenPlugins},
	{"process_cpu_seconds_total", Counter, "seconds", "CPU time of the host's own process", nil, Process, ""},
	{"process_resident_memory_bytes", Gauge, "bytes", "Memory of the host's own process that is in RAM", nil, Process, ""},
	{"process_virtual_memory_bytes", Gauge, "bytes", "Address space of the host's own process", nil, Process, whenLinux},
	{"process_start_time_seconds", Gauge, "seconds", "When the host's process started, in seconds since 1970", nil, Process, ""},
	{"process_num_threads", Gauge, "threads", "Threads of the host's own process", nil, Process, whenLinux},
	{"go_goroutines", Gauge, "goroutines", "Goroutines of the host", nil, Process, ""},
	{"go_threads", Gauge, "threads", "Threads that Go has made in the host", nil, Process, ""},
	{"go_gomaxprocs", Gauge, "threads", "Threads of the host that may run Go code at the same time", nil, Process, ""},
	{"go_gc_duration_seconds", Summary, "seconds", "Pauses of the host's garbage collector", nil, Process, ""},
	{"go_memstats_alloc_bytes", Gauge, "bytes", "Live memory in the host's Go heap", nil, Process, ""},
	{"go_memstats_alloc_bytes_total", Counter, "bytes", "Memory that the host has allocated in its Go heap since it started", nil, Process, ""},
	{"go_memstats_mallocs_total", Counter, "objects", "Objects that the host has allocated in its Go heap since it started", nil, Process, ""},
	{"go_memstats_heap_inuse_bytes", Gauge, "bytes", "Spans of the host's Go heap that are in use", nil, Process, ""},
	{"go_memstats_sys_bytes", Gauge, "bytes", "Memory that the host's Go runtime has from the system", nil, Process, ""},
	{"go_info", Gauge, "1", "Version of Go that the host is built with", []string{"version"}, Process, ""},

	{"pimoe_http_requests_total", Counter, "requests", "Requests over HTTP by route and status", []string{"route", "code"}, Application, ""},
	{"pimoe_http_request_seconds", Histogram, "seconds", "From a request's first byte read to its answer's last byte written", []string{"route"}, Application, ""},
	{"pimoe_http_requests_in_flight", Gauge, "requests", "Requests that run now", nil, Application, ""},
	{"pimoe_time_to_first_token_seconds", Histogram, "seconds", "From a request's arrival in the engine to its first new token", nil, Application, ""},
	{"pimoe_inter_token_seconds", Histogram, "seconds", "Between two tokens of one answer", nil, Application, ""},
	{"pimoe_queue_seconds", Histogram, "seconds", "How long requests have waited for their first step", nil, Application, ""},
	{"pimoe_queue_oldest_seconds", Gauge, "seconds", "How long the oldest request that waits for its first step has waited; 0 while none waits", nil, Application, ""},
	{"pimoe_prompt_tokens_total", Counter, "tokens", "Tokens of prompts that were computed or taken over from the prefix cache", nil, Application, ""},
	{"pimoe_completion_tokens_total", Counter, "tokens", "New tokens", nil, Application, ""},
	{"pimoe_cached_tokens_total", Counter, "tokens", "Tokens of prompts that were taken over from the prefix cache", nil, Application, ""},
	{"pimoe_answers_total", Counter, "answers", "Answers by status: exact, fallback or degraded", []string{"status"}, Application, ""},
	{"pimoe_degraded_refused_total", Counter, "requests", "Requests to which the policy refused an answer without an expert", nil, Application, ""},
	{"pimoe_auth_failures_total", Counter, "requests", "Requests that were refused for who they are from, by the code of the answer", []string{"reason"}, Application, ""},
	{"pimoe_rate_limited_total", Counter, "requests", "Requests that were answered with 429, by the limit they met: requests, tokens or concurrent", []string{"limit"}, Application, ""},
	{"pimoe_ws_connections", Gauge, "connections", "Open WebSockets", nil, Application, ""},
	{"pimoe_ws_generations", Gauge, "answers", "Answers of WebSockets that can be resumed", nil, Application, ""},
	{"pimoe_ws_generation_bytes", Gauge, "bytes", "What they take", nil, Application, ""},
	{"pimoe_ws_messages_total", Counter, "messages", "Messages of WebSockets by type, and whether they were taken or refused", []string{"type", "outcome"}, Application, whenSockets},
	{"pimoe_ws_closed_total", Counter, "connections", "Ends of WebSockets by close code", []string{"code"}, Application, whenSockets},
	{"pimoe_ws_resumed_total", Counter, "answers", "Answers that were resumed: kept ones, or computed again", []string{"how"}, Application, whenSockets},

	{"pimoe_engine_running", Gauge, "requests", "Requests that hold a place", nil, Engine, ""},
	{"pimoe_engine_queued", Gauge, "requests", "Requests that wait for one", nil, Engine, ""},
	{"pimoe_engine_pages", Gauge, "pages", "Pages of the cache of keys and values by state: free, cached or used", []string{"state"}, Engine, ""},
	{"pimoe_kv_used_ratio", Gauge, "ratio", "Share of these pages that running requests hold", nil, Engine, ""},
	{"pimoe_engine_steps_total", Counter, "steps", "Steps of the decode loop", nil, Engine, ""},
	{"pimoe_engine_step_seconds", Histogram, "seconds", "How long a step took", nil, Engine, ""},
	{"pimoe_engine_batch_sequences", Histogram, "sequences", "Sequences in a step", nil, Engine, ""},
	{"pimoe_engine_batch_tokens", Histogram, "tokens", "Tokens in a step", nil, Engine, ""},
	{"pimoe_engine_preemptions_total", Counter, "requests", "Times that a running request gave its place up", nil, Engine, ""},
	{"pimoe_engine_finished_total", Counter, "requests", "Requests that are over, by reason", []string{"reason"}, Engine, ""},

	{"pimoe_tenant_requests_total", Counter, "requests", "Requests by tenant; those beyond `metrics.tenants` are counted as (other)", []string{"tenant", "model"}, Business, whenTenants},
	{"pimoe_tenant_tokens_total", Counter, "tokens", "Tokens by tenant and kind, prompt or completion", []string{"tenant", "model", "kind"}, Business, whenTenants},
	{"pimoe_tenant_cpu_seconds_total", Counter, "seconds", "CPU time of host and plugins while requests ran, shared out by the tokens computed for each tenant", []string{"tenant", "model"}, Business, whenShares},
	{"pimoe_tenant_read_bytes_total", Counter, "bytes", "Expert weights that calls have read, shared out in the same way", []string{"tenant", "model"}, Business, whenShares},
	{"pimoe_active_users", Gauge, "users", "Principals that have made a request within the last 5m, 1h or 24h", []string{"window"}, Business, ""},
	{"pimoe_features_used_total", Counter, "requests", "Requests that used a feature of the API", []string{"feature"}, Business, ""},

	{"pimoe_expert_calls_total", Counter, "calls", "Calls that an expert process has answered", []string{"group", "replica"}, Experts, ""},
	{"pimoe_expert_rows_total", Counter, "rows", "Rows of these calls: one for each token and expert", []string{"group", "replica"}, Experts, ""},
	{"pimoe_expert_errors_total", Counter, "calls", "Calls that it has not answered, or not validly", []string{"group", "replica"}, Experts, ""},
	{"pimoe_expert_call_seconds", Histogram, "seconds", "From sending a call to having its answer", []string{"group", "replica"}, Experts, ""},
	{"pimoe_expert_ready", Gauge, "1", "1 while the process may get calls; a replica that is not wanted is not ready", []string{"group", "replica"}, Experts, whenPlugins},
	{"pimoe_expert_replicas_wanted", Gauge, "processes", "How many replicas a group should have now", []string{"group"}, Experts, whenPlugins},
	{"pimoe_expert_retries_total", Counter, "calls", "Calls that were repeated", []string{"group"}, Experts, whenPlugins},
	{"pimoe_expert_hedges_total", Counter, "calls", "Calls that were sent to a second replica, too", []string{"group"}, Experts, whenPlugins},
	{"pimoe_expert_hedges_won_total", Counter, "calls", "Of them, those that the second replica answered first", []string{"group"}, Experts, whenPlugins},
	{"pimoe_expert_nonfinite_total", Counter, "calls", "Answers with a NaN or an infinity, which were not used", []string{"group"}, Experts, whenPlugins},
	{"pimoe_expert_fallback_rows_total", Counter, "rows", "Rows whose expert did not answer, by what was done: fallback, renormalise, substitute or refused", []string{"group", "how"}, Experts, "a policy other than strict was applied"},
	{"pimoe_invariant_violations_total", Counter, "violations", "Contradictions in what the host knows of a group; each is in the log", []string{"group"}, Experts, whenPlugins},
	{"pimoe_rechecks_total", Counter, "calls", "Calls that were computed a second time, by outcome: same, different or skipped", []string{"outcome"}, Experts, whenPlugins},
	{"pimoe_unit_rows_total", Counter, "rows", "Rows that an expert of a layer has computed; of a layer's experts beyond `metrics.units` all together, as other", []string{"layer", "expert"}, Experts, whenUnits},
	{"pimoe_unit_calls_total", Counter, "calls", "Calls that it has answered", []string{"layer", "expert"}, Experts, whenUnits},
	{"pimoe_unit_errors_total", Counter, "calls", "Calls that it has not answered, or not validly", []string{"layer", "expert"}, Experts, whenUnits},
	{"pimoe_unit_busy_seconds_total", Counter, "seconds", "Time of its calls; one call for several experts is shared out by rows", []string{"layer", "expert"}, Experts, whenUnits},
	{"pimoe_unit_share_ratio", Gauge, "ratio", "Share of the layer's rows of the last minute", []string{"layer", "expert"}, Experts, whenUnits},
	{"pimoe_layer_entropy_ratio", Gauge, "ratio", "Entropy of a layer's routes of the last minute, over that of perfectly even ones", []string{"layer"}, Experts, whenUnits},
	{"pimoe_layer_balance_ratio", Gauge, "1", "Rows of a layer's busiest expert in the last minute, over the mean; 1 is even", []string{"layer"}, Experts, whenUnits},
	{"pimoe_layer_drift_ratio", Gauge, "ratio", "Share of a layer's rows that goes elsewhere in the last minute than in the last half hour (total variation)", []string{"layer"}, Experts, whenUnits},

	{"pimoe_router_calls_total", Counter, "calls", "Calls of the router by who has answered: plugin, stand-in or in-process", []string{"source"}, Router, ""},
	{"pimoe_router_errors_total", Counter, "calls", "Calls of the router's plugin that failed", nil, Router, whenPlugins},
	{"pimoe_router_observations_total", Counter, "observations", "Times that a router which learns from load was told of it", nil, Router, whenPlugins},
	{"pimoe_routing_labels_total", Counter, "labels", "Expected experts that requests have named", nil, Router, whenLabels},
	{"pimoe_routing_hits_total", Counter, "labels", "Of them, those that the router chose", nil, Router, whenLabels},
	{"pimoe_routing_accuracy_ratio", Gauge, "ratio", "Share of expected experts that the router chose, since the start", nil, Router, whenLabels},

	{"pimoe_cache_requests_total", Counter, "requests", "Requests by what the cache of answers made of them: hit_memory, hit_redis, hit_flight, miss or bypass", []string{"outcome"}, State, whenCache},
	{"pimoe_cache_stored_total", Counter, "answers", "Answers that were kept", nil, State, whenCache},
	{"pimoe_cache_rejected_total", Counter, "answers", "Answers that may not be kept, and records that may not be given, by reason", []string{"reason"}, State, whenCache},
	{"pimoe_cache_bytes", Gauge, "bytes", "Kept answers in memory", nil, State, whenCache},
	{"pimoe_cache_entries", Gauge, "answers", "Their number", nil, State, whenCache},
	{"pimoe_cache_redis_lost_total", Counter, "calls", "Reads and writes of kept answers that Redis did not do", []string{"op"}, State, "`cache.shared` is redis"},
	{"pimoe_redis_up", Gauge, "1", "1 while Redis answers", nil, State, whenRedis},
	{"pimoe_redis_losses_total", Counter, "losses", "Times that Redis stopped answering", nil, State, whenRedis},
	{"pimoe_redis_calls_total", Counter, "calls", "Calls of Redis by command and outcome", []string{"op", "outcome"}, State, whenRedis},
	{"pimoe_redis_call_seconds", Histogram, "seconds", "How long they took", []string{"op"}, State, whenRedis},
	{"pimoe_jobs", Gauge, "jobs", "Jobs by state", []string{"state"}, State, whenState},
	{"pimoe_jobs_bytes", Gauge, "bytes", "What their requests and results take", nil, State, whenState},
	{"pimoe_jobs_total", Counter, "jobs", "Jobs that are over, by kind and outcome", []string{"kind", "outcome"}, State, whenJobs},
	{"pimoe_job_attempts_total", Counter, "attempts", "Runs of jobs that have begun", []string{"kind"}, State, whenJobs},
	{"pimoe_jobs_refused_total", Counter, "jobs", "Jobs beyond the limits", nil, State, "jobs have been refused"},
	{"pimoe_job_wait_seconds", Histogram, "seconds", "From a job's creation to its first run", []string{"kind"}, State, whenJobs},
	{"pimoe_job_seconds", Histogram, "seconds", "How long a run took", []string{"kind"}, State, whenJobs},
	{"pimoe_idempotency_keys", Gauge, "keys", "Idempotency keys with a kept answer", nil, State, whenState},
	{"pimoe_idempotency_bytes", Gauge, "bytes", "What these answers take", nil, State, whenState},
	{"pimoe_idempotent_replays_total", Counter, "answers", "Kept answers that were given again", nil, State, "a request was repeated"},

	{"pimoe_build_info", Gauge, "1", "What is running", []string{"version", "revision", "go_version"}, Host, ""},
	{"pimoe_config_reloads_total", Counter, "reloads", "Changed configurations by outcome: applied or rejected", []string{"outcome"}, Host, "the host was told to reload"},
	{"pimoe_audit_writable", Gauge, "1", "1 while changes can be recorded", nil, Host, "`audit.file` is not off"},
	{"pimoe_tls_certificate_expires_seconds", Gauge, "seconds", "How long the public listener's certificate is still valid", nil, Host, "`server.tls.cert_file` is set"},
	{"pimoe_metrics_dropped_series_total", Counter, "series", "Series that were not made because there were too many", nil, Host, ""},
	{"pimoe_metrics_collect_seconds", Gauge, "seconds", "How long the last measurement of machine, processes and units took", nil, Host, whenMeasured},
}
