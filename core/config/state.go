package config

import (
	"path/filepath"
	"strconv"
	"time"
)

// State is the database of what outlives the host: jobs, and the answers of requests with an idempotency key.
type State struct {
	File string `koanf:"file"` // empty (default) = state.db in Home; "off" = there is none, and neither jobs nor idempotency keys
}

// Path is where the database is; empty if there is none.
func (s State) Path(home string) string {
	switch s.File {
	case "":
		return filepath.Join(home, "state.db")
	case "off":
		return ""
	}
	return s.File
}

// Jobs bound the requests that are run later.
type Jobs struct {
	Concurrency    int           `koanf:"concurrency"`       // running at the same time; default 4
	Timeout        time.Duration `koanf:"timeout"`           // of one attempt; default 10 min
	MaxAttempts    int           `koanf:"max_attempts"`      // that fail for a passing cause or end with the host; default 3
	MaxPerTenant   int           `koanf:"max_per_tenant"`    // kept, in all states; default 1000; one more is 429
	MaxMBPerTenant int           `koanf:"max_mb_per_tenant"` // of requests and results, in MiB; default 256
	MaxMB          int           `koanf:"max_mb"`            // of all tenants; default 1024
	Retention      time.Duration `koanf:"retention"`         // of a result, and of a job that waits; default 24 h
}

// Idempotency bounds the answers that are kept for a repeated request with the same Idempotency-Key.
type Idempotency struct {
	Retention      time.Duration `koanf:"retention"`         // default 24 h
	MaxPerTenant   int           `koanf:"max_per_tenant"`    // default 100000; a request with one more key is 429
	MaxMBPerTenant int           `koanf:"max_mb_per_tenant"` // default 256
	MaxMB          int           `koanf:"max_mb"`            // of all tenants; default 1024
}

func defaultJobs() Jobs {
	return Jobs{Concurrency: 4, Timeout: 10 * time.Minute, MaxAttempts: 3, MaxPerTenant: 1000, MaxMBPerTenant: 256, MaxMB: 1024, Retention: 24 * time.Hour}
}

func defaultIdempotency() Idempotency {
	return Idempotency{Retention: 24 * time.Hour, MaxPerTenant: 100_000, MaxMBPerTenant: 256, MaxMB: 1024}
}

func (v *validator) state(c Config) {
	for key, n := range map[string][2]int{"jobs": {c.Jobs.MaxMBPerTenant, c.Jobs.MaxMB}, "idempotency": {c.Idempotency.MaxMBPerTenant, c.Idempotency.MaxMB}} {
		if n[0] > n[1] {
			v.bad(key+".max_mb_per_tenant", strconv.Itoa(n[0]), "at most "+key+".max_mb ("+strconv.Itoa(n[1])+")")
		}
	}
}
