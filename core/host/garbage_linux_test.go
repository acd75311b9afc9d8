//go:build !race

// The race detector makes garbage of its own.

package host_test

import (
	"testing"

	"github.com/pimoe/pimoe/core/moe"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// In the steady state a layer leaves no garbage in the host: not in the plan, the hop to the router, the calls or the
// combination.
func TestLayerAllocatesNothing(t *testing.T) {
	h := startWorkers(t, 0)
	place := make([]int, benchExperts)
	for e := range place {
		place[e] = e
	}
	const rows = 4
	layer := moe.New(h.Router(), benchTopK, benchExperts, moe.Placement{0: place}, h.Groups(), benchHidden, twoThreads(t))
	in := moe.Input{
		X: tensor.NewMatrix(rows, benchHidden), Logits: tensor.NewMatrix(rows, benchExperts), Tokens: make([]int32, rows), Positions: make([]int32, rows),
	}
	for i := range in.Logits.Data {
		in.Logits.Data[i] = float32(i * 7 % 13)
	}
	y := tensor.NewMatrix(rows, benchHidden)
	allocs := testing.AllocsPerRun(2000, func() {
		if err := layer.Forward(t.Context(), in, y); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations a layer", allocs)
	}
}
