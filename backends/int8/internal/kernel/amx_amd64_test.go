package kernel_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/isa"
)

// tiles are the kernels with tile registers.
func tiles(t *testing.T) *kernel.Kernels {
	t.Helper()
	if !slices.Contains(isa.Available(), isa.AMX) {
		t.Skip("needs AMX")
	}
	return kernel.At(isa.AMX)
}

// TestRunTiles has rows that fill tiles and rows beyond them, and more blocks than one pass over a panel takes.
func TestRunTiles(t *testing.T) {
	k, r := tiles(t), rand.New(rand.NewPCG(4, 1))
	for _, rows := range []int{10, 16, 17, 21, 22, 31, 32, 40, 61, 96} {
		for _, blocks := range []int{1, 2, 3, 4, 5, 16, 17, 18, 33} {
			for _, panels := range []int{1, 2, 9} {
				if rows*blocks*panels > 300 {
					continue
				}
				tall, wide := k.Shape(rows, panels)
				for _, height := range []int{tall, max(1, tall-7)} {
					t.Run(fmt.Sprint(height, wide, blocks), func(t *testing.T) { testRun(t, r, k, height, wide, blocks) })
				}
			}
		}
	}
}

// TestTilesInterrupted multiplies on more threads than there are cores, while garbage is collected and threads are preempted.
func TestTilesInterrupted(t *testing.T) {
	k, r := tiles(t), rand.New(rand.NewPCG(5, 1))
	const rows, panels, blocks = 40, 2, 18
	begin := make(chan struct{})
	var deadline time.Time
	var all sync.WaitGroup
	var products atomic.Int64
	for range 2*runtime.GOMAXPROCS(0) + 2 {
		p := newProblem(t, r, rows, panels, blocks, false, true)
		want, y := make([]float32, rows*panels*16), make([]float32, rows*panels*16)
		kernel.At(isa.Generic).Run(p.tile(want, panels*16), rows, panels)
		all.Go(func() {
			<-begin
			for time.Now().Before(deadline) {
				clear(y)
				k.Run(p.tile(y, panels*16), rows, panels)
				if !slices.Equal(y, want) {
					t.Errorf("product %d differs", products.Load())
					return
				}
				products.Add(1)
			}
		})
	}
	deadline = time.Now().Add(time.Second)
	close(begin)
	collections := 0
	for ; time.Now().Before(deadline); collections++ {
		runtime.GC()
	}
	all.Wait()
	if t.Logf("%d products, %d collections", products.Load(), collections); products.Load() == 0 || collections == 0 {
		t.Error("nothing happened")
	}
}
