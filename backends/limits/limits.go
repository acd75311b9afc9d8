// Package limits measures what the machine can do at best: multiply-adds that touch no memory and reads that compute
// nothing. The bench command and the benchmarks of the kernels put their figures beside these.
//
// It refuses to measure what a kernel does: no layout, no tails, no data worth anything.
package limits

import (
	"runtime"
	"sync"
	"time"

	"github.com/pimoe/pimoe/backends/isa"
)

// Level is a set of instruction sets.
type Level = isa.Level

// Best is the level that the kernels use.
func Best() Level { return isa.Active() }

// Levels are all that the machine has, lowest first.
func Levels() []Level { return isa.Available() }

// FMA is the peak of float32 multiply-adds in GFLOP/s (two operations each) on so many threads, measured for about d.
func FMA(l Level, threads int, d time.Duration) float64 {
	loop, flops := fma(l)
	return rate(loop, flops, threads, d)
}

// VNNI is the peak of 8-bit dot products (VPDPBUSD) in GOP/s, 0 where the machine has none.
func VNNI(threads int, d time.Duration) float64 {
	loop, ops := vnni()
	return rate(loop, ops, threads, d)
}

// BF16Dot is the peak of bfloat16 dot products (VDPBF16PS) in GFLOP/s, 0 where the machine has none.
func BF16Dot(threads int, d time.Duration) float64 {
	loop, flops := bf16dot()
	return rate(loop, flops, threads, d)
}

// Int8Tiles is the peak of 8-bit products of tiles (AMX-INT8) in GOP/s, 0 where the machine has none.
func Int8Tiles(threads int, d time.Duration) float64 {
	loop, ops := int8tiles()
	return rate(loop, ops, threads, d)
}

// BF16Tiles is the peak of bfloat16 products of tiles (AMX-BF16) in GFLOP/s, 0 where the machine has none.
func BF16Tiles(threads int, d time.Duration) float64 {
	loop, flops := bf16tiles()
	return rate(loop, flops, threads, d)
}

// rounds is how often a loop runs in one call: a few microseconds, some 25 with tiles, so that no thread holds up the runtime
// for long.
const rounds = 1000

// rate runs loop, of ops operations a round, on all threads at once; a nil loop gives 0.
func rate(loop func(rounds int), ops, threads int, d time.Duration) float64 {
	if loop == nil {
		return 0
	}
	var all sync.WaitGroup
	calls := make([]int, threads)
	start := time.Now()
	for t := range threads {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			for time.Since(start) < d {
				for range 16 {
					loop(rounds)
				}
				calls[t] += 16
			}
		})
	}
	all.Wait()
	elapsed, total := time.Since(start).Seconds(), 0
	for _, n := range calls {
		total += n
	}
	return float64(total) * rounds * float64(ops) / elapsed / 1e9
}

// Read is the rate in GB/s at which so many threads read b once from end to end, four streams each, as the kernels walk
// weights. To measure memory b has to be many times larger than the caches, and in memory before.
func Read(b []byte, threads int) float64 {
	const block = 64 << 10 // of each stream, between two looks of the runtime at the thread
	part := len(b) / threads / 4 / 256 * 256
	var all sync.WaitGroup
	start := time.Now()
	for t := range threads {
		all.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			mine := b[t*4*part : (t+1)*4*part]
			for at := 0; at < part; at += block {
				read4(mine, at, part, min(block, part-at))
			}
		})
	}
	all.Wait()
	return float64(threads*4*part) / time.Since(start).Seconds() / 1e9
}
