//go:build !race

// Under the race detector sync.Pool drops what it is given at random.

package int8_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestNoGarbage: once the memory of a call is there, nothing is allocated.
func TestNoGarbage(t *testing.T) {
	pool := team.NewPool(2, team.Options{})
	defer pool.Close()
	be := int8.New()
	w := view(make([]float32, 90*70), 90, 70)
	l := must[backends.Linear](t)(be.Linear(int8.Class, w, tensor.View{}))
	f := must[backends.FFN](t)(be.FFN(int8.Class, "silu", w, w, view(make([]float32, 90*70), 70, 90)))
	for _, rows := range []int{1, 5, 40} {
		x, y, h := tensor.NewMatrix(rows, 70), tensor.NewMatrix(rows, 90), tensor.NewMatrix(rows, 70)
		for name, tm := range map[string]team.Team{"alone": {}, "team": pool.Team()} {
			if n := testing.AllocsPerRun(50, func() { l.Apply(y, x, tm); f.Apply(h, x, tm) }); n >= 1 {
				t.Errorf("%d rows, %s: %g allocations", rows, name, n)
			}
		}
	}
}
