package meter

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/pimoe/pimoe/core/host"
)

// units tells how the rows of each layer spread over its experts.
type units struct {
	layers  []int
	experts int
	most    int // units with series of their own

	last  []host.UnitCounts // of all units, in the order of host.Layout
	own   []host.UnitCounts // what is printed for a unit
	rest  []host.UnitCounts // by layer: of those without series of their own
	named []bool
	short []float64 // rows of the last minute, about: older ones fade
	long  []float64 // of the last half hour
	at    time.Time
}

// The times in which what was counted fades to 1/e.
const (
	shortTime = time.Minute
	longTime  = 30 * time.Minute
)

func newUnits(l host.Layout, most int) *units {
	n := len(l.Layers) * l.Experts
	u := &units{
		layers: l.Layers, experts: l.Experts, most: most,
		last: make([]host.UnitCounts, n), own: make([]host.UnitCounts, n), rest: make([]host.UnitCounts, len(l.Layers)),
		named: make([]bool, n), short: make([]float64, n), long: make([]float64, n),
	}
	for i := range min(n, most) {
		u.named[i] = true
	}
	return u
}

// measure takes the present counts. With turn the units with series of their own are chosen anew first.
func (u *units) measure(p *printer, now []host.UnitCounts, at time.Time, turn bool) {
	if len(now) != len(u.last) {
		return // nothing has a process
	}
	if turn {
		u.choose()
	}
	passed := at.Sub(u.at)
	fadeShort, fadeLong := math.Exp(-passed.Seconds()/shortTime.Seconds()), math.Exp(-passed.Seconds()/longTime.Seconds())
	u.at = at
	for i, n := range now {
		d := minus(n, u.last[i])
		u.last[i] = n
		u.short[i] = u.short[i]*fadeShort + float64(d.Rows)
		u.long[i] = u.long[i]*fadeLong + float64(d.Rows)
		to := &u.rest[i/u.experts]
		if u.named[i] {
			to = &u.own[i]
		}
		*to = plus(*to, d)
	}
	u.print(p)
}

func minus(a, b host.UnitCounts) host.UnitCounts {
	return host.UnitCounts{Rows: a.Rows - b.Rows, Calls: a.Calls - b.Calls, Errors: a.Errors - b.Errors, Busy: a.Busy - b.Busy}
}

func plus(a, b host.UnitCounts) host.UnitCounts {
	return host.UnitCounts{Rows: a.Rows + b.Rows, Calls: a.Calls + b.Calls, Errors: a.Errors + b.Errors, Busy: a.Busy + b.Busy}
}

// lead is how much busier than the least busy unit with series of its own another one must be to take its place.
const lead = 1.5

// choose gives series of their own to units that are clearly busier than some that have them. What a unit has had printed stays
// its own, so that no series goes back when it comes again.
func (u *units) choose() {
	var in, out []int
	for i, named := range u.named {
		if named {
			out = append(out, i)
		} else {
			in = append(in, i)
		}
	}
	slices.SortFunc(out, func(a, b int) int { return cmp.Compare(u.long[a], u.long[b]) })
	slices.SortFunc(in, func(a, b int) int { return cmp.Compare(u.long[b], u.long[a]) })
	for n := range min(len(in), len(out)) {
		if u.long[in[n]] <= lead*u.long[out[n]] {
			return
		}
		u.named[in[n]], u.named[out[n]] = true, false
	}
}

// enough is how many rows a layer must have had of late for its shares to mean anything.
const enough = 1

func (u *units) print(p *printer) {
	for l, layer := range u.layers {
		text := strconv.Itoa(layer)
		from, to := l*u.experts, (l+1)*u.experts
		short := sum(u.short[from:to])
		covered := 0.0
		for i := from; i < to; i++ {
			if !u.named[i] {
				continue
			}
			labels := []string{"layer", text, "expert", strconv.Itoa(i - from)}
			printCounts(p, u.own[i], labels)
			covered += u.short[i]
			if short >= enough {
				p.add("pimoe_unit_share_ratio", u.short[i]/short, labels...)
			}
		}
		if slices.Contains(u.named[from:to], false) {
			labels := []string{"layer", text, "expert", "other"}
			printCounts(p, u.rest[l], labels)
			if short >= enough {
				p.add("pimoe_unit_share_ratio", max(short-covered, 0)/short, labels...)
			}
		}
		if short >= enough {
			p.add("pimoe_layer_entropy_ratio", entropy(u.short[from:to]), "layer", text)
			p.add("pimoe_layer_balance_ratio", slices.Max(u.short[from:to])*float64(u.experts)/short, "layer", text)
			p.add("pimoe_layer_drift_ratio", drift(u.short[from:to], u.long[from:to]), "layer", text)
		}
	}
}

func printCounts(p *printer, c host.UnitCounts, labels []string) {
	p.add("pimoe_unit_rows_total", float64(c.Rows), labels...)
	p.add("pimoe_unit_calls_total", float64(c.Calls), labels...)
	p.add("pimoe_unit_errors_total", float64(c.Errors), labels...)
	p.add("pimoe_unit_busy_seconds_total", c.Busy.Seconds(), labels...)
}

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

// entropy is that of the distribution of x, over that of an even one: 1 where all experts have the same, 0 where one has all.
func entropy(x []float64) float64 {
	if len(x) < 2 {
		return 1
	}
	all, h := sum(x), 0.0
	for _, v := range x {
		if p := v / all; p > 0 {
			h -= p * math.Log(p)
		}
	}
	return h / math.Log(float64(len(x)))
}

// drift is the total variation distance between two distributions: the share of the rows that one would have to move to make it
// the other.
func drift(a, b []float64) float64 {
	allA, allB, d := sum(a), sum(b), 0.0
	for i := range a {
		d += math.Abs(a[i]/allA - b[i]/allB)
	}
	return d / 2
}
