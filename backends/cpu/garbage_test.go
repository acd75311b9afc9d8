//go:build !race

// Under the race detector sync.Pool drops what it is given at random.

package cpu_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestNoGarbage: a product on one thread allocates nothing, once a panel is there.
func TestNoGarbage(t *testing.T) {
	for _, rows := range []int{1, 40} {
		l, err := linearOf(weights(tensor.BF16, 100, 64), tensor.View{})
		if err != nil {
			t.Fatal(err)
		}
		x, y := tensor.NewMatrix(rows, 64), tensor.NewMatrix(rows, 100)
		if n := testing.AllocsPerRun(50, func() { l.Apply(y, x, team.Team{}) }); n >= 1 {
			t.Errorf("%d rows: %g allocations a product", rows, n)
		}
	}
}
