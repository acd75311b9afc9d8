package model

import (
	"testing"
	"unsafe"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// A cache's slices are zero, aligned, apart from each other and as long as they must be, whatever their size; and a
// closed cache can be closed again.
func TestCacheMemory(t *testing.T) {
	for _, pages := range []int{1, 3, 1 << 13} { // the last one is large enough for huge pages
		for _, dtype := range []tensor.DType{tensor.F32, tensor.BF16} {
			c := &Config{Layers: 3, KVHeads: 2, HeadDim: 36}
			cache, err := c.NewCache(CacheSpec{Pages: pages, PageTokens: 16, DType: dtype})
			if err != nil {
				t.Fatal(err)
			}
			n := pages * 16 * 2 * 36
			for i := range cache.layers {
				l := &cache.layers[i]
				if dtype == tensor.F32 {
					checkSlices(t, n, float32(i), l.k32, l.v32)
				} else {
					checkSlices(t, n, uint16(i), l.k16, l.v16)
				}
			}
			for range 2 {
				if err := cache.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// checkSlices finds slices that are not empty memory of their own, and writes to their ends.
func checkSlices[T float32 | uint16](t *testing.T, n int, mark T, slices ...[]T) {
	t.Helper()
	for _, s := range slices {
		if len(s) != n || uintptr(unsafe.Pointer(unsafe.SliceData(s)))%cacheLine != 0 {
			t.Fatalf("%d elements at %p, want %d on a cache line", len(s), s, n)
		}
		if s[0] != 0 || s[n-1] != 0 {
			t.Error("memory that was written by somebody else")
		}
		s[0], s[n-1] = mark+1, mark+1
	}
}
