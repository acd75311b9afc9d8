package alert

import (
	"time"
)

// maxSeries bounds a history. The rules look at some hundred series of a large host; with six hours of the longest window,
// four thousand are below 100 MB.
const maxSeries = 4000

// History holds the samples that rules look back at: those of the series that they name, for as long as they need them. Its
// methods are for one goroutine.
type History struct {
	now        int64 // of the last Add, in milliseconds
	keep       map[string]time.Duration
	series     map[string]*series // by name and labels
	selections map[string]*selection
	dropped    int
}

// series is one series with its points, oldest first.
type series struct {
	name   string
	labels Labels
	points []point
}

type point struct {
	at    int64 // milliseconds
	value float64
}

// selection is what a Series expression finds.
type selection struct {
	of   Series
	fits func(Labels) bool
	list []*series
}

// NewHistory makes an empty history for rules.
func NewHistory(rules []Rule) *History {
	h := &History{series: map[string]*series{}}
	h.Use(rules)
	return h
}

// Use keeps from now on what other rules need.
func (h *History) Use(rules []Rule) {
	h.keep, h.selections = map[string]time.Duration{}, map[string]*selection{}
	note := func(s Series, back time.Duration) {
		h.keep[s.Name] = max(h.keep[s.Name], back)
		if h.selections[s.String()] == nil {
			h.selections[s.String()] = &selection{of: s, fits: s.matcher()}
		}
	}
	for _, r := range rules {
		r.Value.visit(note)
		if r.While != nil {
			r.While.visit(note)
		}
	}
	for key, s := range h.series {
		if !h.Wants(s.name) {
			delete(h.series, key)
			continue
		}
		h.enlist(s)
	}
}

// Wants reports whether a rule looks at series of a name.
func (h *History) Wants(name string) bool { _, ok := h.keep[name]; return ok }

// Dropped is how many samples found no place.
func (h *History) Dropped() int { return h.dropped }

// Add takes all series as they are at a moment, which is later than that of the last Add. A series that is missing has
// ended, as in Prometheus when a target no longer has it.
func (h *History) Add(at time.Time, samples []Sample) {
	h.now = at.UnixMilli()
	for _, s := range samples {
		if !h.Wants(s.Name) {
			continue
		}
		key := s.Name + s.Labels.String()
		to := h.series[key]
		if to == nil {
			if len(h.series) >= maxSeries {
				h.dropped++
				continue
			}
			to = &series{name: s.Name, labels: s.Labels}
			h.series[key] = to
			h.enlist(to)
		}
		to.points = append(to.points, point{h.now, s.Value})
	}
	h.forget()
}

// enlist puts a series into the selections that it fits.
func (h *History) enlist(s *series) {
	for _, sel := range h.selections {
		if sel.of.Name == s.name && sel.fits(s.labels) {
			sel.list = append(sel.list, s)
		}
	}
}

// forget drops points that no window reaches, and series without points.
func (h *History) forget() {
	gone := false
	for key, s := range h.series {
		oldest := h.now - h.keep[s.name].Milliseconds()
		n := 0
		for n < len(s.points) && s.points[n].at < oldest {
			n++
		}
		s.points = s.points[n:] // append moves them to a fresh array now and then
		if len(s.points) == 0 {
			delete(h.series, key)
			gone = true
		}
	}
	if !gone {
		return
	}
	for _, sel := range h.selections {
		kept := sel.list[:0]
		for _, s := range sel.list {
			if len(s.points) > 0 {
				kept = append(kept, s)
			}
		}
		clear(sel.list[len(kept):])
		sel.list = kept
	}
}

// find is what a Series expression finds; nothing for one that no rule has.
func (h *History) find(s Series) []*series {
	if sel := h.selections[s.String()]; sel != nil {
		return sel.list
	}
	return nil
}

// last is a series' value now.
func (s *series) last(now int64) (float64, bool) {
	if n := len(s.points); n > 0 && s.points[n-1].at == now {
		return s.points[n-1].value, true
	}
	return 0, false
}

// window are the points after a moment.
func (s *series) window(after int64) []point {
	n := len(s.points)
	for n > 0 && s.points[n-1].at > after {
		n--
	}
	return s.points[n:]
}
