//go:build !race

// Under the race detector sync.Pool drops what it is given at random.

package cpu_test

import (
	"fmt"
	"testing"

	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestNoGarbage: products and blocks allocate nothing once their memory is there, alone and in a team.
func TestNoGarbage(t *testing.T) {
	pool := team.NewPool(2, team.Options{})
	defer pool.Close()
	for _, level := range []isa.Level{isa.Generic, isa.Active()} {
		for _, class := range []string{"bf16w-f32", "bf16", "bf16dot"} {
			be := cpu.At(level)
			w := weights(tensor.BF16, 100, 64)
			l, err := be.Linear(class, w, tensor.View{})
			if err != nil {
				t.Fatal(err)
			}
			f, err := be.FFN(class, "silu", w, w, weights(tensor.BF16, 64, 100))
			if err != nil {
				t.Fatal(err)
			}
			for _, rows := range []int{1, 40} {
				x, y, z := tensor.NewMatrix(rows, 64), tensor.NewMatrix(rows, 100), tensor.NewMatrix(rows, 64)
				for name, run := range map[string]func(t team.Team){"Linear": func(t team.Team) { l.Apply(y, x, t) }, "FFN": func(t team.Team) { f.Apply(z, x, t) }} {
					for _, tm := range []team.Team{{}, pool.Team()} {
						what := fmt.Sprintf("%v %s %s, %d rows, %d threads", level, class, name, rows, tm.Threads())
						if n := testing.AllocsPerRun(5, func() { run(tm) }); n >= 1 {
							t.Errorf("%s: %g allocations", what, n)
						}
					}
				}
			}
		}
	}
}
