package instance

import (
	"github.com/pimoe/pimoe/core/config"
	"github.com/pimoe/pimoe/core/metrics"
	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/server/meter"
)

// measured is what the Meter of this instance looks at.
func (i *Instance) measured() meter.Options {
	return meter.Options{
		Every: i.Config.Metrics.Interval, Host: i.Host, Registry: i.Metrics, Model: i.ID, Log: i.Log,
		Volumes: map[string]string{"home": i.Config.Home, "root": "/"},
		Tenants: i.Config.Metrics.Tenants, Units: i.Config.Metrics.Units,
		UnitBytes: func(layer, e int) int64 { return i.unitBytes[expert.Unit{Layer: layer, Expert: e}] },
	}
}

// weigh notes how many bytes each unit of a group is stored in: an expert's file holds its units of all layers, which are of one
// size. A group that stands by for another comes after it, and changes nothing.
func (i *Instance) weigh(plan config.GroupPlan, stored *weights.Model, packed *weights.Variant) {
	if i.unitBytes == nil {
		i.unitBytes = map[expert.Unit]int64{}
	}
	files := stored.Manifest.Files
	if packed != nil {
		files = packed.Files
	}
	layers := int64(max(len(i.Model.SparseLayers()), 1))
	for _, u := range plan.Units {
		if _, known := i.unitBytes[u]; !known {
			i.unitBytes[u] = files[weights.ExpertFile(u.Expert)].Size / layers
		}
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
