package kernel_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pimoe/pimoe/backends/int8/internal/kernel"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// fenced is n values between two pages that may not be touched; they end where the second begins, or begin where the
// first ends.
func fenced[T any](t testing.TB, n int, atEnd bool) []T {
	t.Helper()
	var zero T
	size, page := n*int(unsafe.Sizeof(zero)), unix.Getpagesize()
	inner := (size + page - 1) / page * page
	m, err := unix.Mmap(-1, 0, inner+2*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(m) })
	for _, fence := range [][]byte{m[:page], m[page+inner:]} {
		if err := unix.Mprotect(fence, unix.PROT_NONE); err != nil {
			t.Fatal(err)
		}
	}
	from := page
	if atEnd {
		from += inner - size
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&m[from])), n)
}

// rows of activations of many sizes, with groups that are zero, tiny, huge or not finite if special.
func activations(r *rand.Rand, n int, special bool) []float32 {
	x := make([]float32, n)
	for g := 0; g < n; g += 32 {
		size := math.Exp(r.NormFloat64() * 4)
		for i := g; i < min(g+32, n); i++ {
			x[i] = float32(r.NormFloat64() * size)
		}
		if !special {
			continue
		}
		at := g + r.IntN(min(32, n-g))
		switch r.IntN(10) {
		case 0:
			x[at] = float32(math.NaN())
		case 1:
			x[at] = float32(math.Inf(1 - 2*r.IntN(2)))
		case 2:
			clear(x[g:min(g+32, n)])
		case 3:
			for i := g; i < min(g+32, n); i++ {
				x[i] = math.Float32frombits(r.Uint32N(0x03400000) | r.Uint32N(2)<<31)
			}
		case 4:
			x[at] = math.MaxFloat32
		case 5:
			for i := g; i < min(g+32, n); i++ { // halfway between two integers, once scaled
				x[i] = (float32(r.IntN(254)-127) + 0.5) / 127
			}
			x[g] = 1
		}
	}
	return x
}

// levels are those with kernels of their own, above pure Go.
func levels() []isa.Level {
	var l []isa.Level
	for _, level := range isa.Available()[1:] {
		if kernel.At(level) != kernel.At(level-1) {
			l = append(l, level)
		}
	}
	return l
}

func sameFloat(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

func TestQuantize(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, level := range levels() {
		k, twin := kernel.At(level), kernel.At(isa.Generic)
		for i := range 400 {
			blocks := 1 + i%5
			x := fenced[float32](t, 64*blocks, i%2 == 0)
			copy(x, activations(r, len(x), true))
			q, g := fenced[int8](t, len(x), i%2 == 0), fenced[kernel.Group](t, 2*blocks, i%2 == 0)
			wantQ, wantG := make([]int8, len(q)), make([]kernel.Group, len(g))
			k.Quantize(&q[0], &g[0], &x[0], blocks)
			twin.Quantize(&wantQ[0], &wantG[0], &x[0], blocks)
			if !slices.Equal(q, wantQ) {
				t.Fatalf("%v: %v, want %v for %v", level, q, wantQ, x)
			}
			for i := range g {
				if !sameFloat(g[i].Scale, wantG[i].Scale) || g[i].Correct != wantG[i].Correct {
					t.Fatalf("%v: group %d is %v, want %v", level, i, g[i], wantG[i])
				}
			}
		}
	}
}

// TestQuantizeMeaning holds the pure Go to what the class promises, in float64: integers nearest to x / scale within the
// rounding of the inverse, and sums that fit them.
func TestQuantizeMeaning(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 1))
	for range 500 {
		x := activations(r, 64, true)
		q, g := make([]int8, 64), make([]kernel.Group, 2)
		kernel.At(isa.Generic).Quantize(&q[0], &g[0], &x[0], 1)
		for i, g := range g {
			x, q := x[32*i:][:32], q[32*i:][:32]
			top, finite, sum := 0.0, true, int32(0)
			for j, v := range x {
				top = max(top, math.Abs(float64(v)))
				finite = finite && !math.IsNaN(float64(v)) && !math.IsInf(float64(v), 0)
				sum += int32(q[j])
			}
			zero := !slices.ContainsFunc(q, func(v int8) bool { return v != 0 })
			switch {
			case g.Correct != -128*sum:
				t.Fatalf("correction %d of %v", g.Correct, q)
			case !finite:
				if g.Scale == g.Scale || !zero {
					t.Fatalf("a group that is not finite has %v and %v", g, q)
				}
			case top <= 127*0x1p-128:
				if !zero || g.Scale != 0 {
					t.Fatalf("a group of at most %g has %v and %v", top, g, q)
				}
			default:
				if math.Abs(float64(g.Scale)*127-top) > top*1e-7+127*0x1p-150 {
					t.Fatalf("scale %g for %g", g.Scale, top)
				}
				for j, v := range x {
					if diff := math.Abs(float64(v)*127/top - float64(q[j])); diff > 0.5+127*0x1p-23 || q[j] == -128 {
						t.Fatalf("%g of at most %g became %d", v, top, q[j])
					}
				}
			}
		}
	}
}

// problem is a product: some rows of activations and the panels of a packed matrix.
type problem struct {
	rows, panels, blocks int
	q                    []int8
	g                    []kernel.Group
	w                    []byte
}

func newProblem(t testing.TB, r *rand.Rand, rows, panels, blocks int, special, atEnd bool) *problem {
	t.Helper()
	p := &problem{rows: rows, panels: panels, blocks: blocks}
	in := blocks * pack.BlockIn
	x := activations(r, rows*in, special)
	p.q, p.g = fenced[int8](t, rows*in, atEnd), fenced[kernel.Group](t, rows*in/pack.Group, atEnd)
	kernel.At(isa.Generic).Quantize(&p.q[0], &p.g[0], &x[0], rows*blocks)
	w := tensor.View{DType: tensor.F32, Shape: []int{panels * pack.Panel, in}}
	for _, v := range activations(r, panels*pack.Panel*in, false) {
		w.Data = binary.LittleEndian.AppendUint32(w.Data, math.Float32bits(v))
	}
	packed, err := pack.Pack(pack.G32N16, w)
	if err != nil {
		t.Fatal(err)
	}
	p.w = fenced[byte](t, len(packed.Data), atEnd)
	copy(p.w, packed.Data)
	return p
}

func (p *problem) tile(y []float32, stride int) *kernel.Tile {
	in := uintptr(p.blocks * pack.BlockIn)
	return &kernel.Tile{
		W: unsafe.Pointer(&p.w[0]), WStride: uintptr(p.blocks * pack.BlockBytes),
		X: unsafe.Pointer(&p.q[0]), XStride: in, G: unsafe.Pointer(&p.g[0]), GStride: in / 4,
		Y: unsafe.Pointer(&y[0]), YStride: uintptr(4 * stride), Blocks: p.blocks,
	}
}

// naive is the class from its definition, by integers and one rounding of the exact sum a group.
func (p *problem) naive(r, o int) float32 {
	acc := float32(0)
	in := p.blocks * pack.BlockIn
	for g := range in / pack.Group {
		block := p.w[(o/16*p.blocks+g/2)*1088:][:1088]
		sum := 0
		for i := range 32 {
			at := g%2*32 + i
			sum += int(p.q[r*in+g*32+i]) * (int(block[at/4*64+o%16*4+at%4]) - 128)
		}
		scale := math.Float32frombits(uint32(binary.LittleEndian.Uint16(block[1024+(g%2*16+o%16)*2:])) << 16)
		product := scale * p.g[r*in/32+g].Scale
		if product-product != 0 || acc-acc != 0 { // not finite
			acc = float32(float64(acc) + float64(sum)*float64(product))
			continue
		}
		exact := new(big.Float).SetPrec(600).SetFloat64(float64(product))
		exact.Mul(exact, big.NewFloat(float64(sum)))
		acc, _ = exact.Add(exact, big.NewFloat(float64(acc))).Float32()
	}
	return acc
}

func TestRun(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 1))
	for _, level := range levels() {
		k := kernel.At(level)
		for rows := 1; rows <= 9; rows++ {
			for panels := 1; panels <= 5; panels++ {
				tall, wide := k.Shape(rows, panels)
				if tall > rows || wide > panels || tall < 1 || wide < 1 {
					t.Fatalf("%v: a tile of %d x %d for %d x %d", level, tall, wide, rows, panels)
				}
				for blocks := 1; blocks <= 10; blocks += 1 + blocks/5 {
					for height := 1; height <= tall; height++ {
						t.Run(fmt.Sprint(level, height, wide, blocks), func(t *testing.T) { testRun(t, r, k, height, wide, blocks) })
					}
				}
			}
		}
	}
}

func testRun(t *testing.T, r *rand.Rand, k *kernel.Kernels, rows, panels, blocks int) {
	for _, atEnd := range []bool{false, true} {
		p := newProblem(t, r, rows, panels, blocks, atEnd, atEnd)
		width := panels * pack.Panel
		stride := width + 3
		y, want := fenced[float32](t, (rows-1)*stride+width, atEnd), make([]float32, (rows-1)*stride+width)
		for _, resume := range []int{0, 1} {
			for i := range y {
				y[i] = float32(r.NormFloat64() * 100)
			}
			copy(want, y)
			mine, twin := p.tile(y, stride), p.tile(want, stride)
			mine.Resume, twin.Resume = resume, resume
			mine.Next(panels, uintptr(r.IntN(1<<20)), resume, 1+r.IntN(5))
			k.Run(mine, rows, panels)
			kernel.At(isa.Generic).Run(twin, rows, panels)
			for i := range y { // gaps between the rows, too
				if !sameFloat(y[i], want[i]) {
					t.Fatalf("row %d, column %d, resume %d: %g, want %g", i/stride, i%stride, resume, y[i], want[i])
				}
			}
			if resume == 1 {
				continue
			}
			for row := range rows {
				for o := row % 5; o < width; o += 5 {
					if got, naive := y[row*stride+o], p.naive(row, o); !sameFloat(got, naive) {
						t.Fatalf("row %d, output %d: %g, by the definition %g", row, o, got, naive)
					}
				}
			}
		}
	}
}
