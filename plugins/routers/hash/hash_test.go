package hash_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/plugins/routers/hash"
	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

var suite = choicetest.Suite{New: func() router.Router { return hash.New() }, Even: true, RowIndependent: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

const experts, k = 16, 4

func routes(t *testing.T, params map[string]string, b router.Batch) []int32 {
	t.Helper()
	r := suite.Configured(t, router.Spec{Layers: []int{0, 1}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.SoftmaxTopK}, Params: params})
	got, err := choicetest.Do(r, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return got.IDs
}

// TestDependsOnTokenAlone: of layer, token, seed, position and logits, the first three count.
func TestDependsOnTokenAlone(t *testing.T) {
	b := choicetest.Batch(1, 0, 1, experts)
	want := routes(t, nil, b)
	other := choicetest.Batch(2, 0, 1, experts)
	other.Tokens = b.Tokens
	if !slices.Equal(routes(t, nil, other), want) {
		t.Error("position or logits count")
	}
	if !slices.Equal(routes(t, map[string]string{"seed": "0"}, b), want) {
		t.Error("the default seed is not 0")
	}
	b.Layer = 1
	if slices.Equal(routes(t, nil, b), want) {
		t.Error("the layer does not count")
	}
	b.Layer = 0
	if slices.Equal(routes(t, map[string]string{"seed": "18446744073709551615"}, b), want) {
		t.Error("the seed does not count")
	}
	b.Tokens[0]++
	if slices.Equal(routes(t, nil, b), want) {
		t.Error("the token does not count")
	}
}

// TestRawRows: a row that is no token is hashed by its logits.
func TestRawRows(t *testing.T) {
	b := choicetest.Batch(1, 0, 1, experts)
	b.Tokens[0] = -1
	want := routes(t, nil, b)
	b.Positions[0]++
	if !slices.Equal(routes(t, nil, b), want) {
		t.Error("the position counts")
	}
	b.Logits.Row(0)[experts-1]++
	if slices.Equal(routes(t, nil, b), want) {
		t.Error("the logits do not count")
	}
}

// TestPinned: the hash is the same in every version and on every machine, or stored routes would lose their meaning.
func TestPinned(t *testing.T) {
	b := choicetest.Batch(1, 1, 4, experts)
	b.Tokens = []int32{0, 1, 2, 151642}
	want := []int32{3, 13, 9, 8, 11, 9, 7, 8, 6, 12, 0, 4, 11, 12, 0, 15}
	if got := routes(t, map[string]string{"seed": "42"}, b); !slices.Equal(got, want) {
		t.Errorf("ids %v, want %v", got, want)
	}
}

func TestRefusesSeed(t *testing.T) {
	for _, seed := range []string{"", "-1", "1.5", "x", "18446744073709551616"} {
		err := hash.New().Configure(t.Context(), router.Spec{Layers: []int{0}, Experts: 2, TopK: 1, Rule: router.Rule{Score: router.SoftmaxTopK},
			Params: map[string]string{"seed": seed}})
		if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), "params: seed") {
			t.Errorf("seed %q: %v", seed, err)
		}
	}
}
