package random_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/pimoe/pimoe/plugins/routers/internal/choicetest"
	"github.com/pimoe/pimoe/plugins/routers/random"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/router"
)

var suite = choicetest.Suite{New: func() router.Router { return random.New() }, Even: true, RowIndependent: true}

func TestRouter(t *testing.T) { choicetest.Test(t, suite) }

const experts, k = 16, 4

func routes(t *testing.T, params map[string]string, b router.Batch) []int32 {
	t.Helper()
	r := suite.Configured(t, router.Spec{Layers: []int{0, 1}, Experts: experts, TopK: k, Rule: router.Rule{Score: router.TopKSoftmax}, Params: params})
	got, err := choicetest.Do(r, b, k)
	if err != nil {
		t.Fatal(err)
	}
	return got.IDs
}

// TestDependsOn: seed, layer, position and token count, logits do not.
func TestDependsOn(t *testing.T) {
	fresh := func() router.Batch { return choicetest.Batch(1, 0, 1, experts) }
	want := routes(t, nil, fresh())
	b := fresh()
	b.Logits.Row(0)[0] = 100
	if !slices.Equal(routes(t, nil, b), want) {
		t.Error("logits count")
	}
	if !slices.Equal(routes(t, map[string]string{"seed": "0"}, fresh()), want) {
		t.Error("the default seed is not 0")
	}
	if slices.Equal(routes(t, map[string]string{"seed": "1"}, fresh()), want) {
		t.Error("the seed does not count")
	}
	for name, change := range map[string]func(b *router.Batch){
		"layer":    func(b *router.Batch) { b.Layer = 1 },
		"position": func(b *router.Batch) { b.Positions[0]++ },
		"token":    func(b *router.Batch) { b.Tokens[0]++ },
		"no token": func(b *router.Batch) { b.Tokens[0] = -1 },
	} {
		b := fresh()
		change(&b)
		if slices.Equal(routes(t, nil, b), want) {
			t.Errorf("%s does not count", name)
		}
	}
}

// TestEven: over many rows each expert gets its share, and each pair of experts is as likely as any other, within five
// standard deviations.
func TestEven(t *testing.T) {
	const rows = 60_000
	b := choicetest.Batch(3, 1, rows, experts)
	for r := range b.Positions {
		b.Positions[r] = int32(r)
	}
	ids := routes(t, map[string]string{"seed": "7"}, b)
	var one [experts]int
	var two [experts][experts]int
	for r := range rows {
		row := ids[r*k : (r+1)*k]
		for _, i := range row {
			one[i]++
			for _, j := range row {
				two[i][j]++
			}
		}
	}
	for i, n := range one {
		if want := rows * k / experts; n < want-530 || n > want+530 { // sqrt(60000 * 1/4 * 3/4) = 106
			t.Errorf("expert %d has %d rows, want about %d", i, n, want)
		}
		for j, n := range two[i] {
			if want := rows * k * (k - 1) / (experts * (experts - 1)); i != j && (n < want-270 || n > want+270) { // 53
				t.Errorf("experts %d and %d share %d rows, want about %d", i, j, n, want)
			}
		}
	}
}

func TestRefusesSeed(t *testing.T) {
	err := random.New().Configure(t.Context(), router.Spec{Layers: []int{0}, Experts: 2, TopK: 1, Rule: router.Rule{Score: router.SoftmaxTopK},
		Params: map[string]string{"seed": "0x10"}})
	if !errors.Is(err, sdk.ErrInvalid) || !strings.Contains(err.Error(), `params: seed "0x10"`) {
		t.Error(err)
	}
}
