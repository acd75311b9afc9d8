package config

import (
	"time"
)

// Key describes one setting for `config schema`, the documentation and Validate.
type Key struct {
	Name     string   // dotted, such as "limits.max_batch_size"
	Env      string   // its environment variable
	Flat     string   // a second, shorter variable, where one exists
	About    string   // one sentence: meaning and unit
	Enum     []string // allowed values; nil = not an enumeration
	Min, Max int64    // bounds of a number (of milliseconds for a duration); 0, 0 = not a number
	Default  any      // of mode production; a secret has none
	Secret   bool     // never printed; also taken from the variable with _FILE appended
}

// Modes are the documented presets, the default first.
var modes = []string{"production", "development", "staging", "high_performance", "cost_optimized"}

// about is one sentence for every key; a test holds it against the struct.
var about = map[string]string{
	"model":                                  "A folder in Hugging Face's layout, a name in the store, or empty for the embedded model.",
	"home":                                   "Folder of the store with imported models.",
	"mode":                                   "Preset that changes defaults; every value that is set anywhere else wins over it.",
	"server.addr":                            "Listen address of the public API; anything but loopback needs api_key or auth.",
	"server.admin_addr":                      "Listen address of the admin API, loopback only; \"off\" for none.",
	"server.grpc_addr":                       "Listen address of the Open Inference Protocol over gRPC, such as 127.0.0.1:8001; anything but loopback needs api_key or auth; \"off\" for none.",
	"server.alias":                           "The model's id in the API; empty for its own name.",
	"server.drain_timeout":                   "How long a graceful stop waits for running requests.",
	"server.tls.cert_file":                   "PEM file with the public listener's certificate and what leads to its authority; empty for HTTP. A running server follows its changes.",
	"server.tls.key_file":                    "PEM file with the certificate's private key.",
	"server.tls.client_ca_file":              "PEM file with the authorities of clients' certificates.",
	"server.tls.client_auth":                 "none: clients are not asked for a certificate; request: one that is sent must be valid; require: no connection without one. auth.roles gives the names in a certificate roles.",
	"router.plugin":                          "NAME of the executable pimoe-router-NAME.",
	"router.params":                          "Parameters of the router plugin, such as seed.",
	"experts.group":                          "Which units share a process: expert (expert i of every layer), layer, or a map NAME: [{layers, experts}].",
	"experts.max_processes":                  "Most expert processes; experts beyond it are grouped round robin.",
	"experts.backend":                        "NAME of the executable pimoe-expert-NAME: cpu, int8, cuda, ref or another plugin.",
	"experts.precision":                      "Numeric class, such as f32, bf16w-f32, bf16 or int8g32; auto is the backend's own for the dtype of the weights.",
	"experts.replicas":                       "Processes that serve the same units.",
	"experts.standby":                        "Further processes for the same units, which get calls only while no other is ready.",
	"experts.scaling.max_replicas":           "Replicas that a group may have while load, or an operator, calls for more than experts.replicas; 0 for no more.",
	"experts.scaling.busy_percent":           "Percent of the time in which a group's replicas have a call, from which on one more is started.",
	"experts.scaling.window":                 "How long load must be high before a replica is started; before one is stopped it must be low for three times as long.",
	"experts.scaling.cool_down":              "Least time between two changes of a group.",
	"experts.hedge":                          "on: a call that takes unusually long is sent to a second replica, too, and the first answer counts.",
	"experts.recheck_by":                     "replicas: by another replica, the host's own kernels deciding between two; host: also where there is no other one, in the host itself.",
	"experts.recheck_one_in":                 "One expert call of so many is repeated and compared bit for bit; 0 for none.",
	"limits.max_retries":                     "How often an expert call is repeated elsewhere after an invalid answer.",
	"limits.circuit_breaker_threshold":       "Failures in a row after which a replica gets no calls for a while.",
	"experts.overrides":                      "List of {layers, experts, backend, plugin, precision, replicas, policy, fallback, substitutes}; later ones win.",
	"experts.overrides[].layers":             "all, a layer, a range \"0-3\" or a list of them.",
	"experts.overrides[].experts":            "all, an expert, a range \"0-3\" or a list of them.",
	"experts.overrides[].backend":            "Backend of these units; empty keeps experts.backend.",
	"experts.overrides[].plugin":             "Path of an executable; empty for pimoe-expert-BACKEND in the plugins folder.",
	"experts.overrides[].precision":          "Numeric class of these units; empty keeps experts.precision.",
	"experts.overrides[].replicas":           "Processes for these units; 0 keeps experts.replicas.",
	"experts.transport":                      "How tensors travel: shm (shared memory), grpc, or auto for shm where the platform has it.",
	"experts.isolation":                      "process: experts in their own processes; inproc: direct calls in the host, for comparison.",
	"trunk.backend":                          "Backend of attention, dense and shared feed-forward blocks and head.",
	"trunk.precision":                        "Numeric class of the trunk; auto is the backend's own for the dtype of the weights.",
	"kv_cache.dtype":                         "Storage type of keys and values.",
	"kv_cache.memory_mb":                     "Memory of the cache in MiB; 0 sizes it from the limits, bounded by a quarter of the machine's memory.",
	"policy":                                 "What happens when an expert can't answer: strict waits for its restart or fails with the cause; the others answer at once and say so.",
	"degraded.max_dropped_mass":              "Largest share of a token's gate mass that policy renormalise drops, from 0 to 1; a token beyond it has no answer.",
	"degraded.min_experts":                   "Experts that policy renormalise leaves to a token at least.",
	"degraded.fallback.backend":              "Backend whose processes stand by, under policy fallback, to compute the same experts in another numeric class.",
	"degraded.fallback.plugin":               "Path of their executable; empty for pimoe-expert-BACKEND in the plugins folder.",
	"degraded.fallback.precision":            "Their numeric class; empty for auto.",
	"degraded.substitutes":                   "Under policy substitute, which expert stands in for which in every layer: {6: 7} puts 7 in the place of 6.",
	"experts.overrides[].policy":             "Policy of these units; empty keeps policy.",
	"experts.overrides[].fallback.backend":   "As degraded.fallback.backend, for these units.",
	"experts.overrides[].fallback.plugin":    "As degraded.fallback.plugin, for these units.",
	"experts.overrides[].fallback.precision": "As degraded.fallback.precision, for these units.",
	"experts.overrides[].substitutes":        "As degraded.substitutes, for these units.",
	"limits.max_batch_size":                  "Sequences in one step.",
	"limits.max_batch_tokens":                "Tokens in one step; longer prompts are computed in chunks of it.",
	"limits.max_sequence_length":             "Most tokens of prompt and continuation; the model's own limit applies too.",
	"limits.max_concurrent_requests":         "Requests that run at the same time.",
	"limits.max_queued_requests":             "Requests that wait behind them; one more is answered with 503.",
	"limits.request_timeout":                 "Deadline of a request, queueing included.",
	"limits.memory_mb":                       "Memory of all expert processes in MiB: the weights in use, once, and what each process has for itself; 0 for no limit.",
	"limits.rates":                           "List of {key, tenant, role, per, requests, tokens, concurrent}; the first that fits a principal holds, and of those per tenant the first one too.",
	"limits.rates[].key":                     "Id of a principal, such as key:ab12cd34; empty for any.",
	"limits.rates[].tenant":                  "A tenant; empty for any.",
	"limits.rates[].role":                    "viewer, user, operator or admin; empty for any.",
	"limits.rates[].per":                     "principal: each principal has these limits; tenant: all of a tenant share them. Empty for principal.",
	"limits.rates[].requests":                "Requests a minute; 0 for no limit.",
	"limits.rates[].tokens":                  "Tokens a minute, of prompts and answers; 0 for no limit.",
	"limits.rates[].concurrent":              "Requests at the same time; 0 for no limit.",
	"limits.weights":                         "Shares of tenants that wait at the same time, such as {acme: 4}; a tenant that is not listed has 1.",
	"limits.max_queue_time":                  "Longest time that a request may have to wait for its turn, as the last seconds foretell it; one that would wait longer gets 503 at once. 0 for up to its deadline.",
	"limits.total_memory_mb":                 "Memory of the host and all plugins in MiB; from 80 percent on new work gets 503. 0 for the limit of the cgroup, if there is one.",
	"limits.connections_per_client":          "Connections of one client address, trusted proxies apart; 0 for no limit.",
	"limits.threads":                         "Threads for arithmetic; 0 for all cores.",
	"log.level":                              "Least level that is logged.",
	"log.format":                             "console, json, or auto for console on a terminal and json elsewhere.",
	"log.mask":                               "Kinds of personal data that are masked in the log: email, card, phone; keys, tokens and other secrets always are.",
	"audit.file":                             "File of the log of changes; empty for audit/audit.jsonl in home, off for none.",
	"encryption.key_file":                    "File with the keys that seal records at rest, as pimoe encryption new-key makes it; empty keeps records as they are.",
	"state.file":                             "File of the database of jobs and idempotency keys; empty for state.db in home, off for none of both.",
	"jobs.concurrency":                       "Jobs that run at the same time.",
	"jobs.timeout":                           "Deadline of one attempt of a job.",
	"jobs.max_attempts":                      "Attempts of a job that fail for a passing cause, or end with the host, before it has failed.",
	"jobs.max_per_tenant":                    "Jobs that are kept for a tenant; one more is answered with 429.",
	"jobs.max_mb_per_tenant":                 "Requests and results of a tenant's jobs in MiB.",
	"jobs.max_mb":                            "Requests and results of all jobs in MiB.",
	"jobs.retention":                         "How long a result is kept after the job's end, and how long a job may wait for its turn.",
	"idempotency.retention":                  "How long the answer of a request with an Idempotency-Key is kept for its repetition.",
	"idempotency.max_per_tenant":             "Idempotency keys that are kept for a tenant; one more is answered with 429.",
	"idempotency.max_mb_per_tenant":          "Answers that are kept for a tenant in MiB.",
	"idempotency.max_mb":                     "Answers that are kept for all tenants in MiB.",
	"api_key":                                "A key with role user, at least 16 characters; pimoe keys makes others. An address beyond loopback needs one, or auth.",
	"auth.admin":                             "local: the admin listener takes whoever reaches it without a credential as admin; required: it asks for a credential.",
	"auth.public_admin":                      "Serve the admin API on the public listener, too, for keys, tokens and sessions whose role allows it.",
	"auth.keys_file":                         "File of the keys that pimoe keys makes; empty for keys.json in home.",
	"auth.roles":                             "Role for values of role claims, such as {platform-team: operator}; a value that is a role's name needs no entry.",
	"auth.jwt.issuer":                        "Issuer of the JWTs that are taken as bearer tokens; empty takes none.",
	"auth.jwt.audience":                      "Audience that a token must name.",
	"auth.jwt.algorithms":                    "Signatures that are taken; empty for HS256 with a secret, else RS256, PS256, ES256 and EdDSA.",
	"auth.jwt.jwks_url":                      "Address of the issuer's key set; https, or http on loopback.",
	"auth.jwt.jwks_file":                     "File with a key set instead.",
	"auth.jwt.secret_file":                   "File with an HMAC secret of at least 32 bytes instead.",
	"auth.jwt.leeway":                        "How far the issuer's clock may differ.",
	"auth.jwt.role_claim":                    "Claim with roles or groups; a dot leads into an object, such as realm_access.roles.",
	"auth.jwt.tenant_claim":                  "Claim with the tenant; empty puts all into one.",
	"auth.oidc.issuer":                       "Issuer of the OpenID Connect provider where people log in; empty for no login.",
	"auth.oidc.client_id":                    "This server's id at the provider.",
	"auth.oidc.client_secret":                "This server's secret at the provider; empty for a public client.",
	"auth.oidc.redirect_url":                 "This server's /auth/callback as browsers reach it, exactly as the provider has it.",
	"auth.oidc.scopes":                       "Scopes to ask for; openid must be among them.",
	"auth.oidc.role_claim":                   "Claim of the ID token with roles or groups.",
	"auth.oidc.tenant_claim":                 "Claim of the ID token with the tenant; empty puts all into one.",
	"auth.oidc.session_idle":                 "A session without a request for so long ends.",
	"auth.oidc.session_max":                  "Every session ends after it.",
	"web.origins":                            "Origins whose pages may use the API from a browser and open WebSockets, such as [https://app.example.com]; empty for this server's own pages only.",
	"web.hosts":                              "Names in the header Host that are answered, such as [pimoe.example.com]; empty for any, and for local names only while nobody needs a credential.",
	"web.trusted_proxies":                    "Addresses or networks of proxies whose X-Forwarded-For is believed, such as [10.0.0.0/8]; empty for nobody's.",
	"chaos.enabled":                          "Let admins kill and stop expert processes through the API and the console, to see what comes of it.",
	"plugins.dir":                            "Folder of the plugin executables.",
	"plugins.catalogue":                      "File that lists the plugins that may be started, with their digests; empty for plugins.yaml in plugins.dir.",
	"plugins.confine":                        "strict: plugins get what they need and nothing else; off: all rights of the host's user.",
	"plugins.dev":                            "Also start executables that are in no catalogue, or that others can write: for those who build plugins.",
	"plugins.users":                          "User ids of plugin processes where the host is root: auto, a range FIRST-LAST with one for each process number of the system, or off for the host's own.",
	"plugins.cpus":                           "Most cores that a plugin process uses; 0 for up to four for calls, and whatever its runtime takes.",
	"cache.answers":                          "on: an answer that would be the same if it were computed again (temperature 0) is kept for its tenant; off: none is.",
	"cache.memory_mb":                        "Memory for kept answers in MiB.",
	"cache.ttl":                              "How long an answer is kept.",
	"cache.shared":                           "redis: hosts share answers through redis.url, sealed by encryption.key_file; off: each host has its own.",
	"redis.url":                              "Redis that hosts share: redis://HOST:PORT/DB, or rediss:// for TLS; empty for none. The password is never part of it.",
	"redis.username":                         "User of Redis' access list; empty for its default user.",
	"redis.password":                         "Password of that user.",
	"redis.ca_file":                          "PEM file of the authority that signs Redis' certificate; empty for the system's.",
	"redis.timeout":                          "Most that a request waits for Redis; a server that is slower counts as not there.",
	"redis.prefix":                           "Before every key in Redis, so that installations can share one.",
	"plugins.memory_mb":                      "Most private memory of a plugin process in MiB; 0 for 2 GiB and four times its weights, -1 for no limit.",
}

// enums are the keys that take one of a few words.
var enums = map[string][]string{
	"mode":                   modes,
	"experts.transport":      {"auto", "shm", "grpc"},
	"experts.isolation":      {"process", "inproc"},
	"experts.hedge":          {"on", "off"},
	"experts.recheck_by":     {"replicas", "host"},
	"trunk.backend":          {"cpu", "int8", "ref"},
	"trunk.precision":        {"auto", "f32", "bf16w-f32", "f16w-f32", "bf16", "int8g32"},
	"kv_cache.dtype":         {"f32", "f16", "bf16"},
	"policy":                 policies,
	"auth.admin":             {"local", "required"},
	"server.tls.client_auth": {"none", "request", "require"},
	"plugins.confine":        {"strict", "off"},
	"log.level":              {"trace", "debug", "info", "warn", "error"},
	"log.format":             {"auto", "console", "json"},
	"cache.answers":          {"on", "off"},
	"cache.shared":           {"off", "redis"},
}

// classes are the numeric classes of the backends that belong to the project. Another backend is a plugin, which knows its
// own; whether the weights' dtype fits a class shows when the model is opened.
var classes = map[string][]string{
	"cpu":  {"auto", "f32", "bf16w-f32", "f16w-f32", "bf16"},
	"cuda": {"auto", "f32", "bf16w-f32", "f16w-f32", "int8g32", "cuda-bf16", "cuda-f16"},
	"int8": {"auto", "int8g32"},
	"ref":  {"auto", "f32", "bf16w-f32", "f16w-f32"},
}

// bounds are the keys that are numbers or durations (in milliseconds). The upper ends are far beyond any machine that
// exists and only catch slips such as a number of bytes where tokens are meant.
var bounds = map[string][2]int64{
	"server.drain_timeout":             {0, ms(time.Hour)},
	"auth.jwt.leeway":                  {0, ms(time.Minute)},
	"auth.oidc.session_idle":           {ms(time.Minute), ms(24 * time.Hour)},
	"auth.oidc.session_max":            {ms(time.Minute), ms(7 * 24 * time.Hour)},
	"experts.max_processes":            {1, 1024},
	"experts.replicas":                 {1, 64},
	"experts.overrides[].replicas":     {0, 64},
	"kv_cache.memory_mb":               {0, 16 << 20},
	"degraded.min_experts":             {1, 1024},
	"limits.max_batch_size":            {1, 4096},
	"limits.max_batch_tokens":          {1, 1 << 20},
	"limits.max_sequence_length":       {1, 16 << 20},
	"limits.max_concurrent_requests":   {1, 1 << 20},
	"limits.max_queued_requests":       {0, 1 << 20},
	"limits.request_timeout":           {1, ms(7 * 24 * time.Hour)},
	"limits.threads":                   {0, 4096},
	"plugins.memory_mb":                {-1, 16 << 20},
	"plugins.cpus":                     {0, 1024},
	"limits.memory_mb":                 {0, 16 << 20},
	"experts.scaling.max_replicas":     {0, 64},
	"experts.scaling.busy_percent":     {1, 100},
	"experts.scaling.window":           {ms(time.Second / 10), ms(time.Hour)},
	"experts.scaling.cool_down":        {0, ms(24 * time.Hour)},
	"experts.standby":                  {0, 64},
	"jobs.concurrency":                 {1, 1024},
	"jobs.timeout":                     {ms(time.Second), ms(7 * 24 * time.Hour)},
	"jobs.max_attempts":                {1, 100},
	"jobs.max_per_tenant":              {1, 1000000},
	"jobs.max_mb_per_tenant":           {1, 1 << 20},
	"jobs.max_mb":                      {1, 1 << 20},
	"jobs.retention":                   {ms(time.Second), ms(90 * 24 * time.Hour)},
	"idempotency.retention":            {ms(time.Second), ms(90 * 24 * time.Hour)},
	"idempotency.max_per_tenant":       {1, 10000000},
	"idempotency.max_mb_per_tenant":    {1, 1 << 20},
	"idempotency.max_mb":               {1, 1 << 20},
	"experts.recheck_one_in":           {0, 1 << 30},
	"limits.max_retries":               {0, 16},
	"limits.rates[].requests":          {0, 100_000_000},
	"limits.rates[].tokens":            {0, 100_000_000},
	"limits.rates[].concurrent":        {0, 1 << 20},
	"limits.max_queue_time":            {0, ms(24 * time.Hour)},
	"limits.total_memory_mb":           {0, 16 << 20},
	"limits.connections_per_client":    {0, 1 << 20},
	"limits.circuit_breaker_threshold": {1, 1000},
	"cache.memory_mb":                  {1, 1 << 20},
	"cache.ttl":                        {ms(time.Second), ms(30 * 24 * time.Hour)},
	"redis.timeout":                    {1, ms(time.Second)},
}

// flat are the short environment variables of settings that people know from elsewhere.
var flat = map[string]string{
	"PIMOE_MAX_BATCH_SIZE":            "limits.max_batch_size",
	"PIMOE_MAX_SEQUENCE_LENGTH":       "limits.max_sequence_length",
	"PIMOE_MAX_CONCURRENT_REQUESTS":   "limits.max_concurrent_requests",
	"PIMOE_REQUEST_TIMEOUT":           "limits.request_timeout",
	"PIMOE_LOG_LEVEL":                 "log.level",
	"PIMOE_PLUGINS":                   "plugins.dir",
	"PIMOE_MAX_RETRIES":               "limits.max_retries",
	"PIMOE_CIRCUIT_BREAKER_THRESHOLD": "limits.circuit_breaker_threshold",
}

// otherEnv are variables of the project that are no settings: the file's own path, the choice of kernels, the key that commands send, and what the
// tests read.
var otherEnv = []string{"PIMOE_CONFIG", "PIMOE_CPU", "PIMOE_BIN", "PIMOE_ADMIN_KEY_FILE"}

// otherEnvPrefixes are the same as families.
var otherEnvPrefixes = []string{"PIMOE_TEST_"}

// presets are the values that a mode changes. production is the defaults. Presets never touch the arithmetic, the
// addresses or the placement of single experts, so that a mode never changes an answer or who can reach the server.
var presets = map[string]map[string]any{
	"production": {},
	"development": { // one developer at a terminal: everything visible, nothing times out in a debugger
		"log.level": "debug", "log.format": "console",
		"limits.request_timeout": 10 * time.Minute, "limits.max_concurrent_requests": 16,
		"limits.max_queued_requests": 16, "server.drain_timeout": 2 * time.Second,
	},
	"staging": { // production's limits with everything written down for a collector
		"log.level": "debug", "log.format": "json",
	},
	"high_performance": { // throughput first: larger steps, more requests at once
		"limits.max_batch_size": 64, "limits.max_batch_tokens": 2048,
		"limits.max_concurrent_requests": 256, "limits.max_queued_requests": 4096,
	},
	"cost_optimized": { // a small machine: fewer processes, a small cache, short queues
		"experts.max_processes": 8, "kv_cache.memory_mb": 256,
		"limits.max_batch_size": 16, "limits.max_batch_tokens": 256,
		"limits.max_concurrent_requests": 32, "limits.max_queued_requests": 100,
	},
}

func ms(d time.Duration) int64 { return d.Milliseconds() }
