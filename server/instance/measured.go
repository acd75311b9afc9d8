package instance

import (
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/server/meter"
)

// measured is what the Meter of this instance looks at.
func (i *Instance) measured() meter.Options {
	return meter.Options{
		Every: i.Config.Metrics.Interval, Host: i.Host, Registry: i.Metrics, Log: i.Log,
		Volumes: map[string]string{"home": i.Config.Home, "root": "/"},
		Units:   i.Config.Metrics.Units,
	}
}

// rescues counts what becomes of rows whose expert did not answer, for the groups whose policy does anything about it.
func (i *Instance) rescues() moe.Rescued {
	type key struct {
		group int
		how   string
	}
	const refused = "refused"
	counters := map[key]*metrics.Counter{}
	for g, p := range i.remedies.policies {
		if p.Kind == moe.Strict {
			continue
		}
		for _, how := range []string{p.Kind.String(), refused} {
			counters[key{g, how}] = i.Metrics.Counter("pimoe_expert_fallback_rows_total", "group", i.plans[g].Name, "how", how)
		}
	}
	return func(group int, how moe.Kind, no bool) {
		k := key{group, how.String()}
		if no {
			k.how = refused
		}
		if c := counters[k]; c != nil {
			c.Inc()
		}
	}
}
