package bench

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/backends/limits"
)

// Limits are what the machine gives at best, on one thread and on all that a run may use.
type Limits struct {
	Threads int     `json:"threads"`
	Mapped  [2]Rate `json:"read_mapped_gbs"` // reads of a mapped file, as weights are mapped: GB/s on 1 thread, on all
	Huge    [2]Rate `json:"read_huge_gbs"`   // reads of memory in huge pages; 0 where there are none
	FMA     [2]Rate `json:"fma_gflops"`      // float32
	VNNI    [2]Rate `json:"vnni_gops"`       // int8; 0 where the machine has none
	Int8    [2]Rate `json:"amx_int8_gops"`   // int8 in tiles, the same
	BF16    [2]Rate `json:"amx_bf16_gflops"` // bfloat16 in tiles, the same
}

// Rate is in 1e9 a second.
type Rate = float64

const (
	// probe is read for the bandwidth: more than the largest cache of a server of this decade, which a virtual machine sees whole.
	probe = 1 << 30
	// spin is how long arithmetic is measured: enough for the clock to settle.
	spin = 50 * time.Millisecond
	// tries of each limit; the best counts, because a limit is what is possible.
	tries = 3
)

// MeasureLimits takes about five seconds. dir is where the mapped file lies for the moment: on the disk of the store.
func MeasureLimits(dir string, threads int) (Limits, error) {
	l := Limits{Threads: threads}
	mapped, unmap, err := mapProbe(dir)
	if err != nil {
		return l, fmt.Errorf("measure limits: %w", err)
	}
	defer unmap()
	l.Mapped = best(threads, func(n int) Rate { return limits.Read(mapped, n) })
	if huge, free := hugeProbe(); huge != nil {
		l.Huge = best(threads, func(n int) Rate { return limits.Read(huge, n) })
		free()
	}
	l.FMA = best(threads, func(n int) Rate { return limits.FMA(limits.Best(), n, spin) })
	l.VNNI = best(threads, func(n int) Rate { return limits.VNNI(n, spin) })
	l.Int8 = best(threads, func(n int) Rate { return limits.Int8Tiles(n, spin) })
	l.BF16 = best(threads, func(n int) Rate { return limits.BF16Tiles(n, spin) })
	return l, nil
}

func best(threads int, of func(threads int) Rate) (out [2]Rate) {
	for range tries {
		out[0], out[1] = max(out[0], of(1)), max(out[1], of(threads))
	}
	return out
}

// mapProbe maps a file that has no name any more.
func mapProbe(dir string) ([]byte, func(), error) {
	f, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil {
		return nil, nil, err
	}
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 7)
	}
	for range probe / len(block) {
		if _, err := f.Write(block); err != nil {
			return nil, nil, err
		}
	}
	b, err := unix.Mmap(int(f.Fd()), 0, probe, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	limits.Read(b, 1) // so that every page has its entry
	return b, func() { unix.Munmap(b) }, nil
}
