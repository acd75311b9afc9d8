//go:build cuda && cgo

package cuda_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cuda"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// BenchmarkBlock computes the shapes of a layer of Qwen3-30B-A3B, 8 of whose experts are asked: one row each, as in decoding, up to
// many. It reports the time that the device says its kernels took, the weights that they read in that time beside the device's
// bandwidth, and the operations beside what its float32 units can do (128 multiply-adds a clock and multiprocessor).
func BenchmarkBlock(b *testing.B) {
	const hidden, inner, experts = 2048, 768, 8
	be := opened(b, cuda.Options{})
	if be.Stats().Device.Processors < 2 {
		b.Skip("needs a GPU: the emulation takes minutes for such shapes")
	}
	for _, c := range []struct {
		class string
		dtype tensor.DType
		bytes float64 // of a weight
	}{{"f32", tensor.F32, 4}, {"bf16w-f32", tensor.BF16, 2}, {"int8g32", tensor.BF16, 1.0625}, {"cuda-bf16", tensor.BF16, 2}} {
		r := rand.New(rand.NewPCG(1, 1))
		var blocks []backends.FFN
		for range experts {
			blocks = append(blocks, must(be.FFN(c.class, "silu", randomView(r, c.dtype, inner, hidden), randomView(r, c.dtype, inner, hidden), randomView(r, c.dtype, hidden, inner))))
		}
		for _, each := range []int{1, 2, 8, 32, 256} {
			b.Run(fmt.Sprintf("%s/rows=%dx%d", c.class, experts, each), func(b *testing.B) {
				rows := make([]int, experts)
				for i := range rows {
					rows[i] = each
				}
				x, y := randomRows(r, experts*each, hidden), tensor.NewMatrix(experts*each, hidden)
				be.ApplyAll(blocks, rows, y, x, team.Team{})
				before, d := be.Stats(), be.Stats().Device
				for b.Loop() {
					be.ApplyAll(blocks, rows, y, x, team.Team{})
				}
				after := be.Stats()
				n, seconds := float64(b.N), after.RunSeconds-before.RunSeconds
				weights := 3 * float64(hidden*inner*experts)
				bandwidth := 2 * float64(d.MemoryClockKHz) * 1e3 * float64(d.BusBits) / 8
				peak := 2 * 128 * float64(d.Processors) * float64(d.ClockKHz) * 1e3
				b.ReportMetric(seconds/n*1e6, "us-kernels")
				b.ReportMetric((after.CopySeconds()-before.CopySeconds())/n*1e6, "us-copies")
				b.ReportMetric(100*n*weights*c.bytes/seconds/bandwidth, "%-bandwidth")
				b.ReportMetric(100*n*2*weights*float64(each)/seconds/peak, "%-f32-peak")
			})
		}
	}
}
