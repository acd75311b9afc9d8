package config

import "time"

// Metrics says what is measured by the clock, and bounds the series whose number grows with what comes from outside.
type Metrics struct {
	// Interval is the time between two measurements of the machine, the processes and the units; default 1 s, 0 = none.
	Interval time.Duration `koanf:"interval"`
	Tenants  int           `koanf:"tenants"` // counted apart, the most active ones; default 256
	Units    int           `koanf:"units"`   // (layer, expert) pairs counted apart, the busiest ones; default 1024
}

func defaultMetrics() Metrics { return Metrics{Interval: time.Second, Tenants: 256, Units: 1024} }

// shortestInterval is where measuring would begin to cost: a look at 64 processes takes some milliseconds.
const shortestInterval = 100 * time.Millisecond

func (v *validator) metrics(m Metrics) {
	if m.Interval > 0 && m.Interval < shortestInterval {
		v.bad("metrics.interval", m.Interval.String(), "0, or at least "+shortestInterval.String())
	}
}
