package host

import (
	"maps"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/expert"
)

// bytesRead sums up what units and groups have read: a unit may move to another group, and its weights may become others.
type bytesRead struct {
	mu     sync.Mutex // guards all
	calls  []int64    // of each unit when it was last counted, by layer, then expert
	units  []int64    // bytes, in the same order
	groups map[string]int64
}

// BytesRead is how many bytes of weights the groups' calls have had to read since the host's start: each call reads every unit
// that it has rows for once, however many rows that are. In process nothing counts them.
func (h *Host) BytesRead() map[string]int64 {
	if h.heat == nil {
		return nil
	}
	h.read.mu.Lock()
	defer h.read.mu.Unlock()
	h.countRead()
	return maps.Clone(h.read.groups)
}

// countRead takes the calls since it was last called. The caller holds read.mu.
func (h *Host) countRead() {
	r := &h.read
	if r.groups == nil {
		r.calls, r.units, r.groups = make([]int64, len(h.heat.units)), make([]int64, len(h.heat.units)), map[string]int64{}
	}
	h.eachUnit(func(s *seat, g *group, u expert.Unit, at int) {
		now := h.heat.units[at].calls.Load()
		if more := now - r.calls[at]; more > 0 {
			bytes := more * h.unitBytes(g.spec, u)
			r.groups[s.name] += bytes
			r.units[at] += bytes
			r.calls[at] = now
		}
	})
}

// eachUnit calls f for every unit, group by group, with its place in heat.
func (h *Host) eachUnit(f func(s *seat, g *group, u expert.Unit, at int)) {
	for _, s := range h.groups {
		g := s.own()
		if g == nil {
			continue
		}
		for _, u := range g.spec.Units {
			if layer, known := slices.BinarySearch(h.heat.layers, u.Layer); known {
				f(s, g, u, layer*h.heat.experts+u.Expert)
			}
		}
	}
}

// UnitWork is what a unit has had to do since the host's start, and for which group.
type UnitWork struct {
	expert.Unit
	Heat
	Group string // that serves it now
	Size  int64  // bytes of its weights
	Bytes int64  // of weights that its calls have had to read, as for BytesRead
}

// Work puts what each unit has had to do into to, group by group, and returns it; to may be nil. In process nothing counts it.
func (h *Host) Work(to []UnitWork) []UnitWork {
	to = to[:0]
	if h.heat == nil {
		return to
	}
	h.read.mu.Lock()
	defer h.read.mu.Unlock()
	h.countRead()
	var of *group
	sizes := map[int]int64{} // of the group's experts: their names are made for each question
	h.eachUnit(func(s *seat, g *group, u expert.Unit, at int) {
		if g != of {
			of = g
			clear(sizes)
		}
		size, known := sizes[u.Expert]
		if !known {
			size = h.unitBytes(g.spec, u)
			sizes[u.Expert] = size
		}
		heat := Heat{Rows: h.heat.units[at].rows.Load(), Calls: h.read.calls[at]}
		to = append(to, UnitWork{Unit: u, Heat: heat, Group: s.name, Size: size, Bytes: h.read.units[at]})
	})
	return to
}

// WeightBytes are the bytes of the weights of all units; replicas map the same files. In process nothing says them.
func (h *Host) WeightBytes() (sum int64) {
	if h.heat == nil {
		return 0
	}
	for _, s := range h.groups {
		if g := s.own(); g != nil {
			for _, u := range g.spec.Units {
				sum += h.unitBytes(g.spec, u)
			}
		}
	}
	return sum
}

// unitBytes are the bytes of a unit's weights: a file has one expert of all layers, which are of one size.
func (h *Host) unitBytes(spec GroupSpec, u expert.Unit) int64 {
	files := h.launch.options.Model.Manifest.Files
	if spec.Packed != nil {
		files = spec.Packed.Files
	}
	return files[weights.ExpertFile(u.Expert)].Size / int64(max(len(h.heat.layers), 1))
}
