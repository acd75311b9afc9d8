package host

import (
	"maps"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/expert"
)

// UnitWork is what a unit has had to do since the host's start, and for which group.
type UnitWork struct {
	expert.Unit
	Heat
	Group string // that serves it now
	Size  int64  // bytes of its weights
	Bytes int64  // of weights that its calls have had to read
}

// bytesRead sums up what units and groups have read: a unit may move to another group, and its weights may become others.
type bytesRead struct {
	mu     sync.Mutex // guards all
	calls  []int64    // of each unit when it was last counted, by layer, then expert
	units  []int64    // bytes, in the same order
	groups map[string]int64
}

// Work puts what each unit has had to do into to, group by group, and returns it with the bytes of weights that the groups' calls
// have had to read: each call reads every unit that it has rows for once, however many rows that are. to may be nil. In process
// nothing counts them.
func (h *Host) Work(to []UnitWork) ([]UnitWork, map[string]int64) {
	to = to[:0]
	if h.heat == nil {
		return to, nil
	}
	read := &h.read
	read.mu.Lock()
	defer read.mu.Unlock()
	if read.groups == nil {
		read.calls, read.units, read.groups = make([]int64, len(h.heat.units)), make([]int64, len(h.heat.units)), map[string]int64{}
	}
	for _, s := range h.groups {
		g := s.own()
		if g == nil {
			continue
		}
		for _, u := range g.spec.Units {
			layer, known := slices.BinarySearch(h.heat.layers, u.Layer)
			if !known {
				continue
			}
			at := layer*h.heat.experts + u.Expert
			done, size := &h.heat.units[at], h.unitBytes(g.spec, u)
			w := UnitWork{Unit: u, Heat: Heat{Rows: done.rows.Load(), Calls: done.calls.Load()}, Group: s.name, Size: size}
			if more := w.Calls - read.calls[at]; more > 0 {
				read.groups[s.name] += more * size
				read.units[at] += more * size
				read.calls[at] = w.Calls
			}
			w.Bytes = read.units[at]
			to = append(to, w)
		}
	}
	return to, maps.Clone(read.groups)
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
