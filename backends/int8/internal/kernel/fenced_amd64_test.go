package kernel_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/isa"
)

// TestRunFenced: the kernels that only another maker's processors use.
func TestRunFenced(t *testing.T) {
	if !slices.Contains(isa.Available(), isa.VNNI) {
		t.Skip("needs AVX512_VNNI")
	}
	before := kernel.Fence(false)
	defer kernel.Fence(before)
	r := rand.New(rand.NewPCG(3, 2))
	for _, on := range []bool{false, true} {
		kernel.Fence(on)
		for rows := 1; rows <= 4; rows++ {
			for blocks := 1; blocks <= 40; blocks += 1 + blocks/3 {
				t.Run(fmt.Sprint(on, rows, blocks), func(t *testing.T) { testRun(t, r, kernel.At(isa.VNNI), rows, 1, blocks) })
			}
		}
	}
}
