package vec_test

import (
	"path/filepath"
	"testing"

	"github.com/pimoe/pimoe/backends/internal/asmtest"
)

// TestGenerated: what is committed is what the generator writes, but for the first line, which has its arguments.
func TestGenerated(t *testing.T) {
	args := func(out string) []string {
		return []string{"-out", filepath.Join(out, "kernels_amd64.s"), "-stubs", filepath.Join(out, "stubs_amd64.go"), "-pkg", "vec"}
	}
	asmtest.Generated(t, false, args, "kernels_amd64.s", "stubs_amd64.go")
}
