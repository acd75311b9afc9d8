package backendtest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/pimoe/pimoe/backends"
	"github.com/pimoe/pimoe/backends/ref"
	"github.com/pimoe/pimoe/backends/team"
	"github.com/pimoe/pimoe/backends/vec"
	"github.com/pimoe/pimoe/sdk"
	"github.com/pimoe/pimoe/sdk/tensor"
)

var activate = map[string]func(dst, gate, up []float32){"silu": vec.SiLUMul, "gelu_tanh": vec.GELUTanhMul}

// block is three matrices, [inter, hidden] twice and [hidden, inter].
type block struct{ gate, up, down tensor.View }

func (b block) each(f func(tensor.View) tensor.View) block {
	return block{f(b.gate), f(b.up), f(b.down)}
}

func newBlock(r *random, d tensor.DType, hidden, inter int) block {
	var b block
	b.gate, _ = weights(r, d, inter, hidden)
	b.up, _ = weights(r, d, inter, hidden)
	b.down, _ = weights(r, d, hidden, inter)
	return b
}

func ffn(t testing.TB, be backends.Backend, class, activation string, b block) backends.FFN {
	t.Helper()
	f, err := be.FFN(class, activation, b.gate, b.up, b.down)
	if err != nil {
		t.Fatalf("%s: FFN(%s, %s, %v): %v", be.Name(), class, activation, b.gate.Shape, err)
	}
	if f.Hidden() != b.gate.Shape[1] || f.Intermediate() != b.gate.Shape[0] {
		t.Fatalf("%s: FFN of %v says it is [%d, %d]", be.Name(), b.gate.Shape, f.Intermediate(), f.Hidden())
	}
	return f
}

// testBlock composes the expert block of Linears and of package vec, row by row, and of ref where that has the class, and
// expects the same bits for any rows and threads, packed or not, with gaps between rows.
func testBlock(t *testing.T, be backends.Backend, k kind) {
	for i, s := range []struct{ hidden, inter int }{{1, 1}, {16, 16}, {33, 17}, {64, 171}, {120, 96}, {31, 300}} {
		for name, act := range activate {
			r := random(i)
			b := newBlock(&r, k.dtype, s.hidden, s.inter)
			x := activations(&r, 40, s.hidden)
			gate, up := linear(t, be, k.class, b.gate, tensor.View{}), linear(t, be, k.class, b.up, tensor.View{})
			down := linear(t, be, k.class, b.down, tensor.View{})
			want := tensor.NewMatrix(x.Rows, s.hidden)
			for row := range x.Rows {
				g, u := apply(gate, x.Slice(row, row+1), 1), apply(up, x.Slice(row, row+1), 1)
				act(g.Data, g.Data, u.Data)
				down.Apply(want.Slice(row, row+1), g, team.Team{})
			}
			blocks := map[string]backends.FFN{"row-major": ffn(t, be, k.class, name, b),
				"packed":        ffn(t, be, k.class, name, b.each(func(v tensor.View) tensor.View { return packed(t, be, k.class, v) })),
				"packed, moved": ffn(t, be, k.class, name, b.each(func(v tensor.View) tensor.View { return moved(packed(t, be, k.class, v), 3) }))}
			if promisesRef(k) {
				blocks["by ref"] = ffn(t, ref.New(), k.class, name, b)
			}
			for how, f := range blocks {
				for _, rows := range []int{0, 1, 2, 5, 13, 40} {
					if how == "by ref" && rows > 3 {
						continue
					}
					for _, threads := range []int{1, 3} {
						const pad = 5
						room := guarded(rows+1, s.hidden, pad, 8)
						y := tensor.Matrix{Cols: s.hidden, Stride: s.hidden + pad}
						if rows > 0 {
							y = inner(room, rows, s.hidden, pad, 8)
						}
						p := team.NewPool(threads, team.Options{})
						f.Apply(y, x.Slice(0, rows), p.Team())
						p.Close()
						sameBits(t, fmt.Sprintf("%v %s %s, %d rows on %d threads", s, name, how, rows, threads), y, want.Slice(0, rows))
						for row := range rows {
							for c := range y.Row(row) {
								y.Row(row)[c] = sentinel(8 + row*(s.hidden+pad) + c)
							}
						}
						for c, v := range room {
							if v != sentinel(c) {
								t.Fatalf("%v, %d rows: Apply wrote outside y", s, rows)
							}
						}
					}
				}
			}
		}
	}
}

// testBlockRefusals offers matrices that are no block, and an activation that nobody knows.
func testBlockRefusals(t *testing.T, be backends.Backend, k kind) {
	r := random(29)
	good := newBlock(&r, k.dtype, 16, 32)
	other := newBlock(&r, k.dtype, 32, 16)
	if _, err := be.FFN(k.class, "relu", good.gate, good.up, good.down); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("unknown activation: error %v, want sdk.ErrUnsupported", err)
	}
	if _, err := be.FFN("f31", "silu", good.gate, good.up, good.down); !errors.Is(err, sdk.ErrUnsupported) {
		t.Errorf("unknown class: error %v, want sdk.ErrUnsupported", err)
	}
	short := good.gate
	short.Data = short.Data[:len(short.Data)-2]
	for name, b := range map[string]block{"gate": {other.gate, good.up, good.down}, "up": {good.gate, other.up, good.down},
		"down": {good.gate, good.up, other.down}, "short": {short, good.up, good.down}, "nothing": {}} {
		if _, err := be.FFN(k.class, "silu", b.gate, b.up, b.down); !errors.Is(err, sdk.ErrInvalid) && (name != "nothing" || err == nil) {
			t.Errorf("%s does not fit: error %v, want sdk.ErrInvalid", name, err)
		}
	}
	f := ffn(t, be, k.class, "silu", good)
	defer func() {
		if recover() == nil {
			t.Error("Apply of rows that are too short did not panic")
		}
	}()
	f.Apply(tensor.NewMatrix(2, 16), tensor.NewMatrix(2, 15), team.Team{})
}
