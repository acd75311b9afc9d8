package int8_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/limits"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// The benchmarks run short steps and report the quickest, beside what package limits does in steps of the same length in
// between: others use the machine, too. ns/op is everything together.

// memory is what decoding walks through: several times the caches.
const memory = 256 << 20

// mapped is plausible packed weights in pages of a file, as in production.
func mapped(b *testing.B) []byte {
	b.Helper()
	r := rand.New(rand.NewPCG(1, 1))
	part := make([]byte, pack.BlockBytes<<10)
	for i := range part {
		switch at := i % pack.BlockBytes; {
		case at < 1024:
			part[i] = byte(r.Uint32N(255) + 1)
		case at%2 == 1:
			part[i] = 0x3a
		}
	}
	f, err := os.Create(filepath.Join(b.TempDir(), "weights"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	size := 0
	for ; size < memory; size += len(part) {
		if _, err := f.Write(part); err != nil {
			b.Fatal(err)
		}
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, size, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		b.Fatal(err)
	}
	touched := byte(0) // every page, so that no benchmark pays for the first look
	for i := 0; i < len(data); i += 4096 {
		touched ^= data[i]
	}
	runtime.KeepAlive(touched)
	b.Cleanup(func() { syscall.Munmap(data) })
	return data
}

// cutter cuts matrices out of memory, one after another, and begins anew at its end.
type cutter struct {
	data []byte
	at   int
}

func (c *cutter) next(out, in int) tensor.View {
	size, err := pack.Size(pack.G32N16, tensor.I8, out, in)
	if err != nil {
		panic(err)
	}
	if c.at+size > len(c.data) {
		c.at = 0
	}
	c.at += size
	return tensor.View{DType: tensor.I8, Shape: []int{out, in}, Packing: pack.G32N16, Data: c.data[c.at-size : c.at]}
}

func randomRows(rows, cols int) tensor.Matrix {
	r := rand.New(rand.NewPCG(2, 1))
	x := tensor.NewMatrix(rows, cols)
	for i := range x.Data {
		x.Data[i] = float32(r.NormFloat64())
	}
	return x
}

// quickest is n a run, in billions a second, of the quickest run.
type quickest float64

func (q *quickest) time(n int, f func()) {
	from := time.Now()
	f()
	*q = max(*q, quickest(float64(n)/time.Since(from).Seconds()/1e9))
}

// BenchmarkMany multiplies many rows, quantising included, beside the peak of the processor's dot products.
func BenchmarkMany(b *testing.B) {
	data := cutter{data: mapped(b)}
	for _, threads := range []int{1, 2} {
		pool := team.NewPool(threads, team.Options{})
		for _, s := range []struct{ rows, in, out int }{{512, 2048, 1024}, {512, 1024, 2048}, {96, 2048, 1024}, {16, 2048, 1024}} {
			b.Run(fmt.Sprintf("%dx%dx%d/threads=%d", s.rows, s.in, s.out, threads), func(b *testing.B) {
				l := must[backends.Linear](b)(int8.New().Linear(int8.Class, data.next(s.out, s.in), tensor.View{}))
				x, y := randomRows(s.rows, s.in), tensor.NewMatrix(s.rows, s.out)
				var rate quickest
				peak := 0.0
				for b.Loop() {
					rate.time(2*s.rows*s.out*s.in, func() { l.Apply(y, x, pool.Team()) })
					peak = max(peak, limits.VNNI(threads, 500*time.Microsecond))
				}
				b.ReportMetric(float64(rate), "GOP/s")
				b.ReportMetric(peak, "GOP/s-peak")
				b.ReportMetric(100*float64(rate)/peak, "%")
			})
		}
		pool.Close()
	}
}

// BenchmarkFew multiplies few rows with matrices from memory, as decoding does, beside reads of as much memory.
func BenchmarkFew(b *testing.B) {
	const step = 2 << 20
	data := cutter{data: mapped(b)}
	for _, s := range []struct{ in, out int }{{2048, 1024}, {768, 2048}, {512, 1024}} {
		be := int8.New()
		var all []backends.Linear
		size := len(data.next(s.out, s.in).Data)
		for range memory / size {
			all = append(all, must[backends.Linear](b)(be.Linear(int8.Class, data.next(s.out, s.in), tensor.View{})))
		}
		per := max(step/size, 1)
		for _, threads := range []int{1, 2} {
			pool := team.NewPool(threads, team.Options{})
			for _, rows := range []int{1, 2, 4, 8, 32} {
				b.Run(fmt.Sprintf("%dx%dx%d/threads=%d", rows, s.in, s.out, threads), func(b *testing.B) {
					x, y := randomRows(rows, s.in), tensor.NewMatrix(rows, s.out)
					var rate quickest
					read, at := 0.0, 0
					for b.Loop() {
						rate.time(per*size, func() {
							for i := range per {
								all[(at+i)%len(all)].Apply(y, x, pool.Team())
							}
						})
						// Half the memory away, so that neither leaves the other's bytes in a cache.
						from := (at + len(all)/2) % (len(all) - per) * size
						read = max(read, limits.Read(data.data[from:from+per*size], threads))
						at += per
					}
					b.ReportMetric(float64(rate), "GB/s")
					b.ReportMetric(read, "GB/s-read")
					b.ReportMetric(100*float64(rate)/read, "%")
					b.ReportMetric(float64(rate)*float64(2*rows*s.in*s.out)/float64(size), "GOP/s")
				})
			}
			pool.Close()
		}
	}
}

// BenchmarkBlock computes an expert's block whose weights come from memory.
func BenchmarkBlock(b *testing.B) {
	const hidden, inner, experts = 2048, 768, 48
	data := cutter{data: mapped(b)}
	be := int8.New()
	var all []backends.FFN
	for range experts {
		gate, up, down := data.next(inner, hidden), data.next(inner, hidden), data.next(hidden, inner)
		all = append(all, must[backends.FFN](b)(be.FFN(int8.Class, "silu", gate, up, down)))
	}
	const elems = 3 * hidden * inner
	for _, threads := range []int{1, 2} {
		pool := team.NewPool(threads, team.Options{})
		for _, rows := range []int{1, 4, 8, 64, 512} {
			b.Run(fmt.Sprintf("rows=%d/threads=%d", rows, threads), func(b *testing.B) {
				x, y := randomRows(rows, hidden), tensor.NewMatrix(rows, hidden)
				var rate quickest
				n := 0
				for b.Loop() {
					rate.time(2*rows*elems, func() { all[n%experts].Apply(y, x, pool.Team()) })
					n++
				}
				b.ReportMetric(float64(rate), "GOP/s")
				b.ReportMetric(float64(rate)/float64(2*rows)*pack.BlockBytes/1024, "GB/s")
			})
		}
		pool.Close()
	}
}
