package model

import (
	"testing"

	"github.com/pimoe/pimoe/sdk/tensor"
)

// Pages that are released can be written again, and no other page changes, whatever the storage type.
func TestRelease(t *testing.T) {
	c := &Config{Layers: 2, KVHeads: 4, HeadDim: 128}
	for _, dtype := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16} {
		cache, err := c.NewCache(CacheSpec{Pages: 9, PageTokens: 16, DType: dtype})
		if err != nil {
			t.Fatal(err)
		}
		fill := func(page int32, v float32) {
			row := make([]float32, c.HeadDim)
			for i := range row {
				row[i] = v
			}
			for layer := range c.Layers {
				for head := range c.KVHeads {
					for p := range 16 {
						cache.put(layer, []int32{page}, head, p, row, row)
					}
				}
			}
		}
		for page := range int32(9) {
			fill(page, 1)
		}
		before := append([]byte{}, memoryOf(cache.layers[1].v)...)
		cache.Release([]int32{7, 2, 3})
		after := memoryOf(cache.layers[1].v)
		size := len(after) / 9
		for i := range after {
			if page := i / size; page != 2 && page != 3 && page != 7 && before[i] != after[i] {
				t.Fatalf("%s: byte %d of page %d has changed", dtype, i, page)
			}
		}
		for _, page := range []int32{2, 3, 7} {
			fill(page, 1)
		}
		for i := range after {
			if before[i] != after[i] {
				t.Fatalf("%s: byte %d differs after the page was written again", dtype, i)
			}
		}
		if err := cache.Close(); err != nil {
			t.Fatal(err)
		}
		cache.Release([]int32{1}) // has no effect any more
	}
}
