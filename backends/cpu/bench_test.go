package cpu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/cpu"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/limits"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// memory is what few-row benchmarks walk through: several times the caches.
const memory = 384 << 20

// mapped is a file's pages, as weights are in production: they hold small float32, bfloat16 and binary16 numbers alike.
func mapped(b *testing.B) []byte {
	b.Helper()
	name := filepath.Join(b.TempDir(), "weights")
	block := make([]byte, 1<<20)
	for i := range block {
		if block[i] = byte(i * 37); i%2 == 1 {
			block[i] = 0x3c | byte(i>>3)&0x80
		}
	}
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	for range memory >> 20 {
		if _, err := f.Write(block); err != nil {
			b.Fatal(err)
		}
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, memory, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		b.Fatal(err)
	}
	touched := byte(0) // every page, so that no benchmark pays for the first look
	for i := 0; i < len(data); i += 4096 {
		touched ^= data[i]
	}
	runtime.KeepAlive(touched)
	b.Cleanup(func() {
		syscall.Munmap(data)
		f.Close()
	})
	return data
}

// arithmetic is what benchmarks go through: a class on weights of a type.
type arithmetic struct {
	class string
	dtype tensor.DType
}

var arithmetics = []arithmetic{{"bf16w-f32", tensor.BF16}, {"f32", tensor.F32}, {"f16w-f32", tensor.F16}, {"bf16dot", tensor.BF16}, {"bf16", tensor.BF16}}

// view is packed weights that lie in data.
func (a arithmetic) view(b *testing.B, out, in int, data []byte) tensor.View {
	packing := cpu.New().Packing(a.class)
	size, err := pack.Size(packing, a.dtype, out, in)
	if err != nil {
		b.Fatal(err)
	}
	return tensor.View{DType: a.dtype, Shape: []int{out, in}, Packing: packing, Data: data[:size]}
}

// matrices are as many packed matrices as data holds, so that weights come from memory, and the size of one.
func (a arithmetic) matrices(b *testing.B, level isa.Level, out, in int, data []byte) (all []backends.Linear, size int) {
	b.Helper()
	size = len(a.view(b, out, in, data).Data)
	for ; len(data) >= size; data = data[size:] {
		l, err := cpu.At(level).Linear(a.class, a.view(b, out, in, data), tensor.View{})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, l)
	}
	return all, size
}

// vectors are the levels with kernels of their own.
func vectors() []isa.Level {
	var l []isa.Level
	for _, v := range isa.Available() {
		if v == isa.AVX2 || v == isa.AVX512 {
			l = append(l, v)
		}
	}
	return l
}

func input(rows, in int) tensor.Matrix {
	x := tensor.NewMatrix(rows, in)
	for i := range x.Data {
		x.Data[i] = float32(i%251)/64 - 2
	}
	return x
}

// BenchmarkFewRows is products of few rows with weights from a mapped file, beside the rate at which the same bytes are
// only read, measured in between.
func BenchmarkFewRows(b *testing.B) {
	const out, in = 1024, 2048
	data := mapped(b)
	for _, a := range arithmetics {
		for _, level := range vectors() {
			all, size := a.matrices(b, level, out, in, data)
			for _, rows := range []int{1, 2, 4, 8} {
				x, y := input(rows, in), tensor.NewMatrix(rows, out)
				for _, threads := range []int{1, 2} {
					b.Run(fmt.Sprintf("%s/%v/rows=%d/threads=%d", a.class, level, rows, threads), func(b *testing.B) {
						pool := team.NewPool(threads, team.Options{})
						defer pool.Close()
						t := pool.Team()
						// Short steps in turn, of which the fastest tenth counts: others use the machine, too.
						const step = 8
						var read, apply []float64 // GB/s
						for b.Loop() {
							for at := 0; at+step <= len(all); at += step {
								start := time.Now()
								limits.Read(data[at*size:(at+step)*size], threads)
								middle := time.Now()
								for i := range step {
									all[(at+len(all)/2+i)%len(all)].Apply(y, x, t)
								}
								gb := float64(step*size) / 1e9
								read, apply = append(read, gb/middle.Sub(start).Seconds()), append(apply, gb/time.Since(middle).Seconds())
							}
						}
						slices.Sort(read)
						slices.Sort(apply)
						limit, rate := read[len(read)*9/10], apply[len(apply)*9/10]
						b.ReportMetric(rate, "GB/s")
						b.ReportMetric(limit, "GB/s-read")
						b.ReportMetric(100*rate/limit, "%")
						b.ReportMetric(rate*float64(2*rows*out*in)/float64(size), "GFLOP/s")
					})
				}
			}
		}
	}
}

// BenchmarkManyRows is products of many rows, beside the peak of multiply-adds, measured in between.
func BenchmarkManyRows(b *testing.B) {
	const out, in = 1024, 2048
	for _, a := range arithmetics {
		for _, level := range vectors() {
			all, _ := a.matrices(b, level, out, in, pack.Aligned(out*in*a.dtype.Size()))
			l := all[0]
			for _, rows := range []int{16, 32, 512} {
				x, y := input(rows, in), tensor.NewMatrix(rows, out)
				for _, threads := range []int{1, 2} {
					b.Run(fmt.Sprintf("%s/%v/rows=%d/threads=%d", a.class, level, rows, threads), func(b *testing.B) {
						pool := team.NewPool(threads, team.Options{})
						defer pool.Close()
						t := pool.Team()
						peak, best := 0.0, 0.0
						for b.Loop() {
							peak = max(peak, limits.FMA(level, threads, 10*time.Millisecond))
							start := time.Now()
							l.Apply(y, x, t)
							best = max(best, float64(2*rows*out*in)/time.Since(start).Seconds()/1e9)
						}
						b.ReportMetric(best, "GFLOP/s")
						b.ReportMetric(peak, "GFLOP/s-peak")
						b.ReportMetric(100*best/peak, "%")
					})
				}
			}
		}
	}
}

// BenchmarkFFN is the expert block of two models, with weights from a mapped file.
func BenchmarkFFN(b *testing.B) {
	data := mapped(b)
	for name, s := range map[string][2]int{"olmoe": {2048, 1024}, "small": {512, 1024}} {
		hidden, inter := s[0], s[1]
		for _, a := range arithmetics {
			size := len(a.view(b, inter, hidden, data).Data)
			var all []backends.FFN
			for rest := data; len(rest) >= 3*size; rest = rest[3*size:] {
				f, err := cpu.New().FFN(a.class, "silu", a.view(b, inter, hidden, rest), a.view(b, inter, hidden, rest[size:]), a.view(b, hidden, inter, rest[2*size:]))
				if err != nil {
					b.Fatal(err)
				}
				all = append(all, f)
			}
			for _, rows := range []int{1, 2, 4, 8, 32, 256} {
				x, y := input(rows, hidden), tensor.NewMatrix(rows, hidden)
				for _, threads := range []int{1, 2} {
					b.Run(fmt.Sprintf("%s/%s/rows=%d/threads=%d", name, a.class, rows, threads), func(b *testing.B) {
						pool := team.NewPool(threads, team.Options{})
						defer pool.Close()
						t, i := pool.Team(), 0
						for b.Loop() {
							all[i%len(all)].Apply(y, x, t)
							i++
						}
						s := float64(b.N) / b.Elapsed().Seconds() / 1e9
						b.ReportMetric(6*float64(rows*hidden*inter)*s, "GFLOP/s")
						b.ReportMetric(float64(3*size)*s, "GB/s")
					})
				}
			}
		}
	}
}
