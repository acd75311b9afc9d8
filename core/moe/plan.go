package moe

import (
	"fmt"
	"math"
	"slices"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

// plan is the dispatch of one layer: which rows go into which call, and where each row's results will lie. All calls
// share one list of dispatched rows, call after call, and in a call expert after expert.
type plan struct {
	calls []planned
	rows  []int32 // for each dispatched row, the input row it is a copy of

	// Row r's results, in ascending order of expert id: dispatched row from[r*k+i], times weight[r*k+i].
	from   []int32
	weight []float32

	segments []expert.Segment // of all calls
	start    []int32          // by expert: where its rows begin; scratch while planning
	order    []int32          // experts by group, then id; scratch while planning
}

// planned is one call to one group.
type planned struct {
	group    int
	segments []expert.Segment
	from, to int // its part of the dispatched rows
	threads  int
}

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

// fill plans checked routes. groups says which group serves each expert; threads is what the calls share.
func (p *plan) fill(routes router.Routes, groups []int, threads int) {
	n := len(routes.IDs)
	p.calls, p.segments = p.calls[:0], p.segments[:0]
	p.rows, p.from = resize(p.rows, n), resize(p.from, n)
	p.weight = resize(p.weight, n)
	p.start = resize(p.start, len(groups))
	clear(p.start)
	for _, id := range routes.IDs {
		p.start[id]++
	}
	p.lay(groups, n, threads)
	k := routes.K
	for at := 0; at < n; at += k {
		p.place(routes.IDs[at:at+k], routes.Weights[at:at+k], at)
	}
}

// lay turns p.start from rows per expert into where each expert's rows begin, and makes calls and segments on the way.
func (p *plan) lay(groups []int, total, threads int) {
	p.order = p.order[:0]
	for e, rows := range p.start {
		if rows > 0 {
			p.order = append(p.order, int32(e))
		}
	}
	slices.SortStableFunc(p.order, func(a, b int32) int { return groups[a] - groups[b] })
	p.segments = slices.Grow(p.segments, len(p.order)) // calls keep slices of it
	at := 0
	for i, e := range p.order {
		g := groups[e]
		if i == 0 || g != p.calls[len(p.calls)-1].group {
			p.calls = append(p.calls, planned{group: g, from: at, segments: p.segments[len(p.segments):]})
		}
		rows := int(p.start[e])
		p.start[e] = int32(at)
		at += rows
		p.segments = append(p.segments, expert.Segment{Expert: int(e), Rows: rows})
		c := &p.calls[len(p.calls)-1]
		c.to = at
		c.segments = c.segments[:len(c.segments)+1]
	}
	for i := range p.calls {
		c := &p.calls[i]
		c.threads = share(threads, c.to-c.from, total)
	}
}

// share is a call's part of the threads, by its part of the rows, to the nearest and at least one.
func share(threads, rows, total int) int {
	return max(1, (2*threads*rows+total)/(2*total))
}

// place puts one row into the lists. The row's experts are taken in ascending order, so that combine adds them so.
func (p *plan) place(ids []int32, weights []float32, at int) {
	row := int32(at / len(ids))
	slots := p.from[at : at+len(ids)]
	sums := p.weight[at : at+len(ids)]
	copy(slots, ids)
	copy(sums, weights)
	for i := 1; i < len(slots); i++ { // insertion sort: k is small
		for j := i; j > 0 && slots[j] < slots[j-1]; j-- {
			slots[j], slots[j-1] = slots[j-1], slots[j]
			sums[j], sums[j-1] = sums[j-1], sums[j]
		}
	}
	for i, id := range slots {
		to := p.start[id]
		p.start[id]++
		p.rows[to] = row
		slots[i] = to
	}
}

func resize[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}
