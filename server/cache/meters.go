package cache

import (
	"sync"

	"github.com/pimoe/pimoe/core/metrics"
)

// meters count what becomes of requests and answers. All labels come from the program.
type meters struct {
	r      *metrics.Registry
	stored *metrics.Counter

	mu   sync.Mutex // guards seen
	seen map[string]*metrics.Counter
}

func newMeters(r *metrics.Registry, c *Cache) *meters {
	r.Gauge("pimoe_cache_bytes", func() float64 { return float64(c.memory.WeightedSize()) })
	r.Gauge("pimoe_cache_entries", func() float64 { return float64(c.memory.EstimatedSize()) })
	m := &meters{r: r, stored: r.Counter("pimoe_cache_stored_total"), seen: map[string]*metrics.Counter{}}
	m.seen["stored"] = m.stored
	return m
}

// count adds one to a series, and remembers it under a name for Stats.
func (m *meters) count(name, series string, labels ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen[name] == nil {
		m.seen[name] = m.r.Counter(series, labels...)
	}
	m.seen[name].Inc()
}

// rejected counts answers that may not be kept, and records that may not be given.
func (m *meters) rejected(why string) {
	m.count("rejected_"+why, "pimoe_cache_rejected_total", "reason", why)
}

// lost counts what Redis did not do.
func (m *meters) lost(op string) {
	m.count("redis_lost_"+op, "pimoe_cache_redis_lost_total", "op", op)
}

func (m *meters) counts() map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int64{}
	for name, c := range m.seen {
		out[name] = int64(c.Get())
	}
	return out
}

// Count counts a request by what came of it: hit_memory, hit_redis, hit_flight, miss or bypass.
func (c *Cache) Count(outcome string) {
	c.meters.count(outcome, "pimoe_cache_requests_total", "outcome", outcome)
}

// Rejected counts an answer that may not be kept.
func (c *Cache) Rejected(why string) { c.meters.rejected(why) }
