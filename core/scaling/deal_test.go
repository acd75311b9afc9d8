package scaling

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/sdk/expert"
)

// What a deal keeps while it changes is what counting anew gives: the groups' loads and the layers' path, foretold and done.
func TestDealKeepsCount(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 4))
		groups := make([]Grouping, 2+rng.IntN(4))
		heat := map[expert.Unit]float64{}
		for l := range 1 + rng.IntN(4) {
			for e := range 8 {
				g := &groups[(e+l)%len(groups)]
				u := expert.Unit{Layer: l, Expert: e}
				g.Units, heat[u] = append(g.Units, u), float64(rng.IntN(100))
			}
		}
		d := newDeal(groups, heat)
		for range 50 {
			x := exchange{a: rng.IntN(len(groups)), j: -1}
			x.b = (x.a + 1 + rng.IntN(len(groups)-1)) % len(groups)
			if len(d.of[x.a]) < 2 {
				continue
			}
			x.i = rng.IntN(len(d.of[x.a]))
			if n := len(d.of[x.b]); rng.IntN(2) == 0 && n > 0 {
				x.j = rng.IntN(n)
			}
			foretold := d.pathAfter(x)
			d.do(x)
			now := make([]Grouping, len(groups))
			for g := range now {
				now[g].Units = d.of[g]
			}
			fresh := newDeal(now, heat)
			if math.Abs(foretold-fresh.path) > 1e-9 || math.Abs(d.path-fresh.path) > 1e-9 {
				t.Fatalf("seed %d, %+v: path %g foretold, %g kept, it is %g", seed, x, foretold, d.path, fresh.path)
			}
			for g := range now {
				if math.Abs(d.load[g]-fresh.load[g]) > 1e-9 {
					t.Fatalf("seed %d, %+v: load %v kept, it is %v", seed, x, d.load, fresh.load)
				}
			}
		}
	}
}
