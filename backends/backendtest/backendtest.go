// Package backendtest holds any backend to the contract of package backends: shapes of every awkward size, rows and
// threads that never change a bit, nothing written beside y, wrong input refused. A backend that promises a class of
// package ref must equal it to the bit; in every class the result must lie within the rounding error that float32
// sums may have, with gonum's float64 product as the judge, which shares no code with ref.
//
// Tests of backends call Test with a constructor. The package refuses to be linked into a program.
package backendtest

import (
	"fmt"
	"math"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// kind is a numeric class on weights of a type.
type kind struct {
	class string
	dtype tensor.DType
}

// classes are all that backends compute, the defaults first.
var classes = []string{"f32", "bf16w-f32", "f16w-f32", backends.BF16Class, backends.BF16DotClass, "int8g32", "cuda-bf16", "cuda-f16"}

// floats is whether a class computes in float32 throughout.
func floats(class string) bool { return class == "f32" || class == "bf16w-f32" || class == "f16w-f32" }

// Test runs the suite; make gives a fresh backend.
func Test(t *testing.T, make func() backends.Backend) {
	be := make()
	if be.Name() == "" {
		t.Error("the backend has no name")
	}
	taken := 0
	for _, d := range []tensor.DType{tensor.F32, tensor.BF16, tensor.F16} {
		for _, class := range classes {
			if got, err := be.Class(d, class); err != nil || got != class {
				continue
			}
			taken++
			k := kind{class, d}
			t.Run(d.String()+" "+class, func(t *testing.T) {
				for name, test := range map[string]func(*testing.T, backends.Backend, kind){
					"oracles": testOracles, "bit patterns": testPatterns, "rows": testRows, "threads": testThreads, "guards": testGuards,
					"alignment": testAlignment, "bias": testBias, "concurrent": testConcurrent, "refusals": testRefusals, "packed": testPacked,
					"pages": testPages, "block": testBlock, "block refusals": testBlockRefusals, "misuse": testMisuse,
				} {
					t.Run(name, func(t *testing.T) { test(t, be, k) })
				}
			})
		}
	}
	if taken == 0 {
		t.Error("the backend takes none of F32, BF16 and F16")
	}
	t.Run("other types", func(t *testing.T) { testOtherTypes(t, be) })
}

// shape is one case: [rows, in] times [out, in].
type shape struct{ rows, out, in int }

// shapes cover each remainder of tiles up to 16, one row and many, and matrices larger than a block of work.
func shapes() []shape {
	var s []shape
	for n := 1; n <= 17; n++ {
		s = append(s, shape{1, n, 33 - n}, shape{n, n, n}, shape{3, 18 - n, n})
	}
	return append(s, shape{1, 1, 1000}, shape{2, 100, 1}, shape{1, 199, 257}, shape{67, 53, 40}, shape{5, 104, 88},
		shape{130, 7, 65}, shape{33, 301, 96}, shape{1, 1024, 512})
}

func (s shape) String() string { return fmt.Sprintf("%dx%dx%d", s.rows, s.out, s.in) }

// linear makes a Linear or ends the test.
func linear(t testing.TB, be backends.Backend, class string, w, bias tensor.View) backends.Linear {
	t.Helper()
	l, err := be.Linear(class, w, bias)
	if err != nil {
		t.Fatalf("%s: Linear(%s, %v %v %q): %v", be.Name(), class, w.DType, w.Shape, w.Packing, err)
	}
	if l.Out() != w.Shape[0] || l.In() != w.Shape[1] {
		t.Fatalf("%s: Linear of %v says it is [%d, %d]", be.Name(), w.Shape, l.Out(), l.In())
	}
	return l
}

// apply is a fresh y, poisoned before the call.
func apply(l backends.Linear, x tensor.Matrix, threads int) tensor.Matrix {
	y := tensor.NewMatrix(x.Rows, l.Out())
	for i := range y.Data {
		y.Data[i] = float32(math.NaN())
	}
	p := team.NewPool(threads, team.Options{})
	defer p.Close()
	l.Apply(y, x, p.Team())
	return y
}

// sameBits reports the first difference; a NaN equals any NaN, since which of two payloads survives an addition is not promised.
func sameBits(t testing.TB, what string, got, want tensor.Matrix) {
	t.Helper()
	if got.Rows != want.Rows || got.Cols != want.Cols {
		t.Errorf("%s: %dx%d, want %dx%d", what, got.Rows, got.Cols, want.Rows, want.Cols)
		return
	}
	for r := range got.Rows {
		for c, g := range got.Row(r) {
			w := want.Row(r)[c]
			if math.Float32bits(g) != math.Float32bits(w) && (g == g || w == w) {
				t.Errorf("%s: row %d output %d is %g (%08x), want %g (%08x)", what, r, c, g, math.Float32bits(g), w, math.Float32bits(w))
				return
			}
		}
	}
}
