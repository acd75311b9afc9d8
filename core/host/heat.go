package host

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// heat counts what each unit has had to do, since the host's start: three additions for each unit of a call.
type heat struct {
	layers  []int // ascending; a layer's place is its place in units
	experts int
	units   []unitHeat // by layer, then expert
}

type unitHeat struct{ rows, calls, busy, errors atomic.Int64 }

// Heat is what a unit has had to do.
type Heat struct{ Rows, Calls int64 }

// Work is that in the rows that could have been computed in the time: each call reads the unit's weights.
func (h Heat) Work() float64 { return float64(h.Rows + unitRows*h.Calls) }

func newHeat(spec router.Spec) *heat {
	return &heat{layers: spec.Layers, experts: spec.Experts, units: make([]unitHeat, len(spec.Layers)*spec.Experts)}
}

// of are the units of a call's layer.
func (h *heat) of(c *expert.Call) []unitHeat {
	if h == nil {
		return nil
	}
	at, known := slices.BinarySearch(h.layers, c.Layer)
	if !known {
		return nil
	}
	return h.units[at*h.experts : (at+1)*h.experts]
}

// add takes an answered call, whose time it shares out by rows.
func (h *heat) add(c *expert.Call, took time.Duration) {
	units := h.of(c)
	if units == nil {
		return
	}
	row := int64(took) / int64(max(c.Y.Rows, 1))
	for _, s := range c.Segments {
		u := &units[s.Expert]
		u.rows.Add(int64(s.Rows))
		u.calls.Add(1)
		u.busy.Add(row * int64(s.Rows))
	}
}

// failed takes a call that was not answered, or not validly.
func (h *heat) failed(c *expert.Call) {
	units := h.of(c)
	if units == nil {
		return
	}
	for _, s := range c.Segments {
		units[s.Expert].errors.Add(1)
	}
}

// Heat is what each unit has had to do since the host's start; nil where nothing has a process.
func (h *Host) Heat() map[expert.Unit]Heat {
	if h.heat == nil {
		return nil
	}
	out := map[expert.Unit]Heat{}
	for at, layer := range h.heat.layers {
		for e := range h.heat.experts {
			u := &h.heat.units[at*h.heat.experts+e]
			out[expert.Unit{Layer: layer, Expert: e}] = Heat{Rows: u.rows.Load(), Calls: u.calls.Load()}
		}
	}
	return out
}
