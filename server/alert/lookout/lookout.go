// Package lookout holds the rules of server/alert against a host's own metrics, again and again, and tells of what fires and
// resolves: in the log, to a webhook, and to whoever asks for the list.
//
// server starts one Watch for its registry. The package refuses to know how metrics are made, to group or silence alerts (that
// is Alertmanager's work), and to keep more than the last alerts that are over.
package lookout

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/server/alert"
)

// kept is how many alerts that are over are shown: what somebody who comes in the morning wants to see of the night.
const kept = 100

// Options are a Watch's.
type Options struct {
	Rules   []alert.Rule
	Every   time.Duration
	Read    func(io.Writer) // prints the metrics as Prometheus text
	Now     func() time.Time
	Log     *slog.Logger
	Metrics *metrics.Registry
	Webhook WebhookOptions
}

// Watch evaluates rules. Life: Start, the other methods from any goroutine, Close.
type Watch struct {
	o       Options
	webhook *Webhook // nil = none
	stop    chan struct{}
	changed chan struct{} // the period is another one
	done    sync.WaitGroup
	once    sync.Once

	mu      sync.Mutex // guards what follows
	eval    *alert.Evaluator
	rules   []alert.Rule
	every   time.Duration
	last    time.Time
	dropped int
	over    []alert.Alert // the last ones that were resolved, oldest first
}

// Start looks once and goes on in the background.
func Start(o Options) *Watch {
	w := &Watch{
		o: o, stop: make(chan struct{}), changed: make(chan struct{}, 1), eval: alert.NewEvaluator(o.Rules), rules: o.Rules, every: o.Every,
		webhook: startWebhook(o.Webhook, o.Metrics, o.Log),
	}
	for _, s := range alert.Severities() {
		o.Metrics.Gauge("pimoe_alerts_firing", func() float64 { return float64(w.firing(s)) }, "severity", string(s))
	}
	w.Look()
	w.done.Go(w.run)
	return w
}

// Close ends the watch, gives the webhook a moment for what it has not sent, and waits for both.
func (w *Watch) Close() {
	if w == nil {
		return
	}
	w.once.Do(func() { close(w.stop) })
	w.done.Wait()
	w.webhook.Close()
}

// Use takes other rules and another period from now on. Alerts of rules that stay go on.
func (w *Watch) Use(rules []alert.Rule, every time.Duration) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.eval.Use(rules)
	w.rules, w.every = rules, every
	select {
	case w.changed <- struct{}{}:
	default: // it will look at the period anyway
	}
}

// Status is what a Watch knows.
type Status struct {
	Alerts []alert.Alert `json:"alerts"` // pending and firing ones
	Over   []alert.Alert `json:"over"`   // resolved ones, the last one first
	Rules  []alert.Rule  `json:"-"`
	Looked time.Time     `json:"looked"` // when the rules were evaluated last
}

// Status is for any goroutine.
func (w *Watch) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	over := slices.Clone(w.over)
	slices.Reverse(over)
	return Status{Alerts: w.eval.Active(), Over: append([]alert.Alert{}, over...), Rules: w.rules, Looked: w.last}
}

func (w *Watch) firing(s alert.Severity) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.eval.Active() {
		if a.State == alert.Firing && a.Severity == s {
			n++
		}
	}
	return n
}

func (w *Watch) run() {
	for {
		w.mu.Lock()
		every := w.every
		w.mu.Unlock()
		t := time.NewTimer(every)
		select {
		case <-w.stop:
			t.Stop()
			return
		case <-w.changed:
			t.Stop()
		case <-t.C:
			w.Look()
		}
	}
}

// Look evaluates the rules now. The clock must have gone on since the last time; else it does nothing.
func (w *Watch) Look() {
	var text bytes.Buffer
	w.o.Read(&text) // not under the lock: our own gauges ask for it
	at := w.o.Now()
	changed := w.step(at, text.Bytes())
	for _, a := range changed {
		w.tell(a)
	}
	w.webhook.Send(changed)
}

func (w *Watch) step(at time.Time, text []byte) []alert.Alert {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.UnixMilli() <= w.last.UnixMilli() {
		return nil
	}
	samples, err := alert.Parse(text, w.eval.Wants)
	if err != nil {
		w.o.Log.Error("alerts can't be evaluated", "error", err.Error())
		return nil
	}
	w.last = at
	changed := w.eval.Step(at, samples)
	for _, a := range changed {
		if a.State == alert.Resolved {
			w.over = append(w.over, a)
		}
	}
	w.over = w.over[max(0, len(w.over)-kept):]
	if n := w.eval.Dropped(); n > w.dropped {
		if w.dropped == 0 {
			w.o.Log.Warn("more series than alerts are evaluated for: some are left out", "samples", n)
		}
		w.dropped = n
	}
	return changed
}

// tell writes a line of the log.
func (w *Watch) tell(a alert.Alert) {
	level, what := slog.LevelInfo, "alert_resolved"
	if a.State == alert.Firing {
		what = "alert_firing"
		switch a.Severity {
		case alert.Warning:
			level = slog.LevelWarn
		case alert.Critical:
			level = slog.LevelError
		}
	}
	w.o.Log.Log(context.Background(), level, what, "alert", a.Rule, "severity", string(a.Severity), "summary", a.Summary, "labels", a.Labels, "value", a.Value, "since", a.Since, "runbook", a.Runbook)
}
