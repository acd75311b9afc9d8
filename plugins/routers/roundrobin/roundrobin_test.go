package roundrobin_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/roundrobin"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

var suite = choicetest.Suite{New: func() router.Router { return roundrobin.New() }, Even: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

func spec(experts, k int, params map[string]string) router.Spec {
	return router.Spec{Layers: []int{0, 1}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK}, Params: params}
}

func ids(t *testing.T, r router.Router, layer, rows, experts, k int) []int32 {
	t.Helper()
	routes, err := choicetest.Do(r, choicetest.Batch(uint64(rows), layer, rows, experts), k)
	if err != nil {
		t.Fatal(err)
	}
	return routes.IDs
}

// TestTurns: the experts of a layer follow one another round the ring, over rows and batches, and each layer has a ring
// of its own.
func TestTurns(t *testing.T) {
	const experts, k = 5, 2
	r := suite.Configured(t, spec(experts, k, nil))
	var all []int32
	for _, rows := range []int{1, 7, 0, 3, 40} {
		all = append(all, ids(t, r, 0, rows, experts, k)...)
		ids(t, r, 1, 2, experts, k)
	}
	for i, id := range all[1:] {
		if want := (all[i] + 1) % experts; id != want {
			t.Fatalf("turn %d is expert %d's, want %d's", i+1, id, want)
		}
	}
}

// TestEven: the numbers of rows never differ by more than one.
func TestEven(t *testing.T) {
	const experts, k = 7, 3
	r := suite.Configured(t, spec(experts, k, nil))
	load := make([]int, experts)
	for i := range 100 {
		for _, id := range ids(t, r, 0, i%6, experts, k) {
			load[id]++
		}
		if slices.Max(load)-slices.Min(load) > 1 {
			t.Fatalf("after batch %d the experts have %v rows", i, load)
		}
	}
}

// TestSeed: the seed says where the rings begin, and 0 is the default.
func TestSeed(t *testing.T) {
	const experts, k = 64, 1
	first := func(params map[string]string) [2]int32 {
		r := suite.Configured(t, spec(experts, k, params))
		return [2]int32{ids(t, r, 0, 1, experts, k)[0], ids(t, r, 1, 1, experts, k)[0]}
	}
	none, zero, one := first(nil), first(map[string]string{"seed": "0"}), first(map[string]string{"seed": "1"})
	if none != zero || none == one || none[0] == none[1] {
		t.Errorf("rings begin at %v without a seed, %v with 0, %v with 1", none, zero, one)
	}
}

func TestRefusesSeed(t *testing.T) {
	for _, seed := range []string{"", "-1", "0x10", "1.5"} {
		err := roundrobin.New().Configure(t.Context(), spec(2, 1, map[string]string{"seed": seed}))
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), `params: seed "`+seed+`"`) {
			t.Errorf("seed %q: %v", seed, err)
		}
	}
}
