package pack_test

import (
	"testing"

	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// BenchmarkPack gives the rate of row-major bytes.
func BenchmarkPack(b *testing.B) {
	for _, c := range []struct {
		packing string
		d       tensor.DType
	}{{pack.N16, tensor.F32}, {pack.N16, tensor.F16}, {pack.N16K2, tensor.BF16}, {pack.G32N16, tensor.BF16}} {
		b.Run(c.packing+"/"+c.d.String(), func(b *testing.B) {
			w := random(c.d, 1024, 2048)
			b.SetBytes(int64(len(w.Data)))
			for b.Loop() {
				if _, err := pack.Pack(c.packing, w); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
