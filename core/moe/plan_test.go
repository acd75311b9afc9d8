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

// alike are routes of so many rows to expert 0, then to expert 1 and so on.
func alike(rows ...int) router.Routes {
	r := router.Routes{K: 1}
	for e, n := range rows {
		for range n {
			r.IDs, r.Weights = append(r.IDs, int32(e)), append(r.Weights, 1)
		}
	}
	return r
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
			alike(64), []int{0}, 2,
			[]call{{0, 0, 1, seg(0, 32), ascending(0, 32)}, {0, 1, 1, seg(0, 32), ascending(32, 64)}},
		},
		"twice the fewest rows": {
			alike(16), []int{0}, 2,
			[]call{{0, 0, 1, seg(0, 8), ascending(0, 8)}, {0, 1, 1, seg(0, 8), ascending(8, 16)}},
		},
		"too few rows to divide": {
			alike(15), []int{0}, 2,
			[]call{{0, 0, 2, seg(0, 15), ascending(0, 15)}},
		},
		"on and on, the first of equal cores before others": {
			alike(256), []int{0}, 4,
			[]call{
				{0, 0, 1, seg(0, 64), ascending(0, 64)}, {0, 1, 1, seg(0, 64), ascending(128, 192)},
				{0, 2, 1, seg(0, 64), ascending(64, 128)}, {0, 3, 1, seg(0, 64), ascending(192, 256)},
			},
		},
		"until the cores finish at once, with 16 rows for each unit that they read": {
			alike(100, 40), []int{0, 0}, 2,
			[]call{{0, 0, 1, seg(0, 78), ascending(0, 78)}, {0, 1, 1, seg(0, 22, 1, 40), slices.Concat(ascending(78, 100), ascending(100, 140))}},
		},
		"the longest of a core is divided": {
			alike(60, 100, 100), []int{0, 0, 0}, 2,
			[]call{
				{0, 0, 1, seg(0, 60, 1, 70), ascending(0, 130)},
				{0, 1, 1, seg(1, 30, 2, 100), ascending(130, 260)},
			},
		},
		"the first of equally long ones": {
			alike(100, 100, 100), []int{0, 0, 0}, 2,
			[]call{
				{0, 0, 1, seg(0, 50, 2, 100), slices.Concat(ascending(0, 50), ascending(200, 300))},
				{0, 1, 1, seg(0, 50, 1, 100), slices.Concat(ascending(50, 100), ascending(100, 200))},
			},
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

// standing is a group that says on which cores it runs, and on which one its caller does.
type standing struct {
	Group
	cores []int
	here  int
}

func (s *standing) Cores() []int { return s.cores }
func (s *standing) Here() int    { return s.here }

// TestSites: a group runs on the cores that it names; one that names none, or more than there are, runs on all, and is not bound.
func TestSites(t *testing.T) {
	for name, c := range map[string]struct {
		group Group
		want  site
		bound bool
	}{
		"some":         {&standing{cores: []int{2, 0}}, site{2, 0}, true},
		"the last one": {&standing{cores: []int{2}}, site{2}, true},
		"none":         {&standing{}, site{0, 1, 2}, false},
		"one too many": {&standing{cores: []int{1, 3}}, site{0, 1, 2}, false},
		"says nothing": {&Switch{}, site{0, 1, 2}, false},
	} {
		if got, bound := siteOf(c.group, 3); !slices.Equal(got, c.want) || bound != c.bound {
			t.Errorf("%s: %v, bound %v, want %v, %v", name, got, bound, c.want, c.bound)
		}
	}
}

// TestHere: the caller's core is the one that the first group names, if the plan has it.
func TestHere(t *testing.T) {
	for name, c := range map[string]struct {
		groups []Group
		want   int
	}{
		"the first core":     {[]Group{&standing{here: 0}, &standing{here: 1}}, 0},
		"the last core":      {[]Group{&standing{here: 1}}, 1},
		"another core":       {[]Group{&standing{here: 2}}, -1},
		"unknown":            {[]Group{&standing{here: -1}}, -1},
		"nobody who can say": {[]Group{&Switch{}}, -1},
		"no groups":          {nil, -1},
	} {
		if got := (&Layer{groups: c.groups, cores: 2}).here(); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// TestSplitSaysIfThereIsNone: balance ends when no part can be divided.
func TestSplitSaysIfThereIsNone(t *testing.T) {
	for name, c := range map[string]struct {
		sites []site
		move  int32
		want  bool
	}{
		"one":              {everywhere(1, 2), 32, true},
		"none is so long":  {everywhere(1, 2), 57, false},
		"it may not go on": {[]site{{0}}, 32, false},
	} {
		var p plan
		p.begin(alike(64), []int{0})
		p.assign(c.sites, 2, -1)
		if got := p.split(c.sites, 0, 1, c.move); got != c.want || (len(p.parts) == 2) != c.want {
			t.Errorf("%s: split %v into %d parts, want %v", name, got, len(p.parts), c.want)
		}
	}
}

// TestResize: memory that is large enough is kept.
func TestResize(t *testing.T) {
	s := make([]int, 3)
	for n, kept := range []bool{true, true, true, true, false} {
		got := resize(s, n)
		if len(got) != n || (cap(got) == cap(s)) != kept || kept && n > 0 && &got[0] != &s[0] {
			t.Errorf("%d of 3: %d of %d, want the same memory: %v", n, len(got), cap(got), kept)
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
			var p plan
			p.deal(alike(c.rows...), make([]int, len(c.rows)), c.cores)
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
		"NaN":       {router.Routes{K: 2, IDs: []int32{0, 7, 1, 5}, Weights: []float32{1, 1, 1, nan}}, "row 1: weight NaN of expert 5"},
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
