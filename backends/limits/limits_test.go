package limits_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/limits"
)

// TestLimits: every figure is a rate that a processor of this century can have.
func TestLimits(t *testing.T) {
	plausible := func(what string, v float64) {
		t.Helper()
		if !(v > 0.05 && v < 1e5) {
			t.Errorf("%s: %g", what, v)
		}
	}
	const d = 5 * time.Millisecond
	for _, l := range limits.Levels() {
		plausible(fmt.Sprintf("FMA %v", l), limits.FMA(l, 1, d))
	}
	if v := limits.VNNI(2, d); v != 0 {
		plausible("VNNI", v)
	}
	if v := limits.BF16Dot(1, d); v != 0 {
		plausible("BF16Dot", v)
	}
	tiled := limits.Best() >= isa.AMX
	for what, v := range map[string]float64{"Int8Tiles": limits.Int8Tiles(1, d), "BF16Tiles": limits.BF16Tiles(2, d)} {
		if tiled != (v > 0) {
			t.Errorf("%s: %g, tiles: %v", what, v, tiled)
		}
		if tiled {
			plausible(what, v)
		}
	}
	for _, n := range []int{1, 2, 3} {
		plausible("Read", limits.Read(make([]byte, 3<<20+77), n))
	}
}

func BenchmarkLimits(b *testing.B) {
	const d = 100 * time.Millisecond
	memory := make([]byte, 512<<20)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 1
	}
	for threads := 1; threads <= 2; threads++ {
		for name, f := range map[string]func() (float64, string){
			"VNNI":      func() (float64, string) { return limits.VNNI(threads, d), "GOP/s" },
			"BF16Dot":   func() (float64, string) { return limits.BF16Dot(threads, d), "GFLOP/s" },
			"Int8Tiles": func() (float64, string) { return limits.Int8Tiles(threads, d), "GOP/s" },
			"BF16Tiles": func() (float64, string) { return limits.BF16Tiles(threads, d), "GFLOP/s" },
			"Read":      func() (float64, string) { return limits.Read(memory, threads), "GB/s" },
		} {
			measure(b, fmt.Sprintf("%s/threads=%d", name, threads), f)
		}
		for _, l := range limits.Levels() {
			measure(b, fmt.Sprintf("FMA/%v/threads=%d", l, threads), func() (float64, string) { return limits.FMA(l, threads, d), "GFLOP/s" })
		}
	}
}

// measure reports the best of the runs.
func measure(b *testing.B, name string, f func() (float64, string)) {
	b.Run(name, func(b *testing.B) {
		best, unit := 0.0, ""
		for b.Loop() {
			v, u := f()
			best, unit = max(best, v), u
		}
		b.ReportMetric(best, unit)
	})
}
