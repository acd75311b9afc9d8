package scaling

import (
	"cmp"
	"maps"
	"slices"

	"github.com/pimoe/pimoe/sdk/expert"
)

// Grouping is the units that one process serves.
type Grouping struct {
	Name  string
	Kind  string // units change places only with those of the same kind: they are computed alike
	Units []expert.Unit
}

// Balance says how evenly the heat of units lies on the groups. 1 is even; 2 says that twice the mean is in one place.
type Balance struct {
	Busiest float64 `json:"busiest"` // the hottest group, by the mean of the groups
	Layers  float64 `json:"layers"`  // the hottest group of each layer, summed up, by the sum of the layers' means
}

// leastGain is the share of the mean that a step must cool the hottest group down by more than: units don't move for noise.
const leastGain = 0.01

// Regroup deals the units anew, so that the hottest group of each kind is as cool as can be reached step by step, with few
// moves: each step moves one unit out of the hottest group, or changes it for a cooler one. No step puts more of a layer's work
// into one process than there was at first, since the groups of a layer work at the same time. It is deterministic. Groups
// keep their names, kinds and order and at least one unit; moved is how many units have another group than before.
func Regroup(groups []Grouping, heat map[expert.Unit]float64) (out []Grouping, moved int) {
	d := newDeal(groups, heat)
	for _, kind := range slices.Sorted(maps.Keys(d.kinds)) {
		for range d.units { // each step cools by more than a hundredth of the mean, so it ends long before
			if !d.step(d.kinds[kind]) {
				break
			}
		}
	}
	home := map[expert.Unit]int{}
	for g := range groups {
		for _, u := range groups[g].Units {
			home[u] = g
		}
	}
	for g, units := range d.of {
		slices.SortFunc(units, byLayer)
		for _, u := range units {
			if home[u] != g {
				moved++
			}
		}
		out = append(out, Grouping{Name: groups[g].Name, Kind: groups[g].Kind, Units: units})
	}
	return out, moved
}

func byLayer(a, b expert.Unit) int {
	return cmp.Or(cmp.Compare(a.Layer, b.Layer), cmp.Compare(a.Expert, b.Expert))
}

// BalanceOf measures a grouping.
func BalanceOf(groups []Grouping, heat map[expert.Unit]float64) Balance {
	d := newDeal(groups, heat)
	total := 0.
	for _, l := range d.load {
		total += l
	}
	if total == 0 {
		return Balance{Busiest: 1, Layers: 1}
	}
	mean := total / float64(len(groups))
	return Balance{Busiest: slices.Max(d.load) / mean, Layers: d.path / mean}
}

// deal is a grouping while it is being changed.
type deal struct {
	heat   map[expert.Unit]float64
	kinds  map[string][]int // groups by kind
	of     [][]expert.Unit  // by group
	load   []float64        // by group
	layers map[int][]float64
	path   float64 // sum over the layers of their hottest group
	most   float64 // that path may become
	units  int
}

func newDeal(groups []Grouping, heat map[expert.Unit]float64) *deal {
	d := &deal{heat: heat, kinds: map[string][]int{}, load: make([]float64, len(groups)), layers: map[int][]float64{}}
	for g, gr := range groups {
		d.kinds[gr.Kind] = append(d.kinds[gr.Kind], g)
		units := slices.Clone(gr.Units)
		slices.SortFunc(units, byLayer)
		d.of = append(d.of, units)
		for _, u := range units {
			if d.layers[u.Layer] == nil {
				d.layers[u.Layer] = make([]float64, len(groups))
			}
			d.units++
			d.load[g] += heat[u]
			d.layers[u.Layer][g] += heat[u]
		}
	}
	for _, l := range d.layers {
		d.path += slices.Max(l)
	}
	const rounding = 1e-9 // sums in another order
	d.most = d.path * (1 + rounding)
	return d
}

// exchange is a step: the i-th unit of a goes to b, and the j-th of b to a; j < 0 = none does.
type exchange struct {
	a, b, i, j int
	max        float64 // the hotter of the two afterwards
}

// step cools the hottest of some groups down; false where nothing can.
func (d *deal) step(list []int) bool {
	a, mean := list[0], 0.
	for _, g := range list {
		mean += d.load[g] / float64(len(list))
		if d.load[g] > d.load[a] {
			a = g
		}
	}
	best := exchange{max: d.load[a]} // so nothing changes places within a, and a's only unit stays: that would cool nothing
	for i, u := range d.of[a] {
		for _, b := range list {
			best = d.better(best, exchange{a: a, b: b, i: i, j: -1}, d.heat[u])
			for j, v := range d.of[b] {
				best = d.better(best, exchange{a: a, b: b, i: i, j: j}, d.heat[u]-d.heat[v])
			}
		}
	}
	if d.load[a]-best.max <= leastGain*mean {
		return false
	}
	d.do(best)
	return true
}

// better is the better one of two steps, the first on a tie; the second one takes so much heat from a to b.
func (d *deal) better(best, x exchange, heat float64) exchange {
	x.max = max(d.load[x.a]-heat, d.load[x.b]+heat)
	if x.max < best.max && d.pathAfter(x) <= d.most {
		return x
	}
	return best
}

// pathAfter is what path would be.
func (d *deal) pathAfter(x exchange) float64 {
	d.shift(x, 1)
	path := d.path
	lu := d.of[x.a][x.i].Layer
	path += slices.Max(d.layers[lu])
	lv := lu
	if x.j >= 0 {
		lv = d.of[x.b][x.j].Layer
	}
	if lv != lu {
		path += slices.Max(d.layers[lv])
	}
	d.shift(x, -1)
	path -= slices.Max(d.layers[lu])
	if lv != lu {
		path -= slices.Max(d.layers[lv])
	}
	return path
}

// shift moves the layers' heat of a step there (1) or back (-1).
func (d *deal) shift(x exchange, sign float64) {
	u := d.of[x.a][x.i]
	d.layers[u.Layer][x.a] -= sign * d.heat[u]
	d.layers[u.Layer][x.b] += sign * d.heat[u]
	if x.j >= 0 {
		v := d.of[x.b][x.j]
		d.layers[v.Layer][x.b] -= sign * d.heat[v]
		d.layers[v.Layer][x.a] += sign * d.heat[v]
	}
}

func (d *deal) do(x exchange) {
	d.path = d.pathAfter(x)
	d.shift(x, 1)
	u := d.of[x.a][x.i]
	d.of[x.a] = slices.Delete(d.of[x.a], x.i, x.i+1)
	heat := d.heat[u]
	if x.j >= 0 {
		v := d.of[x.b][x.j]
		heat -= d.heat[v]
		d.of[x.b] = slices.Delete(d.of[x.b], x.j, x.j+1)
		d.of[x.a] = append(d.of[x.a], v)
	}
	d.of[x.b] = append(d.of[x.b], u)
	d.load[x.a] -= heat
	d.load[x.b] += heat
}
