package int8_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/backendtest"
	"github.com/pimoe/pimoe/backends/int8"
	"github.com/pimoe/pimoe/backends/isa"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBackend(t *testing.T) {
	for _, l := range isa.Available() {
		if l != isa.AVX512 { // which is AVX2 here
			t.Run(l.String(), func(t *testing.T) { backendtest.Test(t, func() backends.Backend { return int8.At(l) }) })
		}
	}
}

// numbers have sizes over many orders from group to group; if wild, some are not finite.
func numbers(r *rand.Rand, n int, wild bool) []float32 {
	v := make([]float32, n)
	size := 1.0
	for i := range v {
		if i%16 == 0 {
			size = math.Exp(r.NormFloat64() * 2)
		}
		v[i] = float32(r.NormFloat64() * size)
		if wild && r.IntN(300) == 0 {
			v[i] = []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), math.MaxFloat32, 0x1p-149}[r.IntN(5)]
		}
	}
	return v
}

func view(values []float32, shape ...int) tensor.View {
	v := tensor.View{DType: tensor.F32, Shape: shape, Data: make([]byte, 0, 4*len(values))}
	for _, f := range values {
		v.Data = binary.LittleEndian.AppendUint32(v.Data, math.Float32bits(f))
	}
	return v
}

func must[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func packed(t testing.TB, w tensor.View) tensor.View {
	return must[tensor.View](t)(pack.Pack(pack.G32N16, w))
}

// apply poisons y, which has gaps between its rows, and looks after the gaps.
func apply(t *testing.T, l interface {
	Apply(y, x tensor.Matrix, t team.Team)
}, out int, x tensor.Matrix, tm team.Team) tensor.Matrix {
	t.Helper()
	const gap = 5
	y := tensor.NewMatrix(x.Rows, out+gap)
	for i := range y.Data {
		y.Data[i] = float32(i) + 0.5
	}
	y.Cols = out
	y.Data = y.Data[:max(0, len(y.Data)-gap)]
	l.Apply(y, x, tm)
	for i, v := range y.Data {
		if i%y.Stride >= out && v != float32(i)+0.5 {
			t.Fatalf("row %d: wrote beside y", i/y.Stride)
		}
	}
	return y
}

func sameBits(t *testing.T, what string, got, want tensor.Matrix) {
	t.Helper()
	for r := range want.Rows {
		for c, w := range want.Row(r) {
			if g := got.Row(r)[c]; math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
				t.Fatalf("%s: row %d, output %d is %g (%08x), want %g (%08x)", what, r, c, g, math.Float32bits(g), w, math.Float32bits(w))
			}
		}
	}
}

// matrix is rows with a gap between them.
func matrix(rows, cols int, values []float32) tensor.Matrix {
	const gap = 3
	m := tensor.NewMatrix(rows, cols+gap)
	m.Cols = cols
	for r := range rows {
		copy(m.Row(r), values[r*cols:])
	}
	return m
}

var shapes = []struct{ rows, out, in int }{
	{1, 1, 1}, {1, 16, 64}, {1, 17, 63}, {2, 15, 65}, {3, 64, 32}, {4, 63, 33}, {5, 33, 31}, {6, 48, 128}, {7, 100, 96},
	{8, 70, 200}, {9, 31, 600}, {11, 80, 1100}, {12, 20, 513}, {13, 40, 130}, {97, 144, 70}, {200, 21, 40}, {1, 300, 520}, {2, 600, 64},
}

// TestBits: every level, any rows, any threads have the bits of the class's definition, also where numbers are not finite.
func TestBits(t *testing.T) {
	pool := team.NewPool(3, team.Options{})
	defer pool.Close()
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range shapes {
		for _, wild := range []bool{false, true} {
			w, bias := numbers(r, s.out*s.in, wild && s.in%2 == 0), numbers(r, s.out, false)
			x := matrix(s.rows, s.in, numbers(r, s.rows*s.in, wild))
			want := product(w, bias, s.out, x)
			for _, level := range isa.Available() {
				what := fmt.Sprintf("%v, %v, wild %t", s, level, wild)
				be := int8.At(level)
				l := must[backends.Linear](t)(be.Linear(int8.Class, packed(t, view(w, s.out, s.in)), view(bias, s.out)))
				if l.Out() != s.out || l.In() != s.in {
					t.Fatalf("%s: the matrix is [%d, %d]", what, l.Out(), l.In())
				}
				sameBits(t, what, apply(t, l, s.out, x, team.Team{}), want)
				sameBits(t, what+", a team", apply(t, l, s.out, x, pool.Team()), want)
				for row := range min(s.rows, 3) {
					one, alone := x.Slice(row, row+1), want.Slice(row, row+1)
					sameBits(t, what+", alone", apply(t, l, s.out, one, team.Team{}), alone)
				}
				rowMajor := must[backends.Linear](t)(be.Linear(int8.Class, view(w, s.out, s.in), tensor.View{}))
				sameBits(t, what+", packed by Linear", apply(t, rowMajor, s.out, x, team.Team{}), product(w, nil, s.out, x))
			}
		}
	}
}

func TestBlockBits(t *testing.T) {
	pool := team.NewPool(3, team.Options{})
	defer pool.Close()
	r := rand.New(rand.NewPCG(3, 4))
	for _, activation := range []string{"silu", "gelu_tanh"} {
		for _, s := range []struct{ rows, hidden, inner int }{{1, 64, 64}, {1, 40, 20}, {2, 65, 70}, {7, 128, 300}, {13, 96, 130}, {100, 33, 210}} {
			for _, wild := range []bool{false, true} {
				gate, up, down := numbers(r, s.inner*s.hidden, false), numbers(r, s.inner*s.hidden, false), numbers(r, s.inner*s.hidden, false)
				x := matrix(s.rows, s.hidden, numbers(r, s.rows*s.hidden, wild))
				want := block(activation, gate, up, down, s.inner, x)
				for _, level := range isa.Available() {
					what := fmt.Sprintf("%s, %v, %v, wild %t", activation, s, level, wild)
					be := int8.At(level)
					f := must[backends.FFN](t)(be.FFN(int8.Class, activation, packed(t, view(gate, s.inner, s.hidden)), view(up, s.inner, s.hidden),
						packed(t, view(down, s.hidden, s.inner))))
					if f.Hidden() != s.hidden || f.Intermediate() != s.inner {
						t.Fatalf("%s: the block is %d and %d wide", what, f.Hidden(), f.Intermediate())
					}
					sameBits(t, what, apply(t, f, s.hidden, x, team.Team{}), want)
					sameBits(t, what+", a team", apply(t, f, s.hidden, x, pool.Team()), want)
					sameBits(t, what+", alone", apply(t, f, s.hidden, x.Slice(0, 1), team.Team{}), want.Slice(0, 1))
				}
			}
		}
	}
}

// TestError holds products to the bound that the class implies, against float64: in a group, a weight is off by half its
// scale, at most 1/127 of its group's largest rounded up to bf16, an activation by half of its own; the sums' rounding comes on top. For
// normally distributed numbers the error of an output is about one percent of its standard deviation.
func TestError(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	const rows, out, in = 9, 40, 1000
	w, xs := make([]float32, out*in), make([]float32, rows*in)
	for _, v := range [][]float32{w, xs} {
		for i := range v {
			v[i] = float32(r.NormFloat64())
		}
	}
	l := must[backends.Linear](t)(int8.New().Linear(int8.Class, view(w, out, in), tensor.View{}))
	y := apply(t, l, out, matrix(rows, in, xs), team.Team{})
	var off, all float64
	for row := range rows {
		for o := range out {
			var exact, bound, size float64
			for g := 0; g < in; g += 32 {
				x, w := xs[row*in:][g:min(g+32, in)], w[o*in:][g:min(g+32, in)]
				halfX, halfW := largest(x)/127/2*(1+1e-6), largest(w)/127/2*(1+1.0/128)*(1+1e-6)
				for i := range x {
					fx, fw := float64(x[i]), float64(w[i])
					exact += fx * fw
					bound += math.Abs(fx)*halfW + math.Abs(fw)*halfX + halfX*halfW
					size += math.Abs(fx * fw)
				}
			}
			diff := math.Abs(float64(y.Row(row)[o]) - exact)
			if bound += size * 40 * 0x1p-24; diff > bound {
				t.Fatalf("row %d, output %d: off by %g, allowed are %g", row, o, diff, bound)
			}
			off += diff * diff
			all += exact * exact
		}
	}
	if rms := math.Sqrt(off / all); rms > 0.015 {
		t.Errorf("the error is %.2g of the outputs", rms)
	} else {
		t.Logf("the error is %.2g of the outputs", rms)
	}
}

func largest(v []float32) float64 {
	top := 0.0
	for _, f := range v {
		top = max(top, math.Abs(float64(f)))
	}
	return top
}

// TestInPlace: packed weights that are aligned are not copied, others are.
func TestInPlace(t *testing.T) {
	for _, moved := range []bool{false, true} {
		w := packed(t, view(numbers(rand.New(rand.NewPCG(7, 8)), 20*70, false), 20, 70))
		if moved {
			data := pack.Aligned(len(w.Data) + 4)[4:]
			copy(data, w.Data)
			w.Data = data
		}
		l := must[backends.Linear](t)(int8.New().Linear(int8.Class, w, tensor.View{}))
		clear(w.Data)
		y := apply(t, l, 20, matrix(1, 70, slices.Repeat([]float32{1}, 70)), team.Team{})
		if copied := y.Data[0] != 0; copied != moved {
			t.Errorf("weights moved by 4 bytes %t: copied %t", moved, copied)
		}
	}
}

func TestHalfTypes(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	const out, in = 20, 70
	for _, d := range []tensor.DType{tensor.BF16, tensor.F16} {
		w := tensor.View{DType: d, Shape: []int{out, in}}
		for range out * in {
			w.Data = binary.LittleEndian.AppendUint16(w.Data, uint16(0x3000|r.IntN(0xfff)|r.IntN(2)<<15))
		}
		wide, bias := make([]float32, out*in), tensor.View{DType: d, Shape: []int{out}, Data: w.Data[:2*out]}
		pack.Widen(wide, w.Data, d)
		l := must[backends.Linear](t)(int8.New().Linear(int8.Class, w, bias))
		x := matrix(3, in, numbers(r, 3*in, false))
		sameBits(t, d.String(), apply(t, l, out, x, team.Team{}), product(wide, wide[:out], out, x))
	}
	float := must[tensor.View](t)(pack.Pack(pack.N16, view(numbers(r, out*in, false), out, in)))
	if _, err := int8.New().Linear(int8.Class, float, tensor.View{}); err != nil {
		t.Errorf("weights in another packing: %v", err)
	}
}

// TestConcurrent: many calls of one matrix and one block at once, some on a team that is busy with others.
func TestConcurrent(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 1))
	const rows, hidden, inner = 14, 96, 130
	pool := team.NewPool(2, team.Options{})
	defer pool.Close()
	be := int8.New()
	w, gate, down := numbers(r, hidden*hidden, false), numbers(r, inner*hidden, false), numbers(r, inner*hidden, false)
	l := must[backends.Linear](t)(be.Linear(int8.Class, view(w, hidden, hidden), tensor.View{}))
	f := must[backends.FFN](t)(be.FFN(int8.Class, "silu", view(gate, inner, hidden), view(gate, inner, hidden), view(down, hidden, inner)))
	x := matrix(rows, hidden, numbers(r, rows*hidden, false))
	wantL, wantF := product(w, nil, hidden, x), block("silu", gate, gate, down, inner, x)
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 20 {
				y := tensor.NewMatrix(1+(i+n)%rows, hidden)
				l.Apply(y, x.Slice(0, y.Rows), pool.Team())
				if !slices.Equal(y.Row(y.Rows-1), wantL.Row(y.Rows-1)) {
					t.Error("a product has other bits beside others")
				}
				f.Apply(y, x.Slice(0, y.Rows), pool.Team())
				if !slices.Equal(y.Row(y.Rows-1), wantF.Row(y.Rows-1)) {
					t.Error("a block has other bits beside others")
				}
			}
		})
	}
	wg.Wait()
}

func TestNames(t *testing.T) {
	be := int8.New()
	if be.Name() != "int8" || be.Packing(int8.Class) != pack.G32N16 {
		t.Errorf("%s packs %s", be.Name(), be.Packing(int8.Class))
	}
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16, tensor.I8} {
		for _, asked := range []string{"", "auto", "int8g32"} {
			if c, err := be.Class(d, asked); c != "int8g32" || err != nil {
				t.Errorf("Class(%v, %q) = %s, %v", d, asked, c, err)
			}
		}
	}
	if _, err := be.Class(tensor.F32, "f32"); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("class f32: %v", err)
	}
	if _, err := be.Class(tensor.I16, ""); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("type I16: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	be := int8.New()
	values := make([]float32, 64*64)
	w, none := view(values, 64, 64), tensor.View{}
	short := packed(t, w)
	short.Data = short.Data[:len(short.Data)-64]
	for name, f := range map[string]func() error{
		"class": func() error { _, err := be.Linear("f32", w, none); return err },
		"row-major I8": func() error {
			_, err := be.Linear(int8.Class, tensor.View{DType: tensor.I8, Shape: []int{1, 1}, Data: []byte{1}}, none)
			return err
		},
		"short":            func() error { _, err := be.Linear(int8.Class, short, none); return err },
		"bias":             func() error { _, err := be.Linear(int8.Class, w, view(values[:63], 63)); return err },
		"activation":       func() error { _, err := be.FFN(int8.Class, "relu", w, w, w); return err },
		"class of a block": func() error { _, err := be.FFN("f32", "silu", w, w, w); return err },
		"no block":         func() error { _, err := be.FFN(int8.Class, "silu", w, w, view(values[:63*64], 63, 64)); return err },
	} {
		if err := f(); !errors.Is(err, sdk.ErrUnsupported) && !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
