package backendtest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/pack"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

// packed is w as the class wants it, or w itself where that is row-major.
func packed(t testing.TB, be backends.Backend, class string, w tensor.View) tensor.View {
	t.Helper()
	packing := be.Packing(class)
	if packing == "" {
		return w
	}
	v, err := pack.Pack(packing, w)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// testPacked: packed weights give the bits of row-major ones, wherever they begin, and damaged ones are refused. The oracle
// takes them, too.
func testPacked(t *testing.T, be backends.Backend, k kind) {
	for i, s := range append(shapes(), shape{40, 33, 1100}, shape{2, 40, 4200}) {
		r := random(i)
		w, _ := weights(&r, k.dtype, s.out, s.in)
		x := activations(&r, s.rows, s.in)
		v := packed(t, be, k.class, w)
		want := apply(linear(t, be, k.class, w, tensor.View{}), x, 1)
		sameBits(t, fmt.Sprintf("%v packed", s), apply(linear(t, be, k.class, v, tensor.View{}), x, 2), want)
		sameBits(t, fmt.Sprintf("%v packed, moved", s), apply(linear(t, be, k.class, moved(v, 1+i), tensor.View{}), x, 1), want)
		if s.rows*s.out*s.in < 1<<20 && promisesRef(k) {
			sameBits(t, fmt.Sprintf("%v packed, by ref", s), apply(linear(t, ref.New(), k.class, v, tensor.View{}), x, 1), want)
		}
	}
	r := random(23)
	w, _ := weights(&r, k.dtype, 20, 70)
	good := packed(t, be, k.class, w)
	if good.Packing == "" {
		return
	}
	short, shape, name := good, good, good
	short.Data = short.Data[:len(short.Data)-64]
	shape.Shape = []int{20, 140}
	name.Packing = "n0"
	for what, v := range map[string]tensor.View{"short": short, "shape": shape, "unknown packing": name} {
		if _, err := be.Linear(k.class, v, tensor.View{}); !errors.Is(err, sdk.ErrInvalid) && !errors.Is(err, sdk.ErrUnsupported) {
			t.Errorf("%s: error %v, want sdk.ErrInvalid or sdk.ErrUnsupported", what, err)
		}
	}
}

// testPages puts weights, rows and results at the very end of readable memory, one after the other: whoever reads or writes
// beyond them ends the test.
func testPages(t *testing.T, be backends.Backend, k kind) {
	for i, s := range []shape{{1, 64, 64}, {1, 17, 33}, {7, 48, 128}, {13, 21, 66}, {40, 100, 2}, {3, 16, 600}} {
		r := random(i)
		w, _ := weights(&r, k.dtype, s.out, s.in)
		x := activations(&r, s.rows, s.in)
		v := packed(t, be, k.class, w)
		want := apply(linear(t, be, k.class, v, tensor.View{}), x, 1)
		v.Data = atEnd(t, v.Data)
		x.Data = floatsAtEnd(t, x.Data)
		y := want
		y.Data = floatsAtEnd(t, make([]float32, len(want.Data)))
		linear(t, be, k.class, v, tensor.View{}).Apply(y, x, team.Team{})
		sameBits(t, fmt.Sprintf("%v at the end of a page", s), y, want)
	}
}
