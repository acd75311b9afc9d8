package moe

import (
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/expert"
	"github.com/pimoe/pimoe/sdk/router"
)

func routesOf(k int, ids ...int32) router.Routes {
	w := make([]float32, len(ids))
	for i := range w {
		w[i] = float32(i+1) / 8
	}
	return router.Routes{K: k, IDs: ids, Weights: w}
}

// everywhere are groups that can run on all cores.
func everywhere(groups, cores int) []site {
	s := make([]site, groups)
	for g := range s {
		for c := range cores {
			s[g] = append(s[g], c)
		}
	}
	return s
}

func ascending(from, to int32) (out []int32) {
	for ; from < to; from++ {
		out = append(out, from)
	}
	return out
}

// call is a planned call in a comparable form.
type call struct {
	Group, Lane, Threads int
	Segments             []expert.Segment
	Rows                 []int32
}

func TestPlan(t *testing.T) {
	seg := func(pairs ...int) (s []expert.Segment) {
		for i := 0; i < len(pairs); i += 2 {
			s = append(s, expert.Segment{Expert: pairs[i], Rows: pairs[i+1]})
		}
		return s
	}
	for name, c := range map[string]struct {
		routes router.Routes
		groups []int
		cores  int
		want   []call
	}{
		"one row, one group: a core each": {
			routesOf(2, 3, 1), []int{0, 0, 0, 0}, 2,
			[]call{{0, 0, 1, seg(1, 1), []int32{0}}, {0, 1, 1, seg(3, 1), []int32{0}}},
		},
		"a lone expert has all cores": {
			routesOf(1, 3), []int{0, 1, 2, 3}, 4,
			[]call{{3, 0, 4, seg(3, 1), []int32{0}}},
		},
		"the longest first": {
			routesOf(2, 2, 0, 0, 2, 1, 2), []int{0, 1, 2, 3}, 2,
			[]call{{0, 1, 1, seg(0, 2), []int32{0, 1}}, {1, 1, 1, seg(1, 1), []int32{2}}, {2, 0, 1, seg(2, 3), []int32{0, 1, 2}}},
		},
		"experts ascend within a call": {
			routesOf(1, 3, 0, 2, 1, 3), []int{1, 0, 1, 0}, 1,
			[]call{{0, 0, 1, seg(1, 1, 3, 2), []int32{3, 0, 4}}, {1, 0, 1, seg(0, 1, 2, 1), []int32{1, 2}}},
		},
		"idle groups get no call": {
			routesOf(1, 5, 5, 5), []int{0, 1, 2, 3, 4, 5}, 2,
			[]call{{5, 0, 2, seg(5, 3), []int32{0, 1, 2}}},
		},
		"many rows of one expert are divided": {
			router.Routes{K: 1, IDs: make([]int32, 64), Weights: make([]float32, 64)}, []int{0}, 2,
			[]call{{0, 0, 1, seg(0, 32), ascending(0, 32)}, {0, 1, 1, seg(0, 32), ascending(32, 64)}},
		},
		"no rows": {router.Routes{K: 2}, []int{0, 0}, 2, nil},
	} {
		var p plan
		for range 2 { // memory of an earlier plan must not show
			p.fill(c.routes, c.groups, everywhere(6, c.cores), c.cores, -1)
			var got []call
			for _, planned := range p.calls {
				got = append(got, call{planned.group, planned.lane, planned.threads, planned.segments, p.rows[planned.from:planned.to]})
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("%s: %+v, want %+v", name, got, c.want)
			}
		}
	}
}

// TestCallersCore: the core on which rows are gathered computes fewer.
func TestCallersCore(t *testing.T) {
	routes := router.Routes{K: 1, IDs: make([]int32, 640), Weights: make([]float32, 640)}
	for here, want := range map[int][]int{-1: {320, 320}, 0: {310, 330}, 1: {330, 310}} {
		var p plan
		p.fill(routes, []int{0}, everywhere(1, 2), 2, here)
		var got []int
		for _, c := range p.calls {
			got = append(got, c.to-c.from)
		}
		if !slices.Equal(got, want) {
			t.Errorf("caller on core %d: calls of %v rows, want %v", here, got, want)
		}
	}
}

// TestPlanProperties: random routes are dispatched once each, to the right group, and combine in ascending order.
func TestPlanProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var p plan
	for range 500 {
		experts := 1 + rng.IntN(20)
		k, rows, n := 1+rng.IntN(experts), rng.IntN(200), 1+rng.IntN(6)
		groups := make([]int, experts)
		for e := range groups {
			groups[e] = rng.IntN(n)
		}
		routes := router.Routes{K: k}
		for range rows {
			for _, e := range rng.Perm(experts)[:k] {
				routes.IDs = append(routes.IDs, int32(e))
				routes.Weights = append(routes.Weights, rng.Float32())
			}
		}
		cores := 1 + rng.IntN(8)
		sites := everywhere(n, cores)
		for g := range sites { // some run on some cores only
			sites[g] = sites[g][rng.IntN(cores):]
		}
		p.fill(routes, groups, sites, cores, rng.IntN(cores+1)-1)
		owner := make([]int, len(p.rows)) // expert of each dispatched row
		at, last := 0, -1
		for _, c := range p.calls {
			if c.group*100+c.lane <= last || c.from != at || c.threads < 1 || c.threads*len(p.calls) > max(cores, len(p.calls)) || c.lane >= len(sites[c.group]) {
				t.Fatalf("call %+v after group and lane %d at row %d", c, last, at)
			}
			last = c.group*100 + c.lane
			before := -1
			for _, s := range c.segments {
				if groups[s.Expert] != c.group || s.Expert <= before || s.Rows < 1 {
					t.Fatalf("segment %+v in group %d", s, c.group)
				}
				before = s.Expert
				for range s.Rows {
					owner[at] = s.Expert
					at++
				}
			}
			if c.to != at {
				t.Fatalf("call ends at %d, its segments at %d", c.to, at)
			}
		}
		if at != rows*k {
			t.Fatalf("%d rows dispatched, want %d", at, rows*k)
		}
		for r := range rows {
			before := -1
			for i := r * k; i < (r+1)*k; i++ {
				e := owner[p.from[i]]
				if p.rows[p.from[i]] != int32(r) || e <= before {
					t.Fatalf("row %d: result %d is row %d of expert %d after expert %d", r, i, p.rows[p.from[i]], e, before)
				}
				before = e
				found := false
				for j := r * k; j < (r+1)*k; j++ {
					found = found || routes.IDs[j] == int32(e) && routes.Weights[j] == p.weight[i]
				}
				if !found {
					t.Fatalf("row %d: expert %d with weight %g was not routed", r, e, p.weight[i])
				}
			}
		}
	}
}

// TestCut: rows are dealt whole, the longest calls first and the last ones short.
func TestCut(t *testing.T) {
	for name, c := range map[string]struct {
		cores int
		rows  []int // by expert
		want  []int
	}{
		"short ones stay":    {2, []int{64, 100, 30, 64, 70}, []int{35, 35, 34, 33, 33, 32, 32, 32, 32, 30}},
		"few long ones":      {2, []int{512, 512}, []int{128, 128, 128, 128, 128, 128, 32, 32, 32, 32, 32, 32, 32, 32}},
		"the last ones, too": {2, []int{128, 128, 128, 128, 128, 128, 128, 128}, []int{128, 128, 128, 128, 128, 128, 32, 32, 32, 32, 32, 32, 32, 32}},
		"more cores":         {8, []int{256, 256}, []int{32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32}},
	} {
		t.Run(name, func(t *testing.T) {
			routes := router.Routes{K: 1}
			for e, n := range c.rows {
				for range n {
					routes.IDs, routes.Weights = append(routes.IDs, int32(e)), append(routes.Weights, 1)
				}
			}
			var p plan
			p.deal(routes, make([]int, len(c.rows)), c.cores)
			var got []int
			at := 0
			for _, call := range p.calls {
				if len(call.segments) != 1 || call.segments[0].Rows != call.to-call.from || call.from != at {
					t.Fatalf("call %+v at row %d", call, at)
				}
				at = call.to
				got = append(got, call.to-call.from)
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("calls of %v rows, want %v", got, c.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for name, c := range map[string]struct {
		routes router.Routes
		says   string
	}{
		"too high":  {routesOf(2, 0, 1, 2, 8), "layer 3 row 1: expert 8 of 8"},
		"negative":  {routesOf(2, 0, -1), "layer 3 row 0: expert -1"},
		"twice":     {routesOf(3, 0, 1, 2, 4, 5, 4), "layer 3 row 1: expert 4 is chosen twice"},
		"NaN":       {router.Routes{K: 1, IDs: []int32{0, 7}, Weights: []float32{1, nan}}, "row 1: weight NaN of expert 7"},
		"infinite":  {router.Routes{K: 1, IDs: []int32{6}, Weights: []float32{inf}}, "row 0: weight -Inf of expert 6"},
		"all right": {routesOf(2, 0, 7, 7, 0), ""},
	} {
		err := CheckRoutes(c.routes, 3, 8)
		if c.says == "" && err == nil {
			continue
		}
		if !errors.Is(err, sdk.ErrInvalidOutput) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error %v, want %q", name, err, c.says)
		}
	}
}
