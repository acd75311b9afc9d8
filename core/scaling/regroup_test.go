package scaling_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
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
		{"one unit more on one side", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(1, 0), unit(2, 0)}}, {Name: "b", Units: []expert.Unit{unit(3, 0)}}},
			map[expert.Unit]float64{unit(0, 0): .3, unit(1, 0): .3, unit(2, 0): .3, unit(3, 0): .3}, "a: 1.0 2.0\nb: 0.0 3.0\n", 1},
		{"units in any order", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(2, 0), unit(0, 0), unit(1, 0)}}, {Name: "b", Units: []expert.Unit{unit(3, 0)}}},
			map[expert.Unit]float64{unit(0, 0): .3, unit(1, 0): .3, unit(2, 0): .3, unit(3, 0): .3}, "a: 1.0 2.0\nb: 0.0 3.0\n", 1},
		{"of two hot groups the first", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Name: "b", Units: []expert.Unit{unit(2, 0), unit(3, 0)}}, {Name: "c", Units: []expert.Unit{unit(4, 0)}}},
			map[expert.Unit]float64{unit(0, 0): 50, unit(1, 0): 50, unit(2, 0): 50, unit(3, 0): 50}, "a: 1.0\nb: 2.0 3.0\nc: 0.0 4.0\n", 1},
		{"a gain of a hundredth", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(0, 1)}}, {Name: "b", Units: []expert.Unit{unit(0, 2), unit(0, 3)}}},
			map[expert.Unit]float64{unit(0, 0): 51, unit(0, 1): 50, unit(0, 2): 50, unit(0, 3): 49}, "a: 0.1 0.2\nb: 0.0 0.3\n", 2},
		{"a gain of less", []scaling.Grouping{{Name: "a", Units: []expert.Unit{unit(0, 0), unit(0, 1)}}, {Name: "b", Units: []expert.Unit{unit(0, 2), unit(0, 3)}}},
			map[expert.Unit]float64{unit(0, 0): 50.75, unit(0, 1): 50, unit(0, 2): 50, unit(0, 3): 49.25}, "a: 0.0 0.1\nb: 0.2 0.3\n", 0},
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

// TestBalanceOf: a place with twice the mean is 2, and what is not used at all is even.
func TestBalanceOf(t *testing.T) {
	groups := []scaling.Grouping{{Units: []expert.Unit{unit(0, 0), unit(1, 0)}}, {Units: []expert.Unit{unit(0, 1), unit(1, 1)}}}
	for _, c := range []struct {
		heat map[expert.Unit]float64
		want scaling.Balance
	}{
		{nil, scaling.Balance{Busiest: 1, Layers: 1}},
		{map[expert.Unit]float64{unit(0, 0): .5}, scaling.Balance{Busiest: 2, Layers: 2}},
		{map[expert.Unit]float64{unit(0, 0): 6, unit(1, 1): 2}, scaling.Balance{Busiest: 1.5, Layers: 2}},
		{map[expert.Unit]float64{unit(0, 0): 2, unit(0, 1): 2, unit(1, 0): 3, unit(1, 1): 1}, scaling.Balance{Busiest: 1.25, Layers: 1.25}},
	} {
		if got := scaling.BalanceOf(groups, c.heat); got != c.want {
			t.Errorf("%v: %+v, want %+v", c.heat, got, c.want)
		}
	}
}
