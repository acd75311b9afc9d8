package engine

import (
	"context"
	"errors"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/sdk"
)

// The series that others read, too, by their names in the registry: two distributions and a counter.
const (
	TimeToFirstToken = "pimoe_time_to_first_token_seconds"
	InterToken       = "pimoe_inter_token_seconds"
	Answers          = "pimoe_answers_total" // a counter, with the label status
)

// meters are the engine's series.
type meters struct {
	prompt, completion, reused, steps, preemptions *metrics.Counter
	ttft, inter                                    *metrics.Distribution
	queued, step, sequences, tokenRows             *metrics.Histogram
	finished, answers                              map[string]*metrics.Counter
	refused                                        *metrics.Counter
}

// outcomes are the values of the label reason.
var outcomes = []string{"stop", "length", "cancelled", "deadline", "unavailable", "error"}

// newMeters makes the series; the gauges ask the inbox.
func newMeters(r *metrics.Registry, b *inbox, now func() time.Time) *meters {
	gauge := func(name string, value func(Stats) int, labels ...string) {
		r.Gauge(name, func() float64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			s := b.stats
			s.Queued = max(b.waiting.live-s.Running, 0)
			return float64(value(s))
		}, labels...)
	}
	gauge("pimoe_engine_running", func(s Stats) int { return s.Running })
	gauge("pimoe_engine_queued", func(s Stats) int { return s.Queued })
	gauge("pimoe_engine_pages", func(s Stats) int { return s.FreePages - s.CachedPages }, "state", "free")
	gauge("pimoe_engine_pages", func(s Stats) int { return s.CachedPages }, "state", "cached")
	gauge("pimoe_engine_pages", func(s Stats) int { return s.Pages - s.FreePages }, "state", "used")
	r.Gauge("pimoe_kv_used_ratio", b.held)
	r.Gauge("pimoe_queue_oldest_seconds", func() float64 { return b.age(now()).Seconds() })
	rows := []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
	m := &meters{
		prompt:      r.Counter("pimoe_prompt_tokens_total"),
		completion:  r.Counter("pimoe_completion_tokens_total"),
		reused:      r.Counter("pimoe_cached_tokens_total"),
		steps:       r.Counter("pimoe_engine_steps_total"),
		preemptions: r.Counter("pimoe_engine_preemptions_total"),
		ttft:        r.Distribution(TimeToFirstToken, nil),
		inter:       r.Distribution(InterToken, nil),
		queued:      r.Histogram("pimoe_queue_seconds", nil),
		step:        r.Histogram("pimoe_engine_step_seconds", nil),
		sequences:   r.Histogram("pimoe_engine_batch_sequences", rows),
		tokenRows:   r.Histogram("pimoe_engine_batch_tokens", rows),
		finished:    map[string]*metrics.Counter{},
		answers:     map[string]*metrics.Counter{},
		refused:     r.Counter("pimoe_degraded_refused_total"),
	}
	for _, status := range []string{StatusExact, StatusFallback, StatusDegraded} {
		m.answers[status] = r.Counter(Answers, "status", status)
	}
	for _, reason := range outcomes {
		m.finished[reason] = r.Counter("pimoe_engine_finished_total", "reason", reason)
	}
	return m
}

// outcome is the label of a request that ended with err, or with a finish reason.
func outcome(err error, reason FinishReason) string {
	switch {
	case err == nil:
		return string(reason)
	case errors.Is(err, sdk.ErrDeadline):
		return "deadline"
	case errors.Is(err, sdk.ErrUnavailable):
		return "unavailable"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	}
	return "error"
}

// held is the share of the cache's pages that requests hold.
func (b *inbox) held() float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return float64(b.stats.Pages-b.stats.FreePages) / float64(max(b.stats.Pages, 1))
}

// age is how long the oldest request that waits for its first step has waited; 0 = none waits.
func (b *inbox) age(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.oldest.IsZero() {
		return 0
	}
	return max(now.Sub(b.oldest), 0)
}
