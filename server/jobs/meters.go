package jobs

import (
	"time"

	"github.com/pimoe/pimoe/core/metrics"
)

// meters are the metrics of jobs. Kinds and states come from tables, so the number of series is bounded; tenants are not
// among the labels.
type meters struct {
	r   *metrics.Registry
	now func() time.Time
}

func newMeters(j *Jobs, r *metrics.Registry) meters {
	for _, s := range States {
		r.Gauge("pimoe_jobs", func() float64 {
			j.mu.Lock()
			defer j.mu.Unlock()
			return float64(j.index.count(s))
		}, "state", string(s))
	}
	r.Gauge("pimoe_jobs_bytes", func() float64 {
		j.mu.Lock()
		defer j.mu.Unlock()
		return float64(j.index.bytes)
	})
	return meters{r, j.Now}
}

// waits are seconds from an answer at once to a queue of a day.
var waits = []float64{.01, .1, 1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600}

func (m meters) began(j Job) {
	m.r.Counter("pimoe_job_attempts_total", "kind", j.Kind).Inc()
	if j.Attempts == 1 {
		m.r.Histogram("pimoe_job_wait_seconds", waits, "kind", j.Kind).Update(m.now().Sub(j.Created).Seconds())
	}
}

func (m meters) took(kind string, d time.Duration) {
	m.r.Histogram("pimoe_job_seconds", waits, "kind", kind).Update(d.Seconds())
}

func (m meters) over(kind string, s State) {
	m.r.Counter("pimoe_jobs_total", "kind", kind, "outcome", string(s)).Inc()
}

func (m meters) refused() { m.r.Counter("pimoe_jobs_refused_total").Inc() }
