package cost

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Figures are what something has cost.
type Figures struct {
	CPUSeconds float64  `json:"cpu_seconds"`
	ReadBytes  int64    `json:"read_bytes"`
	Joules     *float64 `json:"joules"` // nil = can't be measured here
}

// Tenant is what a tenant has cost, and which part of the host for it.
type Tenant struct {
	Name   string `json:"tenant"`
	Tokens int64  `json:"tokens"` // that were computed for it
	Figures
	Per1000 *Figures   `json:"per_1000_tokens"` // nil without tokens
	Parts   []PartCost `json:"parts"`
}

// PartCost is what a part of the host has cost.
type PartCost struct {
	Name string `json:"part"` // host, router, or an expert group
	Figures
	Per1000 *Figures `json:"per_1000_tokens"` // of all tokens; nil without tokens
}

// Report is all of it, since the host's start.
type Report struct {
	Model   string     `json:"model"`
	Since   time.Time  `json:"since"`
	Seconds float64    `json:"seconds"`
	Tokens  int64      `json:"tokens"`
	Total   Figures    `json:"total"`
	Per1000 *Figures   `json:"per_1000_tokens"` // of all that was used, idle time included
	Tenants []Tenant   `json:"tenants"`         // most CPU time first
	Parts   []PartCost `json:"parts"`           // host and router first, then groups by name
	Experts []UnitCost `json:"experts"`         // a group's add up to what it has cost, to the nanosecond; those of most CPU time first
	// Domains are the joules that the processor has counted, Elsewhere those of them that went to other programs.
	Domains   map[string]float64 `json:"joules_by_domain"`
	Elsewhere float64            `json:"joules_elsewhere"`
	Energy    string             `json:"energy"` // why there are no joules; empty if there are
}

// noEnergy is the reason in reports.
const noEnergy = "no energy counter can be read: /sys/class/powercap/intel-rapl:* is missing or closed to this user"

// Report looks once more and sums up.
func (l *Ledger) Report(model string) Report {
	l.Look()
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{Model: model, Since: l.began.UTC(), Seconds: l.o.Now().Sub(l.began).Seconds(), Tenants: []Tenant{}, Parts: []PartCost{}, Domains: map[string]float64{}}
	measured := len(l.energy) > 0
	if !measured {
		r.Energy = noEnergy
	}
	for d, e := range l.spent {
		r.Domains[d] = joules(e)
	}
	r.Elsewhere = joules(l.others)
	total, parts := Used{}, map[string]Used{}
	for _, a := range l.accounts {
		r.Tokens += a.rows
	}
	for name, a := range l.accounts {
		t, sum := Tenant{Name: name, Tokens: a.rows}, Used{}
		for part, u := range a.parts {
			sum.add(*u)
			p := parts[part]
			p.add(*u)
			parts[part] = p
		}
		t.Figures, t.Per1000 = sum.figures(measured), sum.per1000(a.rows, measured)
		t.Parts = partCosts(a.parts, a.rows, measured)
		total.add(sum)
		r.Tenants = append(r.Tenants, t)
	}
	slices.SortFunc(r.Tenants, func(a, b Tenant) int {
		return cmp.Or(cmp.Compare(b.CPUSeconds, a.CPUSeconds), cmp.Compare(a.Name, b.Name))
	})
	all := map[string]*Used{}
	for name, u := range parts {
		all[name] = &u
	}
	r.Total, r.Per1000, r.Parts = total.figures(measured), total.per1000(r.Tokens, measured), partCosts(all, r.Tokens, measured)
	l.units.share(l.o.Now())
	r.Experts = l.units.costs(l.o.Units, r.Tokens, measured)
	return r
}

// inOrder are the names of parts: the host and the router, then groups.
func inOrder[T any](parts map[string]T) []string {
	rank := map[string]int{hostPart: -2, routerPart: -1}
	return slices.SortedFunc(maps.Keys(parts), func(a, b string) int {
		return cmp.Or(cmp.Compare(rank[a], rank[b]), cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) // e9 before e10
	})
}

func partCosts(parts map[string]*Used, tokens int64, measured bool) []PartCost {
	out := []PartCost{}
	for _, name := range inOrder(parts) {
		out = append(out, PartCost{Name: name, Figures: parts[name].figures(measured), Per1000: parts[name].per1000(tokens, measured)})
	}
	return out
}

// Totals is what each tenant has used, without a look, and what the domains have.
func (l *Ledger) Totals() (tenants map[string]Used, domains map[string]int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tenants = map[string]Used{}
	for name, a := range l.accounts {
		sum := Used{}
		for _, u := range a.parts {
			sum.add(*u)
		}
		tenants[name] = sum
	}
	return tenants, maps.Clone(l.spent)
}

func joules(micro int64) float64 { return float64(micro) / 1e6 }

func (u Used) figures(measured bool) Figures {
	f := Figures{CPUSeconds: float64(u.CPU) / 1e9, ReadBytes: u.Bytes}
	if measured {
		j := joules(u.Energy)
		f.Joules = &j
	}
	return f
}

func (u Used) per1000(tokens int64, measured bool) *Figures {
	if tokens == 0 {
		return nil
	}
	f := u.figures(measured)
	scale := 1000 / float64(tokens)
	f.CPUSeconds *= scale
	f.ReadBytes = int64(float64(f.ReadBytes) * scale)
	if f.Joules != nil {
		*f.Joules *= scale
	}
	return &f
}
