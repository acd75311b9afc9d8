package scaling_test

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/core/scaling"
	"github.com/pimoe/pimoe/sdk/expert"
)

func unit(layer, e int) expert.Unit { return expert.Unit{Layer: layer, Expert: e} }

func text(groups []scaling.Grouping) (s string) {
	for _, g := range groups {
		s += g.Name + ":"
		for _, u := range g.Units {
			s += fmt.Sprintf(" %d.%d", u.Layer, u.Expert)
		}
		s += "\n"
	}
	return s
}

func TestRegroup(t *testing.T) {
	for _, c := range []struct {
		name   string
		groups []scaling.Grouping
		heat   map[expert.Unit]float64
		want   string
		moved  int
	}{
		{"no heat, no move", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(0, 1)}}, {Name: "b", Units: []expert.Unit{unit(0, 2)}}}, nil,
			"a: 0.0 0.1\nb: 0.2\n", 0},
		{"hot units of two layers in one process", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Name: "b", Units: []expert.Unit{unit(0, 1), unit(1, 1)}}},
			map[expert.Unit]float64{unit(0, 0): 90, unit(1, 0): 100, unit(0, 1): 10, unit(1, 1): 20}, "a: 0.1 1.0\nb: 0.0 1.1\n", 2},
		{"what is balanced stays", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Name: "b", Units: []expert.Unit{unit(0, 1), unit(1, 1)}}},
			map[expert.Unit]float64{unit(0, 0): 100, unit(1, 0): 100, unit(0, 1): 100, unit(1, 1): 99.5}, "a: 0.0 1.0\nb: 0.1 1.1\n", 0},
		{"not between kinds", []scaling.Grouping{{Name: "a", Kind: "x", Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Name: "b", Kind: "y", Units: []expert.Unit{unit(0, 1), unit(1, 1)}}},
			map[expert.Unit]float64{unit(0, 0): 90, unit(1, 0): 100, unit(0, 1): 10, unit(1, 1): 20}, "a: 0.0 1.0\nb: 0.1 1.1\n", 0},
		{"a group keeps a unit", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0)}}, {Name: "b", Units: []expert.Unit{unit(1, 0)}}},
			map[expert.Unit]float64{unit(0, 0): 90}, "a: 0.0\nb: 1.0\n", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, moved := scaling.Regroup(c.groups, c.heat)
			if text(got) != c.want || moved != c.moved {
				t.Errorf("%d moved:\n%swant %d:\n%s", moved, text(got), c.moved, c.want)
			}
		})
	}
}

// TestRegroupImproves: over many shapes, every unit stays in one group, the hottest group never gets hotter, no layer's work
// comes together, the outcome is the same each time, and no single step is left that would help.
func TestRegroupImproves(t *testing.T) {
	better := 0
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 2))
		layers, experts, n := 1+rng.IntN(6), 2+rng.IntN(20), 1+rng.IntN(8)
		groups := make([]scaling.Grouping, min(n, experts))
		heat := map[expert.Unit]float64{}
		for l := range layers {
			for e := range experts {
				g := &groups[e%len(groups)]
				g.Name = fmt.Sprint("e", e%len(groups))
				g.Units = append(g.Units, unit(l, e))
				heat[unit(l, e)] = float64(int(rng.ExpFloat64() * 1000))
			}
		}
		got, moved := scaling.Regroup(groups, heat)
		again, _ := scaling.Regroup(groups, heat)
		if !reflect.DeepEqual(got, again) {
			t.Errorf("seed %d: two outcomes", seed)
		}
		seen := map[expert.Unit]bool{}
		for _, g := range got {
			for _, u := range g.Units {
				seen[u] = true
			}
			if len(g.Units) == 0 {
				t.Errorf("seed %d: group %s is empty", seed, g.Name)
			}
		}
		before, after := scaling.BalanceOf(groups, heat), scaling.BalanceOf(got, heat)
		switch {
		case len(seen) != layers*experts:
			t.Errorf("seed %d: %d units of %d", seed, len(seen), layers*experts)
		case after.Busiest > before.Busiest || after.Layers > before.Layers*(1+1e-6):
			t.Errorf("seed %d: %+v became %+v", seed, before, after)
		case after.Busiest < before.Busiest != (moved > 0):
			t.Errorf("seed %d: %d moved, %+v became %+v", seed, moved, before, after)
		}
		if after.Busiest < before.Busiest {
			better++
		}
		if _, more := scaling.Regroup(got, heat); more > moved/2 {
			t.Errorf("seed %d: %d more to move after %d", seed, more, moved)
		}
	}
	if better < 30 {
		t.Errorf("only %d of 60 got better", better)
	}
}

// plainRegroup is Regroup by the longest way: a step tries all that one unit's move or an exchange of two can make, and weighs
// each outcome from the beginning.
func plainRegroup(groups []scaling.Grouping, heat map[expert.Unit]float64) []scaling.Grouping {
	order := func(a, b expert.Unit) int { return cmp.Or(a.Layer-b.Layer, a.Expert-b.Expert) }
	load := func(units []expert.Unit) (sum float64) {
		for _, u := range units {
			sum += heat[u]
		}
		return sum
	}
	path := func(groups []scaling.Grouping) (sum float64) {
		for layer := range 10 {
			most := 0.
			for _, g := range groups {
				own := slices.DeleteFunc(slices.Clone(g.Units), func(u expert.Unit) bool { return u.Layer != layer })
				most = max(most, load(own))
			}
			sum += most
		}
		return sum
	}
	now := slices.Clone(groups)
	kinds := map[string][]int{}
	for g := range now {
		now[g].Units = slices.SortedFunc(slices.Values(now[g].Units), order)
		kinds[now[g].Kind] = append(kinds[now[g].Kind], g)
	}
	allowed := path(now)
	step := func(list []int) bool {
		a, mean := list[0], 0.
		for _, g := range list {
			mean += load(now[g].Units) / float64(len(list))
			if load(now[g].Units) > load(now[a].Units) {
				a = g
			}
		}
		before := load(now[a].Units)
		best, least := []scaling.Grouping(nil), before
		for i := range now[a].Units {
			for _, b := range list {
				for j := -1; j < len(now[b].Units) && b != a && (j >= 0 || len(now[a].Units) > 1); j++ {
					after := slices.Clone(now)
					from, to := slices.Delete(slices.Clone(now[a].Units), i, i+1), slices.Clone(now[b].Units)
					if j >= 0 {
						from, to = append(from, to[j]), slices.Delete(to, j, j+1)
					}
					after[a].Units, after[b].Units = from, append(to, now[a].Units[i])
					if hotter := max(load(after[a].Units), load(after[b].Units)); hotter < least && path(after) <= allowed {
						best, least = after, hotter
					}
				}
			}
		}
		if best == nil || before-least <= mean/100 {
			return false
		}
		now = best
		return true
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		for step(kinds[kind]) {
		}
	}
	for g := range now {
		slices.SortFunc(now[g].Units, order)
	}
	return now
}

// Regroup makes, step by step, what the plain one makes, and nobody's order of the units changes it.
func TestRegroupAgainstPlain(t *testing.T) {
	moves := 0
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 4))
		groups := make([]scaling.Grouping, 1+rng.IntN(6))
		kinds := 1 + rng.IntN(2)
		for g := range groups {
			groups[g] = scaling.Grouping{Name: fmt.Sprint("e", g), Kind: fmt.Sprint("k", rng.IntN(kinds))}
		}
		heat := map[expert.Unit]float64{}
		layers, experts, most := 1+rng.IntN(4), len(groups)+rng.IntN(6), []int{4, 30, 1000}[rng.IntN(3)]
		home := rng.Perm(experts)
		for l := range layers {
			if rng.IntN(3) == 0 { // else a layer's experts lie as those of the layer before
				home = rng.Perm(experts)
			}
			for e := range experts {
				g := &groups[home[e]%len(groups)]
				g.Units = append(g.Units, unit(l, e))
				heat[unit(l, e)] = float64(int(rng.ExpFloat64() * float64(most)))
			}
		}
		want := plainRegroup(groups, heat)
		for _, g := range groups {
			rng.Shuffle(len(g.Units), func(i, j int) { g.Units[i], g.Units[j] = g.Units[j], g.Units[i] })
		}
		got, moved := scaling.Regroup(groups, heat)
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d:\n%swant:\n%s", seed, text(got), text(want))
		}
		moves += moved
	}
	if moves < 500 {
		t.Errorf("only %d moves", moves)
	}
}

// A gain of a hundredth of the mean is noise, and a little more is not.
func TestRegroupLeastGain(t *testing.T) {
	for spare, want := range map[float64]bool{1: false, 1.1: true} {
		groups := []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Name: "b", Units: []expert.Unit{unit(0, 1)}}}
		heat := map[expert.Unit]float64{unit(0, 0): 100, unit(1, 0): spare, unit(0, 1): 100 - spare}
		if got, moved := scaling.Regroup(groups, heat); moved > 0 != want {
			t.Errorf("a gain of %g of 100: %d moved, want any: %v:\n%s", spare, moved, want, text(got))
		}
	}
}

func TestBalanceOf(t *testing.T) {
	groups := []scaling.Grouping{
		{Name: "a", Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Name: "b", Units: []expert.Unit{unit(0, 1), unit(1, 1)}},
		{Name: "c", Units: []expert.Unit{unit(0, 2)}}, {Name: "d"},
	}
	for _, c := range []struct {
		name string
		heat map[expert.Unit]float64
		want scaling.Balance
	}{
		{"no heat", nil, scaling.Balance{Busiest: 1, Layers: 1}},
		{"one hot unit", map[expert.Unit]float64{unit(1, 1): 1}, scaling.Balance{Busiest: 4, Layers: 4}},
		// the groups have 60, 80, 60 and 0, 50 in the mean; the hottest of layer 0 has 60, that of layer 1 has 70
		{"two layers", map[expert.Unit]float64{unit(0, 0): 50, unit(1, 0): 10, unit(0, 1): 10, unit(1, 1): 70, unit(0, 2): 60},
			scaling.Balance{Busiest: 1.6, Layers: 2.6}},
	} {
		if got := scaling.BalanceOf(groups, c.heat); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// A large model is dealt in less time than a person minds.
func TestRegroupLarge(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	groups := make([]scaling.Grouping, 64)
	heat := map[expert.Unit]float64{}
	for l := range 24 {
		for e := range 128 {
			groups[e%64].Units = append(groups[e%64].Units, unit(l, e))
			heat[unit(l, e)] = float64(int(rng.ExpFloat64() * 1e6))
		}
	}
	got, moved := scaling.Regroup(groups, heat)
	before, after := scaling.BalanceOf(groups, heat), scaling.BalanceOf(got, heat)
	t.Logf("measured: %d of %d units moved, %+v became %+v", moved, 24*128, before, after)
	if after.Busiest > 1.1 {
		t.Errorf("%+v became %+v", before, after)
	}
}
