package kernel_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"unsafe"

	"github.com/pimoe/pimoe/backends/cpu/internal/kernel"
	"github.com/pimoe/pimoe/backends/isa"
)

var formats = map[string]kernel.Format{"f32": kernel.F32, "f16": kernel.F16, "bf16": kernel.BF16, "blocks": kernel.Blocks, "dots": kernel.Dots, "tiles": kernel.Tiles}

// job is one tile with memory of its own; y has poison around each panel's rows.
type job struct {
	tile   kernel.Tile
	panels []kernel.Panel
	y      []float32
}

const guard = 16

// random makes a job. Its weights are of any bits: every exponent, subnormal numbers, infinities and NaNs; or small, with
// activations so small that sums are tiny.
func random(r *rand.Rand, f kernel.Format, panels, rows, in, carry int, tiny bool) *job {
	width := panels*kernel.Outputs + guard
	j := &job{panels: make([]kernel.Panel, panels), y: make([]float32, guard+rows*width)}
	x := make([]float32, max(in, f.Words(in))*rows)
	for i := range x {
		x[i] = r.Float32()*4 - 2
		if f == kernel.Blocks {
			x[i] = math.Float32frombits(math.Float32bits(x[i]) & 0xffff0000)
		}
		if tiny {
			x[i] *= 0x1p-122
		}
		if f == kernel.Dots || f == kernel.Tiles { // two of them, one rounded down
			bits := math.Float32bits(x[i])
			x[i] = math.Float32frombits(bits&0xffff0000 | bits>>16 ^ 0x8005)
		}
	}
	for i := range j.y {
		if j.y[i] = r.Float32(); tiny {
			j.y[i] *= 0x1p-125
		}
	}
	for p := range j.panels {
		w := make([]uint32, f.Bytes(in)/4+guard)
		for i := range w {
			if w[i] = r.Uint32(); tiny {
				w[i] &= 0xbfffbfff // below 2
			}
		}
		j.panels[p] = kernel.Panel{W: unsafe.Pointer(&w[0]), Y: &j.y[guard+p*kernel.Outputs]}
	}
	j.tile = kernel.Tile{Panels: &j.panels[0], Count: panels, Rows: rows, In: in, X: &x[0], Stride: width * 4, Carry: carry}
	return j
}

// run computes the job on a level and gives y, with what is around it, and leaves the job as it was.
func (j *job) run(l isa.Level, f kernel.Format) []float32 {
	before := append([]float32(nil), j.y...)
	kernel.At(l, f).Run(j.tile)
	after := append([]float32(nil), j.y...)
	copy(j.y, before)
	return after
}

// TestTwins holds the assembly to the pure-Go kernel in every size of tile, also beside y.
func TestTwins(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for name, f := range formats {
		for _, l := range isa.Available() {
			if kernel.At(l, f).Format() != f {
				continue // another one of these
			}
			for rows := 1; rows <= kernel.At(l, f).MaxRows(); rows++ {
				for panels := 1; panels <= 5; panels++ {
					for _, in := range []int{1, 2, 3, 4, 5, 7, 8, 31, 34, 100} {
						if f == kernel.Blocks || f == kernel.Dots || f == kernel.Tiles {
							in += in % 2
						}
						j := random(r, f, panels, rows, in, (rows+in)%2, panels%2 == 0)
						got, want := j.run(l, f), j.run(isa.Generic, f)
						for i, w := range want {
							if math.Float32bits(got[i]) != math.Float32bits(w) && (got[i] == got[i] || w == w) {
								t.Fatalf("%s %v, %d panels, %d rows, %d inputs: y[%d] = %g, want %g", name, l, panels, rows, in, i, got[i], w)
							}
						}
					}
				}
			}
		}
	}
}

// TestGather holds it to the loop of its comment.
func TestGather(t *testing.T) {
	for rows := 1; rows <= 13; rows++ {
		for _, in := range []int{0, 1, 5, 16} {
			const stride = 19
			x, dst := make([]float32, rows*stride), make([]float32, rows*in+1)
			for i := range x {
				x[i] = float32(i + 1)
			}
			kernel.Gather(dst, x, rows, in, stride)
			for i := range in {
				for r := range rows {
					if dst[i*rows+r] != x[r*stride+i] {
						t.Fatalf("%d rows of %d: input %d of row %d is %g", rows, in, i, r, dst[i*rows+r])
					}
				}
			}
			if dst[rows*in] != 0 {
				t.Fatalf("%d rows of %d: wrote beyond", rows, in)
			}
		}
	}
}

// TestHalf checks every pattern by the definition of the format, in float64.
func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		e, m := h>>10&31, float64(h&1023)
		var want float64
		switch {
		case e == 0:
			want = math.Ldexp(m, -24)
		case e < 31:
			want = math.Ldexp(m+1024, e-25)
		case m == 0:
			want = math.Inf(1)
		default:
			want = math.NaN()
		}
		want = math.Copysign(want, 0.5-float64(h>>15))
		got := float64(kernel.Half(uint16(h)))
		if same := got == want || got != got && want != want; !same || math.Signbit(got) != math.Signbit(want) {
			t.Fatalf("%04x is %g, want %g", h, got, want)
		}
	}
}

// BenchmarkTile is a kernel alone: over weights in the first cache, which shows its arithmetic, and over 256 MiB of
// them, which shows its streams.
func BenchmarkTile(b *testing.B) {
	memory := make([]byte, 256<<20+64)
	for i := 0; i < len(memory); i += 4096 {
		memory[i] = 0
	}
	memory = memory[-uintptr(unsafe.Pointer(&memory[0]))&63:]
	const in = 512
	for _, name := range []string{"f32", "bf16", "f16", "blocks", "dots"} {
		f := formats[name]
		for _, l := range isa.Available() {
			if l == isa.Generic || l > isa.AVX512 {
				continue
			}
			k := kernel.At(l, f)
			for rows := 1; rows <= k.MaxRows(); rows++ {
				n, size := k.Panels(rows), f.Bytes(in)
				x, y := make([]float32, in*rows), make([]float32, rows*n*kernel.Outputs)
				for place, tiles := range map[string]int{"cache": 1, "memory": 256 << 20 / (n * size)} {
					panels := make([]kernel.Panel, n*tiles)
					for i := range panels {
						panels[i] = kernel.Panel{W: unsafe.Pointer(&memory[i*size]), Y: &y[i%n*kernel.Outputs]}
					}
					b.Run(fmt.Sprintf("%s/%v/rows=%d/%s", name, l, rows, place), func(b *testing.B) {
						i := 0
						for b.Loop() {
							k.Run(kernel.Tile{Panels: &panels[i%tiles*n], Count: n, Rows: rows, In: in, X: &x[0], Stride: n * 64})
							i++
						}
						s := float64(b.N) / b.Elapsed().Seconds() / 1e9
						b.ReportMetric(2*float64(n*kernel.Outputs*in*rows)*s, "GFLOP/s")
						b.ReportMetric(float64(n*size)*s, "GB/s")
					})
				}
			}
		}
	}
}
