package kernel_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends/internal/asmtest"
)

// TestGenerated: the committed kernels are what the generator makes.
func TestGenerated(t *testing.T) {
	args := func(out string) []string { return []string{"-dir", out} }
	asmtest.Generated(t, true, args, "tile_avx2_amd64.s", "tile_vnni_amd64.s")
}
