package vec

import (
	"math"
	"slices"
	"testing"

	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// TestRows: every operation on rows against its twin, for all lengths up to some vectors, with guard bands.
func TestRows(t *testing.T) {
	type args struct{ y, x, w []float32 }
	for name, op := range map[string]struct{ fast, twin func(a args) }{
		"RMSNorm": {func(a args) { RMSNorm(a.y, a.x, a.w, 1e-6) }, func(a args) {
			mean := dotGeneric(a.x, a.x) / float32(len(a.x))
			normScaleGeneric(a.y, a.x, a.w, float32(1/math.Sqrt(float64(mean+1e-6))))
		}},
		"Dot":       {func(a args) { a.y[0] = Dot(a.x, a.w) }, func(a args) { a.y[0] = dotGeneric(a.x, a.w) }},
		"Add":       {func(a args) { Add(a.y, a.x) }, func(a args) { addGeneric(a.y, a.x) }},
		"AddScaled": {func(a args) { AddScaled(a.y, a.x, 0.3) }, func(a args) { addScaledGeneric(a.y, a.x, 0.3) }},
		"Scale":     {func(a args) { Scale(a.y, a.x, 0.3) }, func(a args) { scaleGeneric(a.y, a.x, 0.3) }},
		"Clamp":     {func(a args) { Clamp(a.y, 0.5) }, func(a args) { clampGeneric(a.y, 0.5) }},
	} {
		levels(t, func(t *testing.T) {
			for n := 1; n < 100; n++ {
				_, x := guarded(n, uint32(n))
				_, w := guarded(n, uint32(n)+7)
				if n > 60 && name != "RMSNorm" && name != "Dot" {
					copy(x, odd)
				}
				all, got := guarded(n, 3)
				if n > 40 {
					got[n/2] = float32(math.NaN())
				}
				want := slices.Clone(got)
				op.fast(args{got, x, w})
				op.twin(args{want, x, w})
				equal(t, name, got, want)
				intact(t, name, all)
			}
		})
	}
}

func TestFinite(t *testing.T) {
	bad := []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}
	check := func(t *testing.T) {
		for n := range 70 {
			_, x := guarded(n, 5)
			if n > 3 {
				x[1], x[2] = math.MaxFloat32, -math.MaxFloat32
			}
			if !Finite(x) {
				t.Fatalf("%d finite values are not", n)
			}
			for i := range x {
				was := x[i]
				x[i] = bad[i%3]
				if Finite(x) {
					t.Fatalf("%g at %d of %d is not seen", x[i], i, n)
				}
				x[i] = was
			}
		}
	}
	levels(t, check)
	defer func(l isa.Level) { level = l }(level)
	level = isa.Generic
	check(t)
}

func TestRotate(t *testing.T) {
	levels(t, func(t *testing.T) {
		for _, half := range []int{1, 4, 8, 12, 16, 17, 32, 40, 64} {
			for heads := 1; heads < 4; heads++ {
				_, cos := guarded(half, 1)
				_, sin := guarded(half, 2)
				all, got := guarded(2*half*heads, 3)
				want := slices.Clone(got)
				Rotate(got, cos, sin)
				rotateGeneric(want, cos, sin)
				equal(t, "Rotate", got, want)
				intact(t, "Rotate", all)
			}
		}
	})
}

// TestNormDefinition: the value, not only the bits.
func TestNormDefinition(t *testing.T) {
	_, x := guarded(300, 9)
	_, w := guarded(300, 10)
	y := make([]float32, 300)
	RMSNorm(y, x, w, 1e-5)
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	for i := range y {
		want := float64(x[i]) / math.Sqrt(sum/300+1e-5) * float64(w[i])
		if math.Abs(float64(y[i])-want) > 1e-6*math.Abs(want) {
			t.Fatalf("value %d is %g, want %g", i, y[i], want)
		}
	}
}

// TestHalves: every 16-bit pattern survives, and rounding is to the nearest with ties to even, by a search through
// all neighbours; sixteen at a time and one at a time give the same.
func TestHalves(t *testing.T) {
	levels(t, func(t *testing.T) {
		for name, c := range map[string]struct {
			to      func([]uint16, []float32)
			from    func([]float32, []uint16)
			infinit uint16
		}{"f16": {ToF16, FromF16, 0x7c00}, "bf16": {ToBF16, FromBF16, 0x7f80}} {
			half := func(f float32) uint16 {
				var h [17]uint16
				in := slices.Repeat([]float32{f}, 17)
				c.to(h[:], in)
				if h[0] != h[16] && f == f || h[5] != h[0] {
					t.Fatalf("%s: %g became %04x and %04x", name, f, h[0], h[16])
				}
				return h[0]
			}
			float := func(h uint16) float64 {
				var f [17]float32
				c.from(f[:], slices.Repeat([]uint16{h}, 17))
				if f[0] != f[16] && f[0] == f[0] || f[5] != f[0] && f[0] == f[0] {
					t.Fatalf("%s: %04x became %g and %g", name, h, f[0], f[16])
				}
				return float64(f[0])
			}
			for h := range 1 << 16 {
				if f := float(uint16(h)); f == f && half(float32(f)) != uint16(h) {
					t.Fatalf("%s: %04x became %04x", name, h, half(float32(f)))
				}
			}
			for h := uint16(0); h < c.infinit-1; h++ {
				lo, hi := float(h), float(h+1)
				mid := float32((lo + hi) / 2) // exact: one bit more
				even := h + h&1
				if got := half(mid); got != even {
					t.Fatalf("%s: the middle above %04x became %04x, want %04x", name, h, got, even)
				}
				if got := half(math.Nextafter32(mid, 0)); got != h {
					t.Fatalf("%s: below the middle above %04x: %04x", name, h, got)
				}
				if got := half(-math.Nextafter32(mid, float32(math.Inf(1)))); got != 0x8000|(h+1) {
					t.Fatalf("%s: beyond the middle below -%04x: %04x", name, h, got)
				}
			}
			if got := half(math.MaxFloat32); got != c.infinit {
				t.Errorf("%s: the largest float32 became %04x", name, got)
			}
			for _, bits := range []uint32{0x7fc00000, 0x7fffffff, 0xffffffff, 0x7f800001, 0xff812345} {
				if got := float(half(math.Float32frombits(bits))); got == got {
					t.Errorf("%s: NaN %08x became %g", name, bits, got)
				}
			}
		}
	})
}

// pages is a store with blocks of random values in random order, and NaN between them.
func pages(dtype tensor.DType, blocks, size int) (Store, []int) {
	const gap = 48
	s := NewStore(dtype, blocks*(size+gap)+gap)
	nan := slices.Repeat([]float32{float32(math.NaN())}, s.Len())
	s.PutRow(0, nan)
	at := make([]int, blocks)
	for j := range at {
		at[j] = gap + (j*7+3)%blocks*(size+gap)
		_, v := guarded(size, uint32(j))
		s.PutRow(at[j], v)
	}
	return s, at
}

var types = []tensor.DType{tensor.F32, tensor.BF16, tensor.F16}

// TestAttention: scores, softmax and mix against their twins, for all numbers of queries that make a different tiling.
func TestAttention(t *testing.T) {
	levels(t, func(t *testing.T) {
		for _, dtype := range types {
			for _, dim := range []int{1, 16, 24, 64, 80, 128, 144} {
				for _, queries := range []int{1, 2, 3, 5, 8, 13, 16} {
					for _, blocks := range []int{1, 2, 5, 11} {
						attention(t, dtype, dim, queries, blocks)
					}
				}
			}
		}
	})
}

func attention(t *testing.T, dtype tensor.DType, dim, queries, blocks int) {
	ld := blocks*lanes + 16
	_, q := guarded(queries*dim, 5)
	k, at := pages(dtype, blocks, dim*lanes)
	all, s := guarded(queries*ld, 6)
	want := slices.Clone(s)
	Scores(s, ld, q, dim, k, at)
	scoresGeneric(want, ld, q, dim, k, at)
	equal(t, "Scores", s, want)
	intact(t, "Scores", all)

	Scale(s, s, 0.1)
	from, to := min(3, blocks), blocks*lanes-5
	weights := slices.Clone(s)
	for i := range queries {
		row, copied := s[i*ld:(i+1)*ld], weights[i*ld:(i+1)*ld]
		m, n := NewSoftmax(), NewSoftmax()
		m.Step(row, from, to)
		was := level
		level = isa.Generic
		n.Step(copied, from, to)
		level = was
		equal(t, "Softmax", row, copied)
		if m != n {
			t.Fatalf("softmax %v, want %v", m, n)
		}
		if sum := m.Total(); sum < 1 || sum > float32(to-from) {
			t.Fatalf("total is %g", sum)
		}
	}

	width := (dim + 15) &^ 15
	v, at := pages(dtype, blocks, width*lanes)
	all, out := guarded(queries*width, 7)
	want = slices.Clone(out)
	Mix(out, width, s, ld, v, at, from, to)
	mixGeneric(want, width, s, ld, v, at, from, to)
	equal(t, "Mix", out, want)
	intact(t, "Mix", all)
}

// TestPut: a column and a row hold what the conversions give, and touch nothing else.
func TestPut(t *testing.T) {
	for _, dtype := range types {
		for _, n := range []int{1, 16, 63, 64, 65, 200} {
			_, x := guarded(n, 3)
			row, column := NewStore(dtype, n), NewStore(dtype, n*lanes)
			row.PutRow(0, x)
			column.PutColumn(3, x)
			for i := range n * lanes {
				want := float32(0)
				if i%lanes == 3 {
					want = row.float(i / lanes)
				}
				if got := column.float(i); got != want {
					t.Fatalf("%v: %d of %d is %g, want %g", dtype, i, n, got, want)
				}
			}
			for i, v := range x {
				if d := math.Abs(float64(row.float(i) - v)); d > math.Abs(float64(v))/256 || dtype == tensor.F32 && d != 0 {
					t.Fatalf("%v: %g became %g", dtype, v, row.float(i))
				}
			}
		}
	}
}
