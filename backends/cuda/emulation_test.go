//go:build cuda && cgo

package cuda_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/backendtest"
	"github.com/pimoe/pimoe/backends/cuda"
)

// opened is a backend that the test closes.
func opened(t testing.TB, o cuda.Options) *cuda.Backend {
	t.Helper()
	b := cuda.New(o)
	if err := b.Open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestBackend(t *testing.T) {
	b := opened(t, cuda.Options{})
	backendtest.Test(t, func() backends.Backend { return b })
}
