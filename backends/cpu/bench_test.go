package cpu_test

import (
	"fmt"
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// BenchmarkApply is one matrix product for a type, a shape [out, in], rows and threads.
func BenchmarkApply(b *testing.B) {
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, s := range [][2]int{{192, 256}, {1024, 1024}, {2048, 2048}} {
			l, err := linearOf(weights(d, s[0], s[1]), tensor.View{})
			if err != nil {
				b.Fatal(err)
			}
			for _, rows := range []int{1, 2, 3, 4, 8, 64} {
				x, y := tensor.NewMatrix(rows, s[1]), tensor.NewMatrix(rows, s[0])
				for i := range x.Data {
					x.Data[i] = float32(i%251)/64 - 2
				}
				for _, threads := range []int{1, 2} {
					pool := team.NewPool(threads, team.Options{})
					b.Cleanup(pool.Close)
					tm := pool.Team()
					b.Run(fmt.Sprintf("%v/%dx%d/rows=%d/threads=%d", d, s[0], s[1], rows, threads), func(b *testing.B) {
						for b.Loop() {
							l.Apply(y, x, tm)
						}
						b.ReportMetric(2*float64(rows*s[0]*s[1])*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
					})
				}
			}
		}
	}
}

// weights fall off like a normal distribution's, as a model's do: the table of half values is used as there.
func weights(d tensor.DType, out, in int) tensor.View {
	v := tensor.View{DType: d, Shape: []int{out, in}}
	seed := uint32(1)
	for range out * in {
		sum := float32(0)
		for range 6 {
			seed = seed*1664525 + 1013904223
			sum += float32(int32(seed)) / (1 << 31)
		}
		bits := math.Float32bits(sum * 0.02)
		switch d {
		case tensor.F32:
			v.Data = append(v.Data, byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24))
		case tensor.BF16:
			v.Data = append(v.Data, byte(bits>>16), byte(bits>>24))
		case tensor.F16: // the fraction is cut, and numbers too small for the format become 0
			h := bits >> 31 << 15
			if e := int(bits>>23&255) - 112; e > 0 {
				h |= uint32(e)<<10 | bits>>13&1023
			}
			v.Data = append(v.Data, byte(h), byte(h>>8))
		}
	}
	return v
}
