package engine

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPlan(t *testing.T) {
	tests := []struct {
		name       string
		candidates []candidate
		bounds     bounds
		want       []share
	}{
		{"nobody", nil, bounds{4, 16, 8, 1}, nil},
		{"a prompt alone takes the whole step", []candidate{{100, 0, 0}}, bounds{4, 16, 8, 1}, []share{{0, 16}}},
		{"a prompt beside streams takes a chunk", []candidate{{1, 3, 0}, {100, 3, 0}}, bounds{4, 16, 8, 1}, []share{{0, 1}, {1, 8}}},
		{"streams count as tokens", []candidate{{1, 3, 0}, {1, 3, 0}, {100, 3, 0}}, bounds{4, 6, 8, 1}, []share{{0, 1}, {1, 1}, {2, 4}}},
		{"prompts share evenly", []candidate{{100, 0, 0}, {100, 0, 0}}, bounds{4, 16, 8, 1}, []share{{0, 8}, {1, 8}}},
		{"what a short prompt leaves goes to the long ones", []candidate{{100, 0, 0}, {2, 0, 0}, {100, 0, 0}}, bounds{4, 16, 8, 1}, []share{{0, 7}, {1, 2}, {2, 7}}},
		{"streams that waited longest go first", []candidate{{1, 5, 0}, {1, 4, 0}, {1, 4, 0}}, bounds{2, 16, 8, 1}, []share{{1, 1}, {2, 1}}},
		{"streams leave a place for a prompt", []candidate{{1, 5, 0}, {1, 5, 0}, {9, 5, 0}}, bounds{2, 16, 8, 1}, []share{{0, 1}, {2, 8}}},
		{"streams leave a token for a prompt", []candidate{{1, 5, 0}, {1, 5, 0}, {9, 5, 0}}, bounds{8, 2, 8, 1}, []share{{0, 1}, {2, 1}}},
		{"a single place goes to who waited longer", []candidate{{1, 5, 0}, {9, 4, 0}}, bounds{1, 16, 8, 1}, []share{{1, 9}}},
		{"a single place stays with the stream among equals", []candidate{{1, 5, 0}, {9, 5, 0}}, bounds{1, 16, 8, 1}, []share{{0, 1}}},
		{"more prompts than places: the oldest", []candidate{{9, 0, 0}, {9, 0, 0}, {9, 0, 0}}, bounds{2, 16, 8, 1}, []share{{0, 8}, {1, 8}}},
		{"prompts take turns where their parts would be small", []candidate{{9, 2, 0}, {9, 1, 0}, {9, 2, 0}, {9, 1, 0}}, bounds{8, 16, 8, 8}, []share{{1, 8}, {3, 8}}},
		{"short prompts leave their turn's rest to others", []candidate{{2, 1, 0}, {2, 1, 0}, {90, 1, 0}, {90, 1, 0}}, bounds{8, 16, 8, 8}, []share{{0, 2}, {1, 2}, {2, 6}, {3, 6}}},
		{"at least one prompt", []candidate{{1, 2, 0}, {9, 2, 0}, {9, 1, 0}}, bounds{8, 16, 4, 8}, []share{{0, 1}, {2, 4}}},
		{"each tenant's first stream before any second", []candidate{{1, 1, 0}, {1, 2, 1}, {1, 3, 2}, {1, 9, 0}}, bounds{2, 16, 8, 1}, []share{{0, 1}, {3, 1}}},
		{"each tenant's first prompt before any second", []candidate{{9, 1, 0}, {9, 1, 1}, {9, 2, 0}}, bounds{8, 16, 8, 8}, []share{{0, 8}, {2, 8}}},
		{"more prompts than tokens", []candidate{{9, 2, 0}, {9, 1, 0}, {9, 0, 0}}, bounds{8, 2, 8, 1}, []share{{1, 1}, {2, 1}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := new(planner).plan(test.candidates, test.bounds)
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(share{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever the candidates: the limits hold, nobody computes more than it has, no place is wasted, and everybody is
// served within a bounded number of steps.
func TestPlanProperties(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	p := &planner{}
	for range 300 {
		b := bounds{1 + r.IntN(6), 1 + r.IntN(20), 1 + r.IntN(20), 1 + r.IntN(8)}
		cs := make([]candidate, 1+r.IntN(12))
		for i := range cs {
			cs[i].pending = 1 + r.IntN(3)*r.IntN(30)
		}
		for step := uint64(1); step <= 100; step++ {
			shares := p.plan(cs, b)
			checkPlan(t, cs, b, shares)
			for _, s := range shares {
				cs[s.index].served = step
			}
		}
		for i, c := range cs {
			if c.served < 100-2*uint64(len(cs)) {
				t.Fatalf("candidate %d of %v with %+v was last served in step %d of 100", i, cs, b, c.served)
			}
		}
	}
}

func checkPlan(t *testing.T, cs []candidate, b bounds, shares []share) {
	t.Helper()
	tokens, seen := 0, map[int]bool{}
	for _, s := range shares {
		if s.tokens < 1 || s.tokens > cs[s.index].pending || seen[s.index] {
			t.Fatalf("bad share %+v of %+v", s, cs)
		}
		seen[s.index] = true
		tokens += s.tokens
	}
	if len(shares) == 0 || len(shares) > b.sequences || tokens > b.tokens {
		t.Fatalf("%d shares with %d tokens break %+v", len(shares), tokens, b)
	}
}

func BenchmarkPlan(b *testing.B) {
	cs := make([]candidate, 100)
	for i := range cs {
		cs[i] = candidate{pending: 1, served: uint64(i * 7 % 13)}
	}
	cs[50].pending = 1000
	p := &planner{}
	for b.Loop() {
		p.plan(cs, bounds{32, 512, 128, 1})
	}
}
