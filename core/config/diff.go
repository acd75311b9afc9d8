package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"gopkg.in/yaml.v3"

	"github.com/pimoe/pimoe/sdk"
)

// Change is a key that has another value in one configuration than in another.
type Change struct {
	Key  string `json:"key"`
	From string `json:"from"` // as YAML on one line; empty for secrets
	To   string `json:"to"`
	Live bool   `json:"live"` // a running host can take it over
}

// live are the keys that a running host can take over. All others shape what is made once: the trunk, the cache, the
// listeners, what plugins may do. Whether a placement can be changed also depends on what it makes of the model's units.
var live = []string{
	"mode", // only what it changes counts
	"server.drain_timeout",
	"router.plugin", "router.params",
	"experts.max_processes", "experts.group", "experts.backend", "experts.precision", "experts.device", "experts.replicas", "experts.standby", "experts.overrides", "experts.remote",
	"limits.max_concurrent_requests", "limits.max_queued_requests", "limits.request_timeout",
	"log.level",
	"plugins.dir", "plugins.catalogue",
	"limits.rates", "limits.weights", "limits.slowdown_percent", "limits.max_queue_time", "limits.total_memory_mb", "limits.connections_per_client",
	"web.origins", "web.hosts", "web.trusted_proxies",
	"tracing.sample_ratio", "tracing.clients", "tracing.max_per_second", "tracing.step_every",
	"cache.answers", "cache.memory_mb", "cache.ttl",
	"alerts.interval", "alerts.cpu_percent", "alerts.memory_percent", "alerts.disk_free_percent", "alerts.error_percent", "alerts.p95", "alerts.queue_age",
	"alerts.restarts", "alerts.certificate", "alerts.min_tokens_per_second", "alerts.objective_percent", "alerts.overrides",
}

// Live reports whether a running host can take over another value of a key.
func Live(key string) bool { return slices.Contains(live, key) }

// LiveKeys are the keys that a running host can take over.
func LiveKeys() []string { return slices.Clone(live) }

// Diff lists the keys whose values differ, in the order of the struct. Lists and maps are one key each.
func Diff(from, to Config) []Change {
	var out []Change
	walkValues(reflect.ValueOf(from), reflect.ValueOf(to), "", func(key string, a, b reflect.Value) {
		c := Change{Key: key, From: line(a), To: line(b), Live: Live(key)}
		if c.From == c.To {
			return
		}
		if isSecret(key) {
			c.From, c.To = "", ""
		}
		out = append(out, c)
	})
	return out
}

// walkValues visits every setting of two configurations.
func walkValues(a, b reflect.Value, key string, f func(key string, a, b reflect.Value)) {
	for i := range a.NumField() {
		name := join(key, a.Type().Field(i).Tag.Get("koanf"))
		if a.Field(i).Kind() == reflect.Struct {
			walkValues(a.Field(i), b.Field(i), name, f)
			continue
		}
		f(name, a.Field(i), b.Field(i))
	}
}

// line is a value as YAML on one line.
func line(v reflect.Value) string {
	n := node(v)
	flow(n)
	b, err := yaml.Marshal(n)
	if err != nil {
		panic("config: a setting does not become YAML")
	}
	return strings.TrimSpace(string(b))
}

func flow(n *yaml.Node) {
	n.Style |= yaml.FlowStyle
	for _, c := range n.Content {
		flow(c)
	}
}

// Hash names the configuration without its secrets: "sha256:" and the digest of what YAML prints. Two hosts with the same hash
// do the same, as far as the configuration goes.
func (c Config) Hash() string {
	b, err := c.YAML()
	if err != nil {
		panic("config: a configuration does not become YAML")
	}
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// NotLive is the error about changes that a running host can't take over; nil if it can take over all.
func NotLive(changes []Change) error {
	var keys []string
	for _, c := range changes {
		if !c.Live {
			keys = append(keys, c.Key)
		}
	}
	if keys == nil {
		return nil
	}
	return NeedsHost(strings.Join(keys, ", "))
}

// NeedsHost says that something can only be changed by a new host.
func NeedsHost(what string) error {
	return fmt.Errorf("%s can't be changed in a running host: hand over to a new one (pimoe serve --take-over): %w", what, sdk.ErrUnsupported)
}
