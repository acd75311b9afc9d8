package backendtest

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"testing"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas32"
	"gonum.org/v1/gonum/blas/blas64"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// promisesRef is whether the class is one that package ref defines.
func promisesRef(k kind) bool {
	_, err := ref.New().Class(k.dtype, k.class)
	return err == nil
}

// testOracles compares with ref and with gonum.
func testOracles(t *testing.T, be backends.Backend, k kind) {
	exact := promisesRef(k)
	for i, s := range shapes() {
		r := random(i)
		x := activations(&r, s.rows, s.in)
		w, values := weights(&r, k.dtype, s.out, s.in)
		y := apply(linear(t, be, k.class, w, tensor.View{}), x, 2)
		if exact {
			sameBits(t, fmt.Sprintf("%v against ref", s), y, apply(linear(t, ref.New(), k.class, w, tensor.View{}), x, 1))
		}
		if floats(k.class) {
			withinRounding(t, s, y, x, values)
		} else {
			withinClass(t, k, s, y, x, values)
		}
	}
}

// withinRounding judges y = x W^T by gonum: no output may be further from the float64 product than the bound of Higham
// (Accuracy and Stability of Numerical Algorithms, 2002, section 3.1) for a float32 sum in any order, and the whole may
// not be further from it than a few times gonum's own float32 product is.
func withinRounding(t *testing.T, s shape, y, x tensor.Matrix, w []float64) {
	t.Helper()
	const unit = 1.0 / (1 << 24)
	x64, abs := make([]float64, len(x.Data)), make([]float64, len(x.Data))
	for i, v := range x.Data {
		x64[i], abs[i] = float64(v), math.Abs(float64(v))
	}
	wabs, w32 := make([]float64, len(w)), make([]float32, len(w))
	for i, v := range w {
		wabs[i], w32[i] = math.Abs(v), float32(v)
	}
	want, size := product(s, x64, w), product(s, abs, wabs)
	other := blas32.General{Rows: s.rows, Cols: s.out, Stride: s.out, Data: make([]float32, s.rows*s.out)}
	blas32.Gemm(blas.NoTrans, blas.Trans, 1, blas32.General{Rows: s.rows, Cols: s.in, Stride: s.in, Data: x.Data},
		blas32.General{Rows: s.out, Cols: s.in, Stride: s.in, Data: w32}, 0, other)

	n := float64(s.in+1) * unit
	var mine, gonums, scale float64
	for i, got := range y.Data {
		err := math.Abs(float64(got) - want[i])
		if !(err <= n/(1-n)*size[i]) {
			t.Fatalf("%v: y[%d] = %g, gonum in float64 has %g: error %g, bound %g", s, i, got, want[i], err, n/(1-n)*size[i])
		}
		mine += err * err
		gonums += math.Pow(float64(other.Data[i])-want[i], 2)
		scale += size[i] * size[i]
	}
	// One unit of the sums' size is granted on top, for shapes so small that gonum happens to be exact.
	if limit := 16*math.Sqrt(gonums) + unit*math.Sqrt(scale); math.Sqrt(mine) > limit {
		t.Errorf("%v: error %g over all outputs, gonum's float32 product has %g", s, math.Sqrt(mine), math.Sqrt(gonums))
	}
}

func product(s shape, x, w []float64) []float64 {
	y := blas64.General{Rows: s.rows, Cols: s.out, Stride: s.out, Data: make([]float64, s.rows*s.out)}
	blas64.Gemm(blas.NoTrans, blas.Trans, 1, blas64.General{Rows: s.rows, Cols: s.in, Stride: s.in, Data: x},
		blas64.General{Rows: s.out, Cols: s.in, Stride: s.in, Data: w}, 0, y)
	return y.Data
}

// withinClass grants each term the error of rounding both factors to as few bits as the class has, relative to the row's
// largest activation and the largest weight, since a scale may be shared.
func withinClass(t *testing.T, k kind, s shape, y, x tensor.Matrix, w []float64) {
	t.Helper()
	unit := map[string]float64{"bf16": 1.0 / 256, "bf16dot": 1.0 / 256, "int8g32": 1.0 / 127, "cuda-bf16": 1.0 / 256, "cuda-f16": 1.0 / 2048}[k.class]
	if unit == 0 {
		t.Fatalf("class %s has no bound here: add it", k.class)
	}
	x64, top := make([]float64, len(x.Data)), 0.0
	for i, v := range x.Data {
		x64[i] = float64(v)
	}
	for _, v := range w {
		top = max(top, math.Abs(v))
	}
	want := product(s, x64, w)
	for r := range s.rows {
		most := 0.0
		for _, v := range x.Row(r) {
			most = max(most, math.Abs(float64(v)))
		}
		for o, got := range y.Row(r) {
			if err := math.Abs(float64(got) - want[r*s.out+o]); !(err <= unit*most*top*float64(s.in)) {
				t.Fatalf("%v: y[%d, %d] = %g, gonum in float64 has %g", s, r, o, got, want[r*s.out+o])
			}
		}
	}
}

// testPatterns multiplies arbitrary bits, so that every way of converting them is seen.
func testPatterns(t *testing.T, be backends.Backend, k kind) {
	if !promisesRef(k) {
		return // other classes may round or refuse such weights as they say
	}
	r := random(77)
	if k.dtype.Size() == 2 { // each of the 65,536 values once, by one row and by several
		w := tensor.View{DType: k.dtype, Shape: []int{1 << 16, 1}}
		for h := range 1 << 16 {
			w.Data = append(w.Data, byte(h), byte(h>>8))
		}
		l, oracle := linear(t, be, k.class, w, tensor.View{}), linear(t, ref.New(), k.class, w, tensor.View{})
		for _, rows := range []int{1, 9} {
			x := tensor.NewMatrix(rows, 1)
			for i := range x.Data {
				x.Data[i] = 1
			}
			sameBits(t, "every pattern", apply(l, x, 1), apply(oracle, x, 1))
		}
	}
	for i := range 120 { // also with activations that make products tiny or huge
		w, x := patterns(&r, k.dtype, 13, 5), activations(&r, 4, 5)
		for j := range x.Data {
			x.Data[j] *= []float32{1, 0x1p-100, 0x1p100, 0x1p-126}[i%4]
		}
		sameBits(t, "random patterns", apply(linear(t, be, k.class, w, tensor.View{}), x, 1), apply(linear(t, ref.New(), k.class, w, tensor.View{}), x, 1))
	}
}

// testRows compares every row of batches with the row alone.
func testRows(t *testing.T, be backends.Backend, k kind) {
	r := random(5)
	w, _ := weights(&r, k.dtype, 107, 61)
	l := linear(t, be, k.class, w, tensor.View{})
	x := activations(&r, 150, 61)
	alone := tensor.NewMatrix(x.Rows, l.Out())
	for i := range x.Rows {
		l.Apply(alone.Slice(i, i+1), x.Slice(i, i+1), team.Team{})
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 63, 64, 65, 128, 150} {
		sameBits(t, fmt.Sprintf("first %d rows", n), apply(l, x.Slice(0, n), 1), alone.Slice(0, n))
		sameBits(t, fmt.Sprintf("last %d rows", n), apply(l, x.Slice(x.Rows-n, x.Rows), 3), alone.Slice(x.Rows-n, x.Rows))
	}
}

// testThreads uses shapes large enough that a backend has reason to split them, in each direction.
func testThreads(t *testing.T, be backends.Backend, k kind) {
	for i, s := range []shape{{1, 1501, 700}, {2, 997, 512}, {64, 97, 301}, {501, 8, 256}, {5, 3, 2}} {
		r := random(i)
		w, _ := weights(&r, k.dtype, s.out, s.in)
		l, x := linear(t, be, k.class, w, tensor.View{}), activations(&r, s.rows, s.in)
		want := apply(l, x, 1)
		for _, threads := range []int{2, 3, 8} {
			sameBits(t, fmt.Sprintf("%v on %d threads", s, threads), apply(l, x, threads), want)
		}
	}
}

// testGuards gives matrices with gaps between rows and sentinels all around, and expects only y's own cells to change.
func testGuards(t *testing.T, be backends.Backend, k kind) {
	const pad, guard = 3, 16
	for i, s := range shapes() {
		r := random(i)
		w, _ := weights(&r, k.dtype, s.out, s.in)
		b, _ := weights(&r, k.dtype, s.out)
		l, dense := linear(t, be, k.class, w, b), activations(&r, s.rows, s.in)
		xs, ys := guarded(s.rows, s.in, pad, guard), guarded(s.rows, s.out, pad, guard)
		x, y := inner(xs, s.rows, s.in, pad, guard), inner(ys, s.rows, s.out, pad, guard)
		for row := range s.rows {
			copy(x.Row(row), dense.Row(row))
		}
		before, stored := slices.Clone(xs), slices.Concat(w.Data, b.Data)
		l.Apply(y, x, team.Team{})
		want := apply(l, dense, 1)
		sameBits(t, fmt.Sprintf("%v strided", s), y, want)
		for row := range s.rows { // put the sentinels back where y may write
			for c := range y.Row(row) {
				y.Row(row)[c] = sentinel(guard + row*(s.out+pad) + c)
			}
		}
		if !slices.Equal(ys, guarded(s.rows, s.out, pad, guard)) {
			t.Errorf("%v: Apply wrote outside y", s)
		}
		if !slices.Equal(xs, before) || !slices.Equal(slices.Concat(w.Data, b.Data), stored) {
			t.Errorf("%v: Apply changed its input", s)
		}
	}
}

func sentinel(i int) float32 { return float32(i) + 0.5 }

// guarded is room for a padded matrix with sentinels before and after it and in each gap.
func guarded(rows, cols, pad, guard int) []float32 {
	f := make([]float32, rows*(cols+pad)+2*guard)
	for i := range f {
		f[i] = sentinel(i)
	}
	return f
}

func inner(f []float32, rows, cols, pad, guard int) tensor.Matrix {
	end := guard + (rows-1)*(cols+pad) + cols
	return tensor.Matrix{Rows: rows, Cols: cols, Stride: cols + pad, Data: f[guard:end:end]}
}

// testAlignment lets the bytes begin at every offset, as tensors in a file may.
func testAlignment(t *testing.T, be backends.Backend, k kind) {
	r := random(9)
	w, _ := weights(&r, k.dtype, 19, 23)
	b, _ := weights(&r, k.dtype, 19)
	x := activations(&r, 4, 23)
	want := apply(linear(t, be, k.class, w, b), x, 1)
	for offset := range 9 {
		mw, mb := moved(w, offset), moved(b, offset)
		sameBits(t, fmt.Sprintf("bytes moved by %d", offset), apply(linear(t, be, k.class, mw, mb), x, 1), want)
	}
}

func moved(v tensor.View, offset int) tensor.View {
	room := make([]byte, offset+len(v.Data))
	copy(room[offset:], v.Data)
	v.Data = room[offset:]
	return v
}

// testBias checks that a bias of each type is added once, after the sum.
func testBias(t *testing.T, be backends.Backend, k kind) {
	r := random(11)
	for _, s := range []shape{{1, 1, 4}, {3, 50, 17}, {70, 101, 6}} {
		w, _ := weights(&r, k.dtype, s.out, s.in)
		x := activations(&r, s.rows, s.in)
		plain := apply(linear(t, be, k.class, w, tensor.View{}), x, 1)
		for _, bd := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
			b, values := weights(&r, bd, s.out)
			want := tensor.NewMatrix(s.rows, s.out)
			for row := range s.rows {
				for o, v := range plain.Row(row) {
					want.Row(row)[o] = v + float32(values[o])
				}
			}
			sameBits(t, fmt.Sprintf("%v with bias %v", s, bd), apply(linear(t, be, k.class, w, b), x, 2), want)
		}
	}
}

// testConcurrent uses one Linear from several goroutines, each with several threads.
func testConcurrent(t *testing.T, be backends.Backend, k kind) {
	r := random(13)
	w, _ := weights(&r, k.dtype, 67, 90)
	l := linear(t, be, k.class, w, tensor.View{})
	var wg sync.WaitGroup
	for g := range 4 {
		x := activations(&r, 1+7*g, 90)
		want := apply(l, x, 1)
		wg.Go(func() {
			for range 3 {
				sameBits(t, "concurrent", apply(l, x, 2), want)
			}
		})
	}
	wg.Wait()
}

// testRefusals offers views that don't fit together.
func testRefusals(t *testing.T, be backends.Backend, k kind) {
	r := random(17)
	w, _ := weights(&r, k.dtype, 4, 6)
	b, _ := weights(&r, k.dtype, 4)
	change := func(v tensor.View, shape []int, data []byte) tensor.View {
		return tensor.View{DType: v.DType, Shape: shape, Data: data}
	}
	long, _ := weights(&r, k.dtype, 5)
	for name, c := range map[string][2]tensor.View{
		"no shape":         {change(w, nil, w.Data), {}},
		"one dimension":    {change(w, []int{24}, w.Data), {}},
		"three dimensions": {change(w, []int{4, 3, 2}, w.Data), {}},
		"zero":             {change(w, []int{0, 6}, nil), {}},
		"negative":         {change(w, []int{-4, -6}, w.Data), {}},
		"no data":          {change(w, w.Shape, nil), {}},
		"short":            {change(w, w.Shape, w.Data[:len(w.Data)-k.dtype.Size()]), {}},
		"part of a value":  {change(w, w.Shape, w.Data[:len(w.Data)-1]), {}},
		"long":             {change(w, []int{4, 5}, w.Data), {}},
		"overflow":         {change(w, []int{1 << 62, 1 << 62}, w.Data), {}},
		"long bias":        {w, long},
		"bias 2D":          {w, change(b, []int{2, 2}, b.Data)},
		"bias short":       {w, change(b, b.Shape, b.Data[:k.dtype.Size()])},
	} {
		if _, err := be.Linear(k.class, c[0], c[1]); !errors.Is(err, sdk.ErrInvalid) {
			t.Errorf("%s: error %v, want sdk.ErrInvalid", name, err)
		}
	}
}

// testOtherTypes checks that Class and Linear agree about what is taken.
func testOtherTypes(t *testing.T, be backends.Backend) {
	for d := tensor.Invalid; d <= tensor.F8E5M2+1; d++ {
		class, err := be.Class(d, "")
		if err == nil {
			if class == "" {
				t.Errorf("Class(%v) is empty", d)
			}
			continue
		}
		if !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("Class(%v): error %v, want sdk.ErrUnsupported", d, err)
		}
		w := tensor.View{DType: d, Shape: []int{2, 2}, Data: make([]byte, 4*d.Size())}
		if _, err := be.Linear("f32", w, tensor.View{}); !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("Linear(%v): error %v, want sdk.ErrUnsupported", d, err)
		}
	}
}

// testMisuse expects a panic for shapes that only a programming error can make.
func testMisuse(t *testing.T, be backends.Backend, k kind) {
	r := random(19)
	w, _ := weights(&r, k.dtype, 4, 6)
	l := linear(t, be, k.class, w, tensor.View{})
	good := tensor.NewMatrix(2, 4)
	short := tensor.NewMatrix(2, 6)
	short.Data = short.Data[:11]
	overlap := tensor.NewMatrix(2, 6)
	overlap.Stride = 5
	for name, c := range map[string]struct{ y, x tensor.Matrix }{
		"rows":    {good, tensor.NewMatrix(3, 6)},
		"columns": {good, tensor.NewMatrix(2, 7)},
		"outputs": {tensor.NewMatrix(2, 5), tensor.NewMatrix(2, 6)},
		"short":   {good, short},
		"overlap": {good, overlap},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("Apply did not panic")
				}
			}()
			l.Apply(c.y, c.x, team.Team{})
		})
	}
}
