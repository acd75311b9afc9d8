//go:build !cuda || !cgo

package cuda

import (
	"errors"
	"testing"

	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestUnavailable: a build without CUDA has the backend, and says why it can't compute when weights come.
func TestUnavailable(t *testing.T) {
	b := New(Options{})
	if b.Name() != "cuda" || b.Packing("int8g32") == "" {
		t.Error("the backend doesn't describe itself")
	}
	w := tensor.View{DType: tensor.F32, Shape: []int{1, 1}, Data: make([]byte, 4)}
	_, err := b.Linear("f32", w, tensor.View{})
	if !errors.Is(err, sdk.ErrUnavailable) || !errors.Is(err, ErrBuild) {
		t.Errorf("Linear: %v", err)
	}
	if _, err := b.FFN("f32", "silu", w, w, w); !errors.Is(err, sdk.ErrUnavailable) {
		t.Errorf("FFN: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
