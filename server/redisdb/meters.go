package redisdb

import (
	"time"

	"github.com/pimoe/pimoe/core/metrics"
)

// meters count calls by command and outcome: ok, missing, refused, timeout, error, busy, down or cancelled.
type meters struct {
	r      *metrics.Registry
	opened *metrics.Counter
}

func newMeters(r *metrics.Registry, d *DB) *meters {
	r.Gauge("pimoe_redis_up", func() float64 {
		if d.Healthy() {
			return 1
		}
		return 0
	})
	return &meters{r: r, opened: r.Counter("pimoe_redis_losses_total")}
}

func (m *meters) count(op, outcome string) {
	m.r.Counter("pimoe_redis_calls_total", "op", op, "outcome", outcome).Inc()
}

func (m *meters) took(op string, d time.Duration) {
	m.r.Histogram("pimoe_redis_call_seconds", nil, "op", op).Update(d.Seconds())
}
