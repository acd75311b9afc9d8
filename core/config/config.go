// Package config is the operator's configuration: one struct whose field comments give meaning, unit, default and
// zero; Default, Load (flag > environment > file > defaults) and Validate, which reports every problem at once.
//
// Experts.Groups turns the placement settings and a model's shape into groups of units, as a pure function.
//
// server, core/host and server/cmd/pimoe use it. It refuses unknown keys in files, keys without effect and secrets on
// the command line; it never logs: what is worth a warning is returned.
package config

import (
	"path/filepath"
	"time"
)

// Config is everything an operator can set.
type Config struct {
	// Model is a folder, a name in the store, or empty for the embedded model.
	Model string `koanf:"model"`
	// Home is the folder of the store. Default: $XDG_DATA_HOME/pimoe, else ~/.local/share/pimoe.
	Home   string `koanf:"home"`
	Mode   string `koanf:"mode"` // preset: production (default), development, staging, high_performance, cost_optimized
	Server Server `koanf:"server"`
	Router Router `koanf:"router"`
	// Experts says how the routed experts are spread over processes.
	Experts Experts `koanf:"experts"`
	// Trunk says how all that is no routed expert is computed: attention, dense and shared feed-forward blocks, the head.
	Trunk   Trunk   `koanf:"trunk"`
	KVCache KVCache `koanf:"kv_cache"`
	// Policy says what happens when an expert can't answer: strict (default), fallback, renormalise, substitute.
	Policy string `koanf:"policy"`
	// Degraded are the bounds and means of the policies other than strict.
	Degraded Degraded `koanf:"degraded"`
	Limits   Limits   `koanf:"limits"`
	Log      Log      `koanf:"log"`
	Audit    Audit    `koanf:"audit"`
	// Encryption says how what is kept of requests and answers is sealed at rest.
	Encryption Encryption `koanf:"encryption"`
	// State is the database of Jobs and Idempotency.
	State       State       `koanf:"state"`
	Jobs        Jobs        `koanf:"jobs"`
	Idempotency Idempotency `koanf:"idempotency"`
	// APIKey is a key with role user; with neither it nor Auth the server listens on loopback only. Also PIMOE_API_KEY_FILE. Never logged or printed.
	APIKey string `koanf:"api_key" secret:"true"`
	// Auth says who else is let in, and as what.
	Auth Auth `koanf:"auth"`
	// Web says which pages, names and proxies are trusted.
	Web Web `koanf:"web"`
	// Plugins says which executables may be started, and how they are confined.
	Plugins Plugins `koanf:"plugins"`
	// Redis is what hosts share, where they do.
	Redis Redis `koanf:"redis"`
	Cache Cache `koanf:"cache"`
	Chaos Chaos `koanf:"chaos"`
	// Metrics says what is measured by the clock, and how many series there may be.
	Metrics Metrics `koanf:"metrics"`
	// Alerts are the rules that the host holds against its own metrics.
	Alerts Alerts `koanf:"alerts"`
	// Tracing follows some requests on their way; Profiling tells where the host spends its time.
	Tracing   Tracing   `koanf:"tracing"`
	Profiling Profiling `koanf:"profiling"`
}

// Chaos is for demonstrations and rehearsals.
type Chaos struct {
	// Enabled lets admins kill and stop expert processes through the API and the console. Default false.
	Enabled bool `koanf:"enabled"`
}

// Plugins are the executables that serve experts and routers.
type Plugins struct {
	// Dir is the folder of the plugin executables. Default: the folder of the pimoe executable.
	Dir string `koanf:"dir"`
	// Catalogue is the file that lists which executables may be started. Empty = plugins.yaml in Dir.
	Catalogue string `koanf:"catalogue"`
	// Confine is "strict" (default) or "off": plugins then run with all rights of the host's user.
	Confine string `koanf:"confine"`
	// Dev starts executables that are in no catalogue or that others can write, for those who build them.
	Dev bool `koanf:"dev"`
	// Users are the user ids of plugin processes where the host is root: "auto" (default), a range FIRST-LAST with at least
	// as many as the system has process numbers, or "off" for the host's own.
	Users string `koanf:"users"`
	// MemoryMB bounds the private memory of a plugin process. 0 (default) = by the size of its weights, -1 = unlimited.
	MemoryMB int `koanf:"memory_mb"`
	// CPUs bounds the cores that a plugin process uses, by its cgroup too where the host may make some. 0 (default) = up to four for
	// calls.
	CPUs int `koanf:"cpus"`
}

// AutoUsers is the range of Plugins.Users "auto": room for every process number that Linux gives, far from the ids of
// people, services and containers.
const AutoUsers = "1073741824-1077936127"

// UserRange is the range of user ids; 0, 0 for the host's own. It must be valid.
func (p Plugins) UserRange() (first, last uint32) {
	text := p.Users
	if text == "auto" {
		text = AutoUsers
	}
	first, last, _ = parseUsers(text)
	return first, last
}

// Audit is the log of changes that a server keeps.
type Audit struct {
	File string `koanf:"file"` // empty (default) = audit/audit.jsonl in Home; "off" = none is kept
}

// Path is where the log is; empty if none is kept.
func (a Audit) Path(home string) string {
	switch a.File {
	case "":
		return filepath.Join(home, "audit", "audit.jsonl")
	case "off":
		return ""
	}
	return a.File
}

// Server is where the host listens.
type Server struct {
	Addr      string `koanf:"addr"`       // public API; default 127.0.0.1:8080; not loopback needs APIKey or Auth
	AdminAddr string `koanf:"admin_addr"` // admin API, loopback only; default 127.0.0.1:8081; "off" = none
	GRPCAddr  string `koanf:"grpc_addr"`  // Open Inference Protocol over gRPC; "off" (default) = none; not loopback needs APIKey or Auth
	Alias     string `koanf:"alias"`      // the model's id in the API; empty = its store name
	// DrainTimeout is how long SIGTERM waits for running requests. Default 30 s.
	DrainTimeout time.Duration `koanf:"drain_timeout"`
	// TLS is for the public listener; without a certificate it speaks HTTP.
	TLS TLS `koanf:"tls"`
}

// Router chooses the routing strategy.
type Router struct {
	Plugin string            `koanf:"plugin"` // NAME of pimoe-router-NAME; default "model"
	Params map[string]string `koanf:"params"` // the plugin's own, such as seed
}

// Experts places units in processes.
type Experts struct {
	// Group is "expert" (default: expert i of every layer = one process), "layer", or a map NAME: [{layers, experts}].
	Group        any    `koanf:"group"`
	MaxProcesses int    `koanf:"max_processes"` // default 64; further experts are grouped round robin
	Backend      string `koanf:"backend"`       // NAME of the built-in backend or of a plugin; default "cpu"
	Precision    string `koanf:"precision"`     // numeric class; default "auto" = the backend's own for the weights' dtype
	Device       string `koanf:"device"`        // that a backend such as cuda computes on: a number; default "auto" = each process takes the one with the most free memory
	Replicas     int    `koanf:"replicas"`      // default 1
	Standby      int    `koanf:"standby"`       // further processes that get calls only while no other is ready; default 0
	// Scaling lets groups have more replicas while load calls for them.
	Scaling      Scaling    `koanf:"scaling"`
	Hedge        string     `koanf:"hedge"`          // "on" (default): a slow call is sent to a second replica, too; or "off"
	RecheckBy    string     `koanf:"recheck_by"`     // "replicas" (default): by another replica; "host": where there is none, by the host's own kernels
	RecheckOneIn int        `koanf:"recheck_one_in"` // one call of so many is repeated elsewhere and compared; default 1000, 0 = none
	Overrides    []Override `koanf:"overrides"`      // later ones win
	Remote       []Remote   `koanf:"remote"`         // groups that run on other machines; empty (default) = all run here
	Transport    string     `koanf:"transport"`      // tensors by "auto" (default: shared memory where the platform has it), "shm" or "grpc"
	Isolation    string     `koanf:"isolation"`      // "process" (default) or "inproc"
}

// Scaling says how the number of replicas follows load, between Experts.Replicas and MaxReplicas.
type Scaling struct {
	MaxReplicas int           `koanf:"max_replicas"` // 0 (default) = as many as there are at the start, always
	BusyPercent int           `koanf:"busy_percent"` // of the time in which replicas have a call, from which on one more is started; default 75
	Window      time.Duration `koanf:"window"`       // how long load must be high; it must be low for three of them; default 10 s
	CoolDown    time.Duration `koanf:"cool_down"`    // between two changes of a group; default 30 s
}

// Override changes how some units are served. An empty or zero field keeps the value of Experts.
type Override struct {
	Layers  any    `koanf:"layers"`  // "all" or a list of layer numbers and ranges "0-3"
	Experts any    `koanf:"experts"` // "all" or a list of expert numbers and ranges
	Backend string `koanf:"backend"`
	Plugin  string `koanf:"plugin"` // path of an executable; empty = pimoe-expert-BACKEND in Plugins
	// Precision is a numeric class; one group never mixes classes, so an override splits groups where needed.
	Precision string `koanf:"precision"`
	// Device is a number or auto. An override with another backend is on auto until it, or a later one, says more.
	Device   string `koanf:"device"`
	Replicas int    `koanf:"replicas"`
	// Policy, Fallback and Substitutes are what these units do while they can't answer; empty keeps the model's.
	Policy      string            `koanf:"policy"`
	Fallback    Alternative       `koanf:"fallback"`
	Substitutes map[string]string `koanf:"substitutes"`
}

// Degraded says how far answers without some experts may go, and what stands in for them.
type Degraded struct {
	// MaxDroppedMass is the largest share of a token's gate mass that renormalise drops; default 0.25.
	MaxDroppedMass float64 `koanf:"max_dropped_mass"`
	MinExperts     int     `koanf:"min_experts"` // that renormalise leaves to a token; default 1
	// Fallback computes the same experts in another numeric class, in processes that run beside the main ones.
	Fallback    Alternative       `koanf:"fallback"`
	Substitutes map[string]string `koanf:"substitutes"` // expert: the one that stands in for it, in every layer
}

// Alternative is another way to compute an expert.
type Alternative struct {
	Backend   string `koanf:"backend"`   // NAME of pimoe-expert-NAME
	Plugin    string `koanf:"plugin"`    // path of an executable; empty = pimoe-expert-BACKEND in Plugins
	Precision string `koanf:"precision"` // numeric class; empty = auto
}

// Trunk chooses the arithmetic of the trunk.
type Trunk struct {
	Backend   string `koanf:"backend"`   // "cpu" (default), "int8" or "ref"
	Precision string `koanf:"precision"` // numeric class; default "auto" = the backend's own for the weights' dtype
}

// KVCache is the cache of keys and values.
type KVCache struct {
	DType    string `koanf:"dtype"`     // f32 (default), f16, bf16
	MemoryMB int    `koanf:"memory_mb"` // 0 (default) = enough for max_concurrent_requests... bounded by a quarter of memory
}

// Limits bound what one request and all requests may take.
type Limits struct {
	MaxBatchSize          int           `koanf:"max_batch_size"`          // sequences in one step; default 32
	MaxBatchTokens        int           `koanf:"max_batch_tokens"`        // tokens in one step, prompts in chunks; default 512
	MaxSequenceLength     int           `koanf:"max_sequence_length"`     // default 2048; the context limit is the smaller of this and the model's
	MaxConcurrentRequests int           `koanf:"max_concurrent_requests"` // running; default 100
	MaxQueuedRequests     int           `koanf:"max_queued_requests"`     // behind them; default 1000; a full queue is 503
	RequestTimeout        time.Duration `koanf:"request_timeout"`         // default 30 s
	Threads               int           `koanf:"threads"`                 // 0 (default) = all cores
	// MemoryMB bounds the memory of all plugin processes together, in MiB; 0 (default) = unlimited.
	MemoryMB   int `koanf:"memory_mb"`
	MaxRetries int `koanf:"max_retries"` // of an expert call that was answered wrongly; default 2
	// CircuitBreakerThreshold is how many failures in a row take a replica out of use for a while; default 10.
	CircuitBreakerThreshold int `koanf:"circuit_breaker_threshold"`
	// Rates are what principals and tenants may ask for; empty (default) = as much as the server can.
	Rates []Rate `koanf:"rates"`
	// Weights are the shares of tenants that wait at the same time, from 1 to 1000; one that is not listed has 1.
	Weights map[string]string `koanf:"weights"`
	// SlowdownPercent is by how much tenants that ask for more than their share may lengthen the steps of others; default 5,
	// 0 = not bounded.
	SlowdownPercent int `koanf:"slowdown_percent"`
	// MaxQueueTime is how long a request may have to wait for its place, by what the last seconds have shown; one that would
	// wait longer is answered with 503 at once. Default 2 s, 0 = up to its deadline.
	MaxQueueTime time.Duration `koanf:"max_queue_time"`
	// TotalMemoryMB bounds the memory of the host and all plugin processes together, in MiB: from 80 % of it on new work is
	// refused. 0 (default) = the cgroup's limit, if it has one.
	TotalMemoryMB int `koanf:"total_memory_mb"`
	// ConnectionsPerClient bounds the connections of one address, trusted proxies apart; default 512, 0 = no bound.
	ConnectionsPerClient int `koanf:"connections_per_client"`
}

// Log is how the host logs, to standard error.
type Log struct {
	Level  string `koanf:"level"`  // trace, debug, info (default), warn, error
	Format string `koanf:"format"` // console (default on a terminal) or json; "auto"
	// Mask are the kinds of personal data that never get into a line: email, card, phone; default all. Secrets never do.
	Mask []string `koanf:"mask"`
}
