package schedule

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/pimoe/pimoe/sdk"
)

func plan(t *testing.T, seed uint64, rates Rates, length time.Duration) []Fault {
	t.Helper()
	p, err := Plan(seed, rates, length)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func only(faults []Fault, kind Kind) []Fault {
	return slices.DeleteFunc(slices.Clone(faults), func(f Fault) bool { return f.Kind != kind })
}

// TestPlan: a schedule depends on the seed alone, is ordered, and has about as many faults as its rates say.
func TestPlan(t *testing.T) {
	rates := Rates{Kill: 5, Stop: 2, Router: 0.5}
	const length = 200 * time.Second
	a := plan(t, 7, rates, length)
	if !slices.Equal(a, plan(t, 7, rates, length)) {
		t.Error("the same seed gives another schedule")
	}
	if slices.Equal(a, plan(t, 8, rates, length)) {
		t.Error("another seed gives the same schedule")
	}
	if !slices.IsSortedFunc(a, func(a, b Fault) int { return int(a.At - b.At) }) || a[len(a)-1].At >= length {
		t.Error("not in the order of time within the length")
	}
	for kind, rate := range rates {
		want := rate * length.Seconds()
		if got := float64(len(only(a, kind))); math.Abs(got-want) > 5*math.Sqrt(want) {
			t.Errorf("%s: %g faults, want about %g", kind, got, want)
		}
	}
	if n := len(only(a, Slow)); n != 0 {
		t.Errorf("%d faults of a kind without a rate", n)
	}
}

// TestKindsAreIndependent: what one kind does is the same whatever the others do, so that a schedule can be narrowed.
func TestKindsAreIndependent(t *testing.T) {
	both := plan(t, 3, Rates{Kill: 4, Stop: 4}, time.Minute)
	if alone := plan(t, 3, Rates{Kill: 4}, time.Minute); !slices.Equal(alone, only(both, Kill)) {
		t.Error("kills depend on stops")
	}
	if kills, stops := only(both, Kill), only(both, Stop); kills[0].At == stops[0].At {
		t.Error("two kinds share their draws")
	}
	if short := plan(t, 3, Rates{Kill: 4}, time.Second); !slices.Equal(short, only(both, Kill)[:len(short)]) {
		t.Error("the begin of a schedule depends on its length")
	}
}

func TestRefusals(t *testing.T) {
	for _, rates := range []Rates{{Kill: -1}, {Kill: math.NaN()}, {Kill: 1e9}, {"bribe": 1}, {Kill: 1000, Stop: 1000}} {
		if _, err := Plan(1, rates, time.Hour); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%v: %v", rates, err)
		}
	}
}

// TestPair: pairs depend on their seed alone, are close together, and meet every combination.
func TestPair(t *testing.T) {
	seen := map[[2]Kind]bool{}
	for seed := range uint64(1000) {
		p := Pair(seed, Kinds())
		if p != Pair(seed, Kinds()) {
			t.Fatal("the same seed gives another pair")
		}
		if p[0].At != 0 || p[1].At < 0 || p[1].At >= closest || p[0].Draw == p[1].Draw {
			t.Fatalf("%+v", p)
		}
		seen[[2]Kind{p[0].Kind, p[1].Kind}] = true
	}
	if want := len(Kinds()) * len(Kinds()); len(seen) != want {
		t.Errorf("%d combinations in 1000 seeds, want %d", len(seen), want)
	}
}
