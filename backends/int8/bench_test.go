package int8_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// randomPacked is packed weights of plausible values, quickly.
func randomPacked(r *rand.Rand, out, in int) tensor.View {
	size, err := pack.Size(pack.G32N16, tensor.I8, out, in)
	if err != nil {
		panic(err)
	}
	v := tensor.View{DType: tensor.I8, Shape: []int{out, in}, Packing: pack.G32N16, Data: pack.Aligned(size)}
	for i := range v.Data {
		switch at := i % pack.BlockBytes; {
		case at < 1024:
			v.Data[i] = byte(r.Uint32N(255) + 1)
		case at%2 == 1:
			v.Data[i] = 0x3a
		}
	}
	return v
}

func randomRows(r *rand.Rand, rows, cols int) tensor.Matrix {
	x := tensor.NewMatrix(rows, cols)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	return x
}

// stopwatch keeps the quickest of many runs: what the machine can do while nobody else uses it.
type stopwatch struct{ best time.Duration }

func (s *stopwatch) time(f func()) {
	from := time.Now()
	f()
	if d := time.Since(from); s.best == 0 || d < s.best {
		s.best = d
	}
}

// report gives n operations or bytes a run as a metric, once for the quickest run and once for the average.
func (s *stopwatch) report(b *testing.B, n int, unit string) {
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds()/1e9, unit)
	b.ReportMetric(float64(n)/s.best.Seconds()/1e9, "best-"+unit)
}

// BenchmarkMany multiplies many rows on one thread, quantising included.
func BenchmarkMany(b *testing.B) {
	for _, s := range []struct{ rows, out, in int }{{512, 1024, 2048}, {512, 2048, 1024}, {96, 1024, 2048}, {64, 1024, 2048}, {16, 1024, 2048}, {512, 4096, 14336}} {
		b.Run(fmt.Sprintf("%dx%dx%d", s.rows, s.in, s.out), func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 1))
			l := must[backends.Linear](b)(int8.New().Linear(int8.Class, randomPacked(r, s.out, s.in), tensor.View{}))
			x, y := randomRows(r, s.rows, s.in), tensor.NewMatrix(s.rows, s.out)
			var w stopwatch
			for b.Loop() {
				w.time(func() { l.Apply(y, x, team.Team{}) })
			}
			w.report(b, 2*s.rows*s.out*s.in, "GOP/s")
		})
	}
}

// BenchmarkFew multiplies few rows with matrices that don't fit the third cache, one after another, as decoding does.
func BenchmarkFew(b *testing.B) {
	const total = 160 << 20
	for _, s := range [][2]int{{1024, 2048}, {2048, 768}, {1024, 512}} {
		r := rand.New(rand.NewPCG(1, 1))
		be := int8.New()
		var all []backends.Linear
		one := randomPacked(r, s[0], s[1])
		for range total / len(one.Data) {
			w := one
			w.Data = pack.Aligned(len(one.Data))
			copy(w.Data, one.Data)
			all = append(all, must[backends.Linear](b)(be.Linear(int8.Class, w, tensor.View{})))
		}
		for _, threads := range []int{1, 2} {
			pool := team.NewPool(threads, team.Options{})
			for _, rows := range []int{1, 2, 4, 8} {
				b.Run(fmt.Sprintf("%dx%d/rows=%d/threads=%d", s[1], s[0], rows, threads), func(b *testing.B) {
					x, y := randomRows(r, rows, s[1]), tensor.NewMatrix(rows, s[0])
					n := 0
					var w stopwatch
					for b.Loop() {
						w.time(func() { all[n%len(all)].Apply(y, x, pool.Team()) })
						n++
					}
					w.report(b, len(one.Data), "GB/s")
				})
			}
			pool.Close()
		}
	}
}

// BenchmarkBlock computes an expert's block whose weights come from memory (few rows) or the caches (many).
func BenchmarkBlock(b *testing.B) {
	const hidden, inner, experts = 2048, 768, 32
	r := rand.New(rand.NewPCG(1, 1))
	be := int8.New()
	var all []backends.FFN
	up, down := randomPacked(r, inner, hidden), randomPacked(r, hidden, inner)
	own := func(v tensor.View) tensor.View {
		v.Data = append(pack.Aligned(len(v.Data))[:0], v.Data...)
		return v
	}
	for range experts {
		all = append(all, must[backends.FFN](b)(be.FFN(int8.Class, "silu", own(up), own(up), own(down))))
	}
	for _, threads := range []int{1, 2} {
		pool := team.NewPool(threads, team.Options{})
		for _, rows := range []int{1, 4, 8, 64, 512} {
			b.Run(fmt.Sprintf("rows=%d/threads=%d", rows, threads), func(b *testing.B) {
				x, y := randomRows(r, rows, hidden), tensor.NewMatrix(rows, hidden)
				n := 0
				var w stopwatch
				for b.Loop() {
					w.time(func() { all[n%experts].Apply(y, x, pool.Team()) })
					n++
				}
				w.report(b, 2*len(up.Data)+len(down.Data), "GB/s")
				w.report(b, 6*rows*hidden*inner, "GOP/s")
			})
		}
		pool.Close()
	}
}

// BenchmarkQuantize shows a product's share of quantising: the matrix has one panel.
func BenchmarkQuantize(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	const rows, in = 512, 2048
	for _, out := range []int{16, 32} {
		b.Run(fmt.Sprintf("%dx%dx%d", rows, in, out), func(b *testing.B) {
			l := must[backends.Linear](b)(int8.New().Linear(int8.Class, randomPacked(r, out, in), tensor.View{}))
			x, y := randomRows(r, rows, in), tensor.NewMatrix(rows, out)
			var w stopwatch
			for b.Loop() {
				w.time(func() { l.Apply(y, x, team.Team{}) })
			}
			w.report(b, rows*in, "G/s")
		})
	}
}
