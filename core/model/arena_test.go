package model

import (
	"testing"
	"unsafe"

	"github.com/pimoe/pimoe/backends/vec"
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
			n := pages * 16 * 2
			for i := range cache.layers {
				l := &cache.layers[i]
				checkSlice(t, n*36, float32(i), uint16(i), l.k)
				checkSlice(t, n*48, float32(i), uint16(i), l.v)
			}
			for range 2 {
				if err := cache.Close(); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// checkSlice finds a store that is empty memory of its own, and writes to its ends.
func checkSlice(t *testing.T, n int, f float32, h uint16, s vec.Store) {
	t.Helper()
	if s.DType == tensor.F32 {
		checkEnds(t, n, f, s.F)
	} else {
		checkEnds(t, n, h, s.H)
	}
}

func checkEnds[T float32 | uint16](t *testing.T, n int, mark T, s []T) {
	t.Helper()
	if len(s) != n || uintptr(unsafe.Pointer(unsafe.SliceData(s)))%cacheLine != 0 {
		t.Fatalf("%d elements at %p, want %d on a cache line", len(s), s, n)
	}
	if s[0] != 0 || s[n-1] != 0 {
		t.Error("memory that was written by somebody else")
	}
	s[0], s[n-1] = mark+1, mark+1
}
