//go:build !race

// Under the race detector sync.Pool drops what it is given at random.

package model

import (
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestNoGarbage: a step allocates nothing once its memory is there, on one thread and on two.
func TestNoGarbage(t *testing.T) {
	pool := team.NewPool(2, team.Options{})
	defer pool.Close()
	for _, be := range []backends.Backend{cpu.New(), int8.New()} {
		trunk := randomTrunk(t, "tiny", be)
		for _, tm := range []team.Team{{}, pool.Team()} {
			cache := newBenchCache(t, trunk.cfg, 40, tensor.BF16)
			var spans []Span
			for i := range 8 {
				spans = append(spans, Span{Pages: benchPages(i*5, 80), Start: 70, Tokens: []int32{1}, Logits: true})
			}
			step := func() {
				if _, err := trunk.Forward(t.Context(), cache, spans, nothing{}, tm); err != nil {
					t.Fatal(err)
				}
			}
			step()
			if n := testing.AllocsPerRun(50, step); n >= 1 {
				t.Errorf("%s, %d threads: %g allocations a step", be.Name(), tm.Threads(), n)
			}
		}
	}
}
