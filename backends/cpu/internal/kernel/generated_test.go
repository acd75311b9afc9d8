package kernel_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends/internal/asmtest"
)

// TestGenerated: what is committed is what the generator writes.
func TestGenerated(t *testing.T) {
	args := func(out string) []string { return []string{"-out", out} }
	asmtest.Generated(t, true, args, "tile_avx2_amd64.s", "tile_avx512_amd64.s", "sizes_amd64.go")
}
