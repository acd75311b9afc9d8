package moe

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// plan is the dispatch of one layer: which rows go into which call, on which core, and where each row's results will lie.
// All calls share one list of dispatched rows, call after call, and in a call expert after expert.
type plan struct {
	calls []planned
	rows  []int32 // for each dispatched row, the input row it is a copy of

	// Row r's results, in ascending order of expert id: dispatched row from[r*k+i], times weight[r*k+i].
	from   []int32
	weight []float32

	segments []expert.Segment // of all calls

	// Scratch while planning.
	count []int32 // rows by expert
	now   []int32 // by expert: the part that takes its next row
	parts []part
	order []int32   // parts in some order
	load  []float64 // by core
}

// planned is one call to one group.
type planned struct {
	group    int
	lane     int // of the group's process; -1 = open
	segments []expert.Segment
	from, to int // its part of the dispatched rows
	threads  int
}

// nowhere in from is an expert that gives nothing to the row.
const nowhere = -1

// part is rows of one expert that are computed together: all, or some of very many.
type part struct {
	expert, group int32
	lane, core    int32
	rows          int32
	next          int32 // the expert's next part, -1 if this is the last
	at            int32 // where its next row goes
	left          int32 // rows that it still takes
}

// site says where a group's calls can run: the core of each lane of its processes.
type site []int

// CheckRoutes holds a router's answer against the contract: ids in range and distinct, weights finite.
func CheckRoutes(routes router.Routes, layer, experts int) error {
	k := routes.K
	for at := 0; at < len(routes.IDs); at += k {
		ids := routes.IDs[at : at+k]
		for i, id := range ids {
			if id < 0 || int(id) >= experts {
				return fmt.Errorf("route layer %d row %d: expert %d of %d: %w", layer, at/k, id, experts, sdk.ErrInvalidOutput)
			}
			if slices.Contains(ids[:i], id) {
				return fmt.Errorf("route layer %d row %d: expert %d is chosen twice: %w", layer, at/k, id, sdk.ErrInvalidOutput)
			}
		}
		for i, w := range routes.Weights[at : at+k] {
			if math.IsNaN(float64(w)) || math.IsInf(float64(w), 0) {
				return fmt.Errorf("route layer %d row %d: weight %g of expert %d is not finite: %w", layer, at/k, w, ids[i], sdk.ErrInvalidOutput)
			}
		}
	}
	return nil
}

// fill plans checked routes. groups says which group serves each expert, sites where each group runs, cores how many there
// are, and here on which of them the caller is, -1 if on none.
func (p *plan) fill(routes router.Routes, groups []int, sites []site, cores, here int) {
	p.begin(routes, groups)
	p.assign(sites, cores, here)
	p.balance(sites)
	p.lay(cores)
	p.place(routes)
}

// begin makes one part for each expert that has rows.
func (p *plan) begin(routes router.Routes, groups []int) {
	n := len(routes.IDs)
	p.calls, p.segments = p.calls[:0], p.segments[:0]
	p.rows, p.from = resize(p.rows, n), resize(p.from, n)
	p.weight = resize(p.weight, n)
	p.count = resize(p.count, len(groups))
	clear(p.count)
	for _, id := range routes.IDs {
		p.count[id]++
	}
	p.parts, p.order = p.parts[:0], p.order[:0]
	p.now = resize(p.now, len(groups))
	for e, rows := range p.count {
		if rows == 0 {
			continue
		}
		p.now[e] = int32(len(p.parts))
		p.order = append(p.order, int32(len(p.parts)))
		p.parts = append(p.parts, part{expert: int32(e), group: int32(groups[e]), rows: rows, next: -1})
	}
}

// The cost of a part, in rows: its rows, and the reading of the unit's weights. On the machines measured a core reads
// an int8 or bf16 unit in the time that it computes 12 to 20 rows.
const weightRows = 16

// carriedRows are gathered, and their answers read, in the time that one is computed.
const carriedRows = 32

func cost(rows int32) float64 { return weightRows + float64(rows) }

// assign gives each part to a core, the longest first, each to the core with the least to do (Graham 1969).
func (p *plan) assign(sites []site, cores, here int) {
	p.load = resize(p.load, cores)
	clear(p.load)
	if here >= 0 {
		p.load[here] = float64(len(p.rows)) / carriedRows
	}
	p.longestFirst()
	for _, i := range p.order {
		t := &p.parts[i]
		best := 0
		s := sites[t.group]
		for lane, core := range s {
			if p.load[core] < p.load[s[best]] {
				best = lane
			}
		}
		t.lane, t.core = int32(best), int32(s[best])
		p.load[s[best]] += cost(t.rows)
	}
}

func (p *plan) longestFirst() {
	slices.SortStableFunc(p.order, func(a, b int32) int { return cmp.Compare(p.parts[b].rows, p.parts[a].rows) })
}

// minRows is the smallest part that a division may leave: with fewer rows the second reading of the weights is not worth it.
const minRows = 8

// balance divides parts with many rows until the cores finish at about the same time.
func (p *plan) balance(sites []site) {
	for range 2 * len(p.load) {
		high, low := 0, 0
		for c, l := range p.load {
			if l > p.load[high] {
				high = c
			}
			if l < p.load[low] {
				low = c
			}
		}
		move := int32((p.load[high] - p.load[low] - weightRows) / 2)
		if move < minRows || !p.split(sites, int32(high), low, move) {
			return
		}
	}
}

// split moves rows of the largest part on core high that can run on core low, and reports whether there is one.
func (p *plan) split(sites []site, high int32, low int, move int32) bool {
	var best *part
	var lane int
	for i := range p.parts {
		t := &p.parts[i]
		if t.core != high || t.rows < move+minRows || best != nil && t.rows <= best.rows {
			continue
		}
		if l := slices.Index(sites[t.group], low); l >= 0 && !p.has(t.expert, int32(low)) {
			best, lane = t, l
		}
	}
	if best == nil {
		return false
	}
	half := *best
	half.rows, half.lane, half.core = move, int32(lane), int32(low)
	best.rows -= move
	best.next = int32(len(p.parts))
	p.order = append(p.order, int32(len(p.parts)))
	p.parts = append(p.parts, half)
	p.load[high] -= float64(move)
	p.load[low] += cost(move)
	return true
}

// has says whether a core has a part of the expert: a call has one segment of it.
func (p *plan) has(expert, core int32) bool {
	return slices.ContainsFunc(p.parts, func(t part) bool { return t.expert == expert && t.core == core })
}

// lay orders the parts by group, lane and expert, and makes calls and segments of them.
func (p *plan) lay(cores int) {
	slices.SortStableFunc(p.order, func(a, b int32) int {
		s, t := &p.parts[a], &p.parts[b]
		return cmp.Or(cmp.Compare(s.group, t.group), cmp.Compare(s.lane, t.lane), cmp.Compare(s.expert, t.expert))
	})
	p.segments = slices.Grow(p.segments, len(p.order)) // calls keep slices of it
	at := 0
	for i, j := range p.order {
		t := &p.parts[j]
		if i == 0 || int(t.group) != p.calls[len(p.calls)-1].group || int(t.lane) != p.calls[len(p.calls)-1].lane {
			p.calls = append(p.calls, planned{group: int(t.group), lane: int(t.lane), from: at, segments: p.segments[len(p.segments):]})
		}
		t.at, t.left = int32(at), t.rows
		at += int(t.rows)
		p.segments = append(p.segments, expert.Segment{Expert: int(t.expert), Rows: int(t.rows)})
		c := &p.calls[len(p.calls)-1]
		c.to = at
		c.segments = c.segments[:len(c.segments)+1]
	}
	threads := max(cores/max(len(p.calls), 1), 1) // fewer calls than cores: they share what is left
	for i := range p.calls {
		p.calls[i].threads = threads
	}
}

// place puts all rows into the lists.
func (p *plan) place(routes router.Routes) {
	k := routes.K
	for at := 0; at < len(routes.IDs); at += k {
		p.placeRow(routes.IDs[at:at+k], routes.Weights[at:at+k], at)
	}
}

// placeRow puts one row into the lists. The row's experts are taken in ascending order, so that combine adds them so.
func (p *plan) placeRow(ids []int32, weights []float32, at int) {
	row := int32(at / len(ids))
	slots := p.from[at : at+len(ids)]
	sums := p.weight[at : at+len(ids)]
	copy(slots, ids)
	copy(sums, weights)
	ascend(slots, sums)
	for i, id := range slots {
		t := &p.parts[p.now[id]]
		if t.left == 0 {
			p.now[id] = t.next
			t = &p.parts[t.next]
		}
		p.rows[t.at] = row
		slots[i] = t.at
		t.at++
		t.left--
	}
}

// ascend sorts ids, and their weights with them, by insertion: k is small.
func ascend(ids []int32, weights []float32) {
	for i := 1; i < len(ids); i++ {
		for j := i; j > 0 && ids[j] < ids[j-1]; j-- {
			ids[j], ids[j-1] = ids[j-1], ids[j]
			weights[j], weights[j-1] = weights[j-1], weights[j]
		}
	}
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
