package host

import (
	"maps"
	"slices"
	"sync"

	"github.com/pimoe/pimoe/core/weights"
	"github.com/pimoe/pimoe/sdk/expert"
)

// bytesRead sums up what groups have read, unit by unit: a unit may move to another group, and its weights may become others.
type bytesRead struct {
	mu     sync.Mutex // guards both
	calls  []int64    // of each unit when it was last counted, by layer, then expert
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
	if h.read.groups == nil {
		h.read.calls, h.read.groups = make([]int64, len(h.heat.units)), map[string]int64{}
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
			now := h.heat.units[at].calls.Load()
			if more := now - h.read.calls[at]; more > 0 {
				h.read.groups[s.name] += more * h.unitBytes(g.spec, u)
				h.read.calls[at] = now
			}
		}
	}
	return maps.Clone(h.read.groups)
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
