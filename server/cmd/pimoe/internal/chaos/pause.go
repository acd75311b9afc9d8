package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/load"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/chaos/nemesis"
)

// pauses are, for each moment at which a stream was under way, the longest that a stream then waited for a token: for the next one,
// or, since what happens to an idle process is met by whoever needs it next, for the one after that.
func pauses(moments []time.Time, paces []load.Pace) (out []float64) {
	moments, paces = slices.Clone(moments), slices.DeleteFunc(slices.Clone(paces), func(p load.Pace) bool { return len(p) == 0 })
	slices.SortFunc(moments, time.Time.Compare)
	slices.SortFunc(paces, func(a, b load.Pace) int { return a[0].Compare(b[0]) })
	var under []load.Pace // those that go on at the moment
	for _, m := range moments {
		for ; len(paces) > 0 && !paces[0][0].After(m); paces = paces[1:] {
			under = append(under, paces[0])
		}
		under = slices.DeleteFunc(under, func(p load.Pace) bool { return p[len(p)-1].Before(m) })
		var longest time.Duration
		for _, p := range under {
			longest = max(longest, p.Around(m))
		}
		if longest > 0 {
			out = append(out, ms(longest))
		}
	}
	return out
}

const (
	// calmEvery is the distance of the moments that faults are compared with.
	calmEvery = 20 * time.Millisecond
	// calmBefore a fault, and so long after its group is complete again, nothing counts as calm.
	calmBefore = 200 * time.Millisecond
	// shortFault is how long a fault takes at most that the process outlives.
	shortFault = 300 * time.Millisecond
)

// calm are moments of the streams at which no fault was felt.
func calm(outcomes []nemesis.Outcome, paces []load.Pace) (out []time.Time) {
	var first, last time.Time
	for _, p := range paces {
		if len(p) > 0 && (first.IsZero() || p[0].Before(first)) {
			first = p[0]
		}
		if len(p) > 0 && p[len(p)-1].After(last) {
			last = p[len(p)-1]
		}
	}
	for m := first; m.Before(last); m = m.Add(calmEvery) {
		if !slices.ContainsFunc(outcomes, func(o nemesis.Outcome) bool { return felt(o, m) }) {
			out = append(out, m)
		}
	}
	return out
}

// felt reports whether a fault may have been felt at a moment. One without an end was felt ever since.
func felt(o nemesis.Outcome, m time.Time) bool {
	if o.Fired.IsZero() || m.Before(o.Fired.Add(-calmBefore)) {
		return false
	}
	if o.Recovered < 0 {
		return !o.Survived || m.Before(o.Fired.Add(shortFault+calmBefore))
	}
	return m.Before(o.Fired.Add(time.Duration(o.Recovered*float64(time.Millisecond)) + calmBefore))
}

// Stall is a long gap of a stream, and what happened around it.
type Stall struct {
	MS     float64   `json:"ms"`
	Since  time.Time `json:"since"`
	Faults []string  `json:"faults"` // that fired from shortBefore it until its end
}

const (
	worstStalls = 3
	shortBefore = 300 * time.Millisecond // a stopped process is found after 200 ms
)

// worst are the longest gaps. Streams stall together: of those that overlap, the longest counts.
func worst(paces []load.Pace, outcomes []nemesis.Outcome) (out []Stall) {
	type gap struct {
		since, end time.Time
		took       time.Duration
	}
	var gaps []gap
	for _, p := range paces {
		if since, took := p.Longest(); took > 0 {
			gaps = append(gaps, gap{since, since.Add(took), took})
		}
	}
	slices.SortFunc(gaps, func(a, b gap) int { return cmp.Compare(b.took, a.took) })
	var kept []gap
	for _, g := range gaps {
		if len(out) == worstStalls {
			return out
		}
		if slices.ContainsFunc(kept, func(k gap) bool { return g.since.Before(k.end) && k.since.Before(g.end) }) {
			continue
		}
		kept = append(kept, g)
		s := Stall{MS: round(ms(g.took)), Since: g.since}
		for _, o := range outcomes {
			if !o.Fired.IsZero() && o.Fired.After(g.since.Add(-shortBefore)) && o.Fired.Before(g.end) {
				s.Faults = append(s.Faults, fmt.Sprintf("%s %s at %+.0f ms", o.Kind, o.Process, ms(o.Fired.Sub(g.since))))
			}
		}
		out = append(out, s)
	}
	return out
}
